"""The commands that the pages show: each fenced bash block, and how it is checked.

A block is run as it stands, with trainings made small (tests/docs/stand_in.py), unless a comment
above it says otherwise, and why:

    <!-- checked: parse, needs two machines -->      its options are parsed, and nothing is run
    <!-- checked: test tests/docs/test_plugins.py -->   a test runs it

Programs that are not the project's (docker, ffmpeg) are left to the reader, but for what
`docker run` gives to the image.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tests.conftest import REPO

QUICKSTART = "configs/experiment/quickstart.yaml"
FENCE = re.compile(
    r"(?:<!-- checked: ([^>]*?) -->\n+)?^```bash\n(.*?)^```$", re.MULTILINE | re.DOTALL
)
FILE = re.compile(
    r"^```(?:python|yaml)\n# (\S+\.(?:py|yaml))\n(.*?)^```$", re.MULTILINE | re.DOTALL
)


class Block(NamedTuple):
    """Commands of a page.

    Args:
        page: Path of the page in the repository.
        line: Where the commands begin.
        text: The commands.
        how: `run`, `parse` or `test`.
        why: Why it is not run, or the test's file.
    """

    page: str
    line: int
    text: str
    how: str
    why: str


def pages() -> list[Path]:
    """README, CONTRIBUTING and all pages of docs/."""
    return [REPO / "README.md", REPO / "CONTRIBUTING.md", *sorted((REPO / "docs").rglob("*.md"))]


def blocks(page: Path) -> Iterator[Block]:
    """The blocks of a page.

    Args:
        page: The page.

    Raises:
        ValueError: A comment says something else than `parse, WHY` or `test FILE`.
    """
    text = page.read_text(encoding="utf-8")
    name = page.relative_to(REPO).as_posix()
    for found in FENCE.finditer(text):
        line = text.count("\n", 0, found.start(2)) + 1
        how, why = "run", ""
        if found[1] is not None:
            said = re.fullmatch(r"(parse), (.+)|(test) (\S+)", found[1], re.DOTALL)
            if said is None:
                raise ValueError(
                    f"{name}:{line}: the comment says {found[1]!r}; expected "
                    "'parse, WHY' or 'test FILE'"
                )
            how, why = (said[1], said[2]) if said[1] else (said[3], said[4])
        yield Block(name, line, found[2], how, why)


def files(page: Path) -> dict[str, str]:
    """Files that a page shows, by the name in their first line: `# my_sr/banding.py`."""
    return dict(FILE.findall(page.read_text(encoding="utf-8")))
