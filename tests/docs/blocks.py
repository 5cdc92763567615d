"""The commands that the pages show: each fenced bash block, and how it is checked.

A block is run as it stands, with trainings made small (tests/docs/stand_in.py), unless a comment
above it says otherwise, and why:

    <!-- checked: parse, needs two machines -->      its options are parsed, and nothing is run
    <!-- checked: test tests/docs/test_plugins.py -->   a test runs it

What stands in the text is parsed, too: commands as code, or after a `$ ` in what a block prints,
and options alone. Programs that are not the project's (docker, ffmpeg) are left to the reader, but
for what `docker run` gives to the image.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tests.conftest import REPO
from tests.docs.stand_in import PROGRAMS

QUICKSTART = "configs/experiment/quickstart.yaml"
FENCE = re.compile(
    r"(?:<!-- checked: ([^>]*?) -->\n+)?^```bash\n(.*?)^```$", re.MULTILINE | re.DOTALL
)
FILE = re.compile(
    r"^```(?:python|yaml)\n# (\S+\.(?:py|yaml))\n(.*?)^```$", re.MULTILINE | re.DOTALL
)
NO_PROSE = re.compile(r"^ *```.*?^ *```$|^#[^\n]*$", re.MULTILINE | re.DOTALL)
NOT_OURS = (
    *("--node_rank", "--max-restarts", "--signal", "--requeue"),  # torchrun's and SLURM's
    *("--user", "--shm-size", "--gpus all", "--stop-timeout"),  # docker's
)
CODE = re.compile(
    rf"(?<!`)`((?:\w+=\S*\s+)*(?:{'|'.join(PROGRAMS)}|main\.py)\s[^`]+|--\w[^`]*)`(?!`)"
)
# Not one that shows an error.
SESSION = re.compile(r"^\$ ((?:.*\\\n)*.*)$(?!\nerror: )", re.MULTILINE)


class Block(NamedTuple):
    """Commands of a page.

    Args:
        page: Path of the page in the repository.
        line: Where the commands begin.
        text: The commands.
        how: `run`, `parse`, `test`, or `option` where no command is named.
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


def inline(page: Path) -> Iterator[Block]:
    """Commands and options in the text of a page, each once.

    `...` as the configuration is the quickstart's. Any other, and ` | ` between choices, ends what
    is looked at. A module or command without arguments is only named.

    Args:
        page: The page.
    """
    text = page.read_text(encoding="utf-8")
    prose = NO_PROSE.sub(lambda other: re.sub(r"[^\n]", " ", other[0]), text)
    seen = set()
    for found in sorted([*CODE.finditer(prose), *SESSION.finditer(text)], key=re.Match.start):
        typed = " ".join(found[1].replace("\\\n", " ").split())
        typed = re.sub(r"^main\.py", "python main.py", typed)
        typed = re.sub(r"(main\.py \w+)(?: --config)? \.\.\.", rf"\1 --config {QUICKSTART}", typed)
        typed = re.split(r" (?:\.\.\.|\|)(?= |$)", typed)[0]
        typed = re.sub(r"^python (?:-m [\w.]+|main\.py \w+)$", r"\g<0> --help", typed)
        if typed not in seen and not typed.startswith(NOT_OURS):
            seen.add(typed)
            line = text.count("\n", 0, found.start()) + 1
            how = "option" if typed.startswith("--") else "parse"
            yield Block(page.relative_to(REPO).as_posix(), line, typed, how, "named in the text")


def files(page: Path) -> dict[str, str]:
    """Files that a page shows, by the name in their first line: `# my_sr/banding.py`."""
    return dict(FILE.findall(page.read_text(encoding="utf-8")))
