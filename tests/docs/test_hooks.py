"""The site's own part: links and sections between the repository and the site."""

from __future__ import annotations

from docs import hooks


def test_a_section_of_the_readme_is_included_with_its_links() -> None:
    line = "[Start](../README.md#start) <!-- include -->"
    text = hooks.site_text(f"Before.\n\n{line}\n\nAfter.", "index.md")
    assert text.startswith("Before.\n\nLinux or macOS")
    assert "](repository/benchmarks/results/quickstart.json)" in text
    assert text.endswith("\n\nAfter.")
    assert "](docs/" not in text
