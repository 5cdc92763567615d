"""How the commands of the pages are checked: what `make docs-commands` relies on."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.conftest import REPO
from tests.docs import commands
from tests.docs.blocks import QUICKSTART, blocks, inline, pages

TEXT = """# `make` is no command in a heading: `make nothing`
`make test`, `make test` again, and `SEED=1 python -m
benchmarks.photographs --only NAME | OTHER`; and `main.py fit ... --run.name a`.
```
$ python main.py test --config ... \\
  --run.name b
make this an output
```
`--run.name NAME`, `--signal=USR1` of SLURM, `docker run`, `python -m a.b`, `main.py compare`
and `--x ...`.
"""


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.relative_to(REPO).as_posix())
def test_every_block_says_how_it_is_checked(page: Path) -> None:
    for block in blocks(page):
        assert block.how in ("run", "parse", "test")
        assert block.how != "test" or commands.tested(block) == "ok"
    comments = re.findall(r"^<!-- checked:", page.read_text(), re.MULTILINE)
    assert len(comments) == sum(block.how != "run" for block in blocks(page))


def test_commands_and_options_in_the_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.docs.blocks.REPO", tmp_path)
    (tmp_path / "a.md").write_text(TEXT)
    assert [(block.line, block.how, block.text) for block in inline(tmp_path / "a.md")] == [
        (2, "parse", "make test"),
        (2, "parse", "SEED=1 python -m benchmarks.photographs --only NAME"),
        (3, "parse", f"python main.py fit --config {QUICKSTART} --run.name a"),
        (5, "parse", f"python main.py test --config {QUICKSTART} --run.name b"),
        (9, "option", "--run.name NAME"),
        (9, "parse", "docker run"),
        (9, "parse", "python -m a.b --help"),
        (9, "parse", "python main.py compare --help"),
        (10, "option", "--x"),
    ]
