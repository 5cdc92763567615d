"""How the commands of the pages are checked: what `make docs-commands` relies on."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.conftest import REPO
from tests.docs import commands, stand_in
from tests.docs.blocks import Block, blocks, files, pages

PAGE = """# Page
```bash
python main.py fit
```

<!-- checked: parse, needs two machines -->
```bash
torchrun main.py fit
```
"""


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.relative_to(REPO).as_posix())
def test_every_block_says_how_it_is_checked(page: Path) -> None:
    for block in blocks(page):
        assert block.how in ("run", "parse", "test")
        assert block.how != "test" or (REPO / block.why).is_file()
    assert page.read_text().count("<!-- checked:") == sum(b.how != "run" for b in blocks(page))


def test_blocks_of_a_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.docs.blocks.REPO", tmp_path)
    (tmp_path / "a.md").write_text(PAGE)
    assert list(blocks(tmp_path / "a.md")) == [
        Block("a.md", 3, "python main.py fit\n", "run", ""),
        Block("a.md", 8, "torchrun main.py fit\n", "parse", "needs two machines"),
    ]
    (tmp_path / "a.md").write_text(PAGE.replace("parse, needs", "needs"))
    with pytest.raises(ValueError, match=r"a.md:8: the comment says 'needs two machines'"):
        list(blocks(tmp_path / "a.md"))


def test_files_that_a_page_shows() -> None:
    shown = files(REPO / "docs" / "plugins" / "degradation.md")
    assert set(shown) == {"my_sr/banding.py", "banding.yaml"}


@pytest.mark.parametrize(
    ("typed", "parse", "how", "run"),
    [
        ("python main.py fit --config a.yaml", True, "options parsed", "--print_config"),
        ("python main.py fit --config a.yaml", False, "run small", "--trainer.max_steps 2"),
        (
            "python main.py fit --model.help lightning_modules.x.Y",
            False,
            "run",
            "lightning_modules.x.Y",
        ),
        (
            "torchrun --nnodes 2 main.py fit --config a.yaml",
            False,
            "options parsed",
            "--print_config",
        ),
        (
            "sbatch docs/train.sbatch a.yaml --run.name b",
            True,
            "options parsed",
            "--config a.yaml --run.name b",
        ),
        ("python -m datamodules.pack a b", False, "run", "datamodules.pack a b"),
        (
            "python -m datamodules.pack a b --name c",
            True,
            "options known",
            "--options datamodules.pack",
        ),
        ("make test", False, "make -n", "-n test"),
        ("pip install -e .[s3]", False, "extras are there", "-c"),
    ],
)
def test_what_is_run(typed: str, parse: bool, how: str, run: str) -> None:
    program, *args = typed.split()
    said, words = stand_in.command(program, args, parse)
    assert said == how
    assert run in " ".join(words)
    assert words[0] in (sys.executable, "make")


def test_an_extra_that_is_not_there() -> None:
    with pytest.raises(ValueError, match="there is no extra s4"):
        stand_in.command("pip", ["install", "-e", ".[s4]"], False)


def test_a_block_is_run_in_a_folder_like_a_checkout(tmp_path: Path) -> None:
    page = REPO / "docs" / "plugins" / "degradation.md"
    commands.make_folder(tmp_path, page)
    assert (tmp_path / "main.py").resolve() == REPO / "main.py"
    assert (tmp_path / "my_sr" / "banding.py").is_file()
    assert len(list((tmp_path / "my" / "photos").iterdir())) == 12

    def results(text: str) -> list[tuple[str, str]]:
        block = Block("docs/a.md", 1, text, "run", "")
        return [(row.how, row.result) for row in commands.check(block, tmp_path)]

    good = "python -c 'print(1)'"
    assert results(good) == [("run", "ok")]
    assert results("make clean") == [("make -n", "ok")]  # by make itself, not by its stand-in again
    assert results("ls my/photos") == [("run", "ok")]
    assert results(f"{good}\nls nowhere") == [("run", "ok"), ("run", results("ls nowhere")[0][1])]
    assert "nowhere" in results("ls nowhere")[0][1]
    (status,) = results("python -c 'raise SystemExit(3)'")
    assert status[1] != "ok"
