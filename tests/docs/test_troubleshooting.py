"""docs/troubleshooting.md: every message that it explains is still one that the code can give."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache

import pytest

from tests.conftest import REPO
from tests.syntax import parsed

ROOMS = ("commands", "datamodules", "lightning_modules", "callbacks", "degradations", "files")
TEXT = (REPO / "docs" / "troubleshooting.md").read_text()
HEADINGS = re.findall(r"^### (.+)$", TEXT, re.MULTILINE)


@cache
def messages() -> str:
    """All texts of the code, a line each; `...` where a value is filled in."""
    files = (path for room in ROOMS for path in sorted((REPO / room).rglob("*.py")))
    return "\n".join(text for path in files for text in texts(parsed(path)))


def texts(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        text = ""
        if isinstance(node, ast.JoinedStr):
            values = (v.value if isinstance(v, ast.Constant) else "..." for v in node.values)
            text = "".join(map(str, values))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            text = node.value
        if text:
            yield normal(text)


def normal(text: str) -> str:
    """With one `...` for what is filled in, also by logging's `%s`, and one space for any."""
    filled = re.sub(r"%(\.\d)?[sdrfg]", "...", text)
    return re.sub(r"\s+", " ", re.sub(r"(\.\.\.)+", "...", filled))


@pytest.mark.parametrize("heading", HEADINGS)
def test_the_message_is_one_of_the_code(heading: str) -> None:
    assert re.fullmatch(r"`[^`]+`", heading)
    message = heading.strip("`")
    assert len(message.split()) > 1
    assert normal(message) in messages()


def test_a_message_that_is_gone_would_be_noticed() -> None:
    assert len(HEADINGS) > 40
    assert len(HEADINGS) == len(set(HEADINGS))
    assert "data.init_args.crop_sise is ..., not a multiple" not in messages()


def test_what_is_filled_in_is_left_open() -> None:
    tree = ast.parse('f"a {x!r}{y} is" f" {z:g} b"; "%s of %.1f%%: \\n c"')
    assert {"a ... is ... b", "... of ...%%: c"} <= set(texts(tree))
