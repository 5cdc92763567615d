"""Every file that README or a page of docs/ names exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.conftest import REPO
from tests.docs.blocks import pages

NAMED = (
    r"(?<![\w/.$-])((?:configs|docs|callbacks|tests|benchmarks|commands|datamodules)/[\w./-]+\.\w+)"
)
MADE = "configs/schema/"  # by `make docs`
YOURS = ("NAME", "mine")  # what a reader's own files are called


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.relative_to(REPO).as_posix())
def test_named_files_exist(page: Path) -> None:
    named = re.findall(NAMED, page.read_text(encoding="utf-8"))
    ours = [n for n in named if Path(n).stem not in YOURS and not n.startswith(MADE)]
    missing = [name for name in ours if not (REPO / name).exists()]
    assert not missing


def test_readme_names_some() -> None:
    assert len(re.findall(NAMED, (REPO / "README.md").read_text())) > 5
