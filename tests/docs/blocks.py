"""The commands that the pages show: each fenced bash block, and how it is checked.

A block is run as it stands, with trainings made small (tests/docs/stand_in.py), unless a comment
above it says otherwise, and why:

    <!-- checked: parse, needs two machines -->      its options are parsed, and nothing is run
    <!-- checked: test tests/docs/test_plugins.py -->   a test runs it

Programs that are not the project's (docker, ffmpeg) are left to the reader, but for what
`docker run` gives to the image.
"""

import re
from dataclasses import dataclass

from tests.conftest import REPO

QUICKSTART = "configs/experiment/quickstart.yaml"
FENCE = r"(?:<!-- checked: ([^>]*?) -->\n+)?^```bash\n(.*?)^```$"
FILE = r"^```(?:python|yaml)\n# (\S+\.(?:py|yaml))\n(.*?)^```$"
FLAGS = re.MULTILINE | re.DOTALL


@dataclass
class Block:
    """Commands of a page.

    Args:
        place: Page and line.
        text: The commands.
        how: `run`, `parse` or `test`.
        why: Why it is not run, or the test's file.
    """

    place: str
    text: str
    how: str = "run"
    why: str = ""


def pages():
    """README, CONTRIBUTING and all pages of docs/."""
    return [REPO / "README.md", REPO / "CONTRIBUTING.md", *sorted((REPO / "docs").rglob("*.md"))]


def blocks(page):
    """Yield the blocks of a page.

    Raises:
        ValueError: A comment says something else than `parse, WHY` or `test FILE`.
    """
    text = page.read_text()
    for match in re.finditer(FENCE, text, FLAGS):
        line = text.count("\n", 0, match.start(2)) + 1
        block = Block(f"{page.relative_to(REPO)}:{line}", match[2])
        if match[1] is not None:
            comment = re.fullmatch(r"(parse), (.+)|(test) (\S+)", match[1], re.DOTALL)
            if comment is None:
                raise ValueError(f"{block.place}: expected 'parse, WHY' or 'test FILE': {match[1]}")
            block.how = comment[1] or comment[3]
            block.why = comment[2] or comment[4]
        yield block


def files(page):
    """Files that a page shows, by the name in their first line: `# my_sr/banding.py`."""
    return dict(re.findall(FILE, page.read_text(), FLAGS))
