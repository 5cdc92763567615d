"""Check every command of every page: ``make docs-commands``, for maintainers; takes about an hour.

A page's blocks are run one after another in a folder of the page's own, which looks like a checkout
and holds small images and shards. Prints a table, and ends with 1 where a command failed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tests.conftest import REPO
from tests.docs.blocks import Block, blocks, pages
from tests.docs.folder import make_folder
from tests.docs.parsed import parsed
from tests.docs.stand_in import FOLDER

LONGEST = 1200  # seconds of one block


class Row(NamedTuple):
    """One command and what came of it.

    Args:
        place: Page and line.
        command: As typed, in one line.
        how: How it was checked.
        result: `ok`, or why not.
    """

    place: str
    command: str
    how: str
    result: str


class Checks:
    """The checks of a page's commands, in its folder.

    Args:
        folder: Of `make_folder`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {
            "HOME": str(folder),
            "ENLARGER_DATA": str(folder / "my" / "data"),
            "ENLARGER_WEIGHTS": os.environ.get("ENLARGER_WEIGHTS", str(folder / "my" / "weights")),
            "HF_HUB_OFFLINE": "1",
        }

    def check(self, block: Block) -> Iterator[Row]:
        """Run or parse a block, and say what came of each of its commands.

        Args:
            block: Of the page that the folder was made for.
        """
        place, first = f"{block.page}:{block.line}", block.text.strip().splitlines()[0]
        if block.how == "test":
            yield Row(place, first, f"test {block.why}", tested(block))
            return
        failed, entries = self.run(block)
        for entry in entries:
            result = "ok" if entry["status"] == 0 else str(failed or f"status {entry['status']}")
            if entry["how"] == "parsed":
                result = parsed(entry["words"], self.folder, self.environment | entry["set"])
            yield Row(place, shlex.join(entry["command"]), entry["how"], result)
        if not entries or (failed and entries[-1]["status"] == 0):
            yield Row(place, first, "run", failed or "ok")

    def run(self, block: Block) -> tuple[str, list[dict[str, Any]]]:
        """Run a block with the stand-ins.

        Args:
            block: Of the page.

        Returns:
            Why it failed, or nothing, and what its stand-ins noted.
        """
        log = self.folder / ".log"
        log.unlink(missing_ok=True)
        environment = {
            **os.environ,
            **self.environment,
            "PATH": f"{self.folder / FOLDER}{os.pathsep}{os.environ['PATH']}",
            "DOCS_LOG": str(log),
            "DOCS_CHECK": block.how,
        }
        failed = _failure(["bash", "-euo", "pipefail", "-c", block.text], self.folder, environment)
        noted = log.read_text().splitlines() if log.is_file() else []
        entries = [json.loads(line) for line in noted]
        return failed, entries


def _failure(command: list[str], folder: Path, environment: dict[str, str]) -> str:
    """The last line of what a command said, if it failed. It leaves no process behind."""
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        out, err = process.communicate(timeout=LONGEST)
    except subprocess.TimeoutExpired:
        return f"not done in {LONGEST} s"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    if not process.returncode:
        return ""
    said = err.strip() or out.strip() or f"status {process.returncode}"
    return said.splitlines()[-1][-150:]


def tested(block: Block) -> str:
    """`ok` where a block's test reads the commands off its page, else what it does not.

    Args:
        block: Whose comment names a test.
    """
    test = REPO / block.why
    if not test.is_file():
        return "there is no such test"
    text, page = test.read_text(encoding="utf-8"), Path(block.page)
    named = f'"{page.name}"' in text or f'"{page.parent.name}"' in text
    reads = named and "from tests.docs.blocks import" in text
    return "ok" if reads else f"the test does not read the blocks of {page.name}"


def main(args: Sequence[str] | None = None) -> int:
    """Check the pages and print the table.

    Args:
        args: Arguments as typed; by default those of the process.

    Returns:
        0, or 1 where a command failed.
    """
    parser = argparse.ArgumentParser(prog="python -m tests.docs.commands", description=__doc__)
    parser.add_argument("pages", nargs="*", type=Path, help="pages to check (default: all)")
    asked = [path.resolve() for path in parser.parse_args(args).pages] or pages()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what runs is ended, too
    rows: list[Row] = []
    for page in asked:
        with tempfile.TemporaryDirectory() as scratch:
            shown = list(blocks(page))
            if any(block.how != "test" for block in shown):
                make_folder(Path(scratch), page)
            checks = Checks(Path(scratch))
            for block in shown:
                for row in checks.check(block):
                    rows.append(row)
                    line = (row.place, row.command[:100], row.how, row.result)
                    print(f"| {' | '.join(line)} |", flush=True)
    failed = sum(row.result != "ok" for row in rows)
    print(f"{len(rows)} commands of {len(asked)} pages, {failed} failed")
    return int(failed > 0)


if __name__ == "__main__":
    raise SystemExit(main())
