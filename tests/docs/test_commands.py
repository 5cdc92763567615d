"""How the commands of the pages are checked: what `make docs-commands` relies on."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.conftest import REPO
from tests.docs import commands
from tests.docs.blocks import blocks, pages


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.relative_to(REPO).as_posix())
def test_every_block_says_how_it_is_checked(page: Path) -> None:
    for block in blocks(page):
        assert block.how in ("run", "parse", "test")
        assert block.how != "test" or commands.tested(block) == "ok"
    comments = re.findall(r"^<!-- checked:", page.read_text(), re.MULTILINE)
    assert len(comments) == sum(block.how != "run" for block in blocks(page))
