"""The site's own part: links and sections between the repository and the site."""

from __future__ import annotations

import pytest

from docs import hooks

README = """# Name
## Start
Type `make` ([how](docs/data.md#pack), [numbers](benchmarks/results/x.json)).

```bash
# Train
```
### On several machines
As many as there are.
## Train
Yes.
"""


@pytest.mark.parametrize(
    ("page", "written", "shown"),
    [
        ("data.md", "[a](predict.md#x)", "[a](predict.md#x)"),
        ("data.md", "[a](#x) [b](https://a.b/c.md)", "[a](#x) [b](https://a.b/c.md)"),
        ("data.md", "[a](../configs/x.yaml)", "[a](repository/configs/x.yaml)"),
        ("methods/a.md", "![a](../../b/x.png)", "![a](../repository/b/x.png)"),
        ("methods/a.md", "[a](../data.md#x)", "[a](../data.md#x)"),
        ("methods/a.md", "[a](../../README.md#start)", "[a](../index.md#start)"),
        (
            "a.md",
            "```\n[a](../b.py)\n```\n[a](../b.py)",
            "```\n[a](../b.py)\n```\n[a](repository/b.py)",
        ),
    ],
)
def test_links(page: str, written: str, shown: str) -> None:
    assert hooks.site_text(written, page) == shown


def test_a_section_of_the_readme_is_included_with_its_links() -> None:
    line = "[Start](../README.md#start) <!-- include -->"
    text = hooks.site_text(f"Before.\n\n{line}\n\nAfter.", "index.md")
    assert text.startswith("Before.\n\nPython 3.11 or newer")
    assert "](repository/benchmarks/results/quickstart.json)" in text
    assert text.endswith("\n\nAfter.")
    assert "](docs/" not in text
