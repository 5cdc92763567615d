"""Check every command of every page: ``make docs-commands``, for maintainers; takes about an hour.

A page's blocks are run one after another in a folder of the page's own, which looks like a checkout
and holds small pictures and shards. Prints a table, and ends with 1 where a command failed.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from datamodules import pack
from tests.conftest import REPO
from tests.docs.blocks import Block, blocks, files, pages
from tests.docs.stand_in import FOLDER, PROGRAMS

LONGEST = 1200  # seconds of one block
NOT_SHARED = (".git", ".venv", "runs", "site")


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


def make_pictures(folder: Path, names: Sequence[str], size: tuple[int, int], seed: int = 0) -> None:
    """Write small smooth pictures.

    Args:
        folder: Is made.
        names: With their endings.
        size: Width and height.
        seed: Of the pictures.
    """
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(seed)
    for name in names:
        blocks_of_colour = generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        picture = Image.fromarray(blocks_of_colour).resize(size, Image.Resampling.BICUBIC)
        picture.save(folder / name)


def make_data(folder: Path) -> None:
    """What pages take for granted: `my/photos`, `$ENLARGER_DATA` and the like, small.

    Args:
        folder: Of the page.
    """
    photos = [f"{number}.png" for number in range(12)]
    for name in ("photos", "hr", "real"):
        make_pictures(folder / "my" / name, photos, (208, 176))
    make_pictures(folder / "my", ["photo.png"], (208, 176), seed=1)
    (folder / "photos").symlink_to(folder / "my" / "photos")
    data = folder / "my" / "data"
    make_pictures(data / "bsds400", [f"{number}.jpg" for number in range(60)], (161, 121))
    make_pictures(data / "kodak24", [f"{number}.png" for number in range(4)], (384, 256))
    make_pictures(folder / "cars", [f"{number}.png" for number in range(64)], (32, 32))
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        pack.main([str(folder / "cars"), str(data / "cifar10"), "--name", "train-automobile"])
    for name in ("set5", "set14"):
        for scale in (2, 3, 4):
            for side, size in (("hr", (192, 144)), ("lr", (192 // scale, 144 // scale))):
                pictures = [f"img_{number:03}.png" for number in range(1, 6)]
                make_pictures(data / name / f"x{scale}" / side, pictures, size)
    (folder / "lists").mkdir()
    (folder / "lists" / "best.txt").write_text("\n".join(str(p) for p in data.glob("bsds400/*")))


def make_folder(folder: Path, page: Path) -> None:
    """A folder that looks like a checkout, in which a page's commands can be typed.

    Args:
        folder: Empty.
        page: Whose files lie there.
    """
    for path in REPO.iterdir():
        if path.name not in NOT_SHARED:
            (folder / path.name).symlink_to(path)
    (folder / "enlarger").symlink_to(REPO)  # of `~/enlarger`
    make_data(folder)
    activate = folder / ".venv" / "bin" / "activate"
    activate.parent.mkdir(parents=True)
    activate.touch()
    for name, text in files(page).items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    programs = folder / FOLDER
    programs.mkdir()
    stand_in = [sys.executable, str(REPO / "tests" / "docs" / "stand_in.py")]
    for name in PROGRAMS:
        call = shlex.join([*stand_in, name])
        (programs / name).write_text(f'#!/usr/bin/env bash\nexec {call} "$@"\n')
        (programs / name).chmod(0o755)


def check(block: Block, folder: Path) -> Iterator[Row]:
    """Run a block, and say what came of each of its commands.

    Args:
        block: Of the page that the folder was made for.
        folder: Of `make_folder`.
    """
    place = f"{block.page}:{block.line}"
    if block.how == "test":
        there = (REPO / block.why).is_file()
        first = block.text.strip().splitlines()[0]
        yield Row(place, first, f"test {block.why}", "ok" if there else "there is no such test")
        return
    log = folder / ".log"
    log.unlink(missing_ok=True)
    environment = {
        **os.environ,
        "HOME": str(folder),
        "PATH": f"{folder / FOLDER}{os.pathsep}{os.environ['PATH']}",
        "ENLARGER_DATA": str(folder / "my" / "data"),
        "ENLARGER_WEIGHTS": os.environ.get("ENLARGER_WEIGHTS", str(folder / "my" / "weights")),
        "HF_HUB_OFFLINE": "1",
        "DOCS_LOG": str(log),
        "DOCS_CHECK": block.how,
    }
    said = ["bash", "-euo", "pipefail", "-c", block.text]
    try:
        done = subprocess.run(
            said, cwd=folder, env=environment, capture_output=True, text=True, timeout=LONGEST
        )
        failed = done.returncode and (done.stderr.strip().splitlines() or ["no word"])[-1][-150:]
    except subprocess.TimeoutExpired:
        failed = f"not done in {LONGEST} s"
    entries = [json.loads(line) for line in log.read_text().splitlines()] if log.is_file() else []
    for entry in entries:
        result = "ok" if entry["status"] == 0 else str(failed or f"status {entry['status']}")
        yield Row(place, shlex.join(entry["command"]), entry["how"], result)
    if not entries or (failed and entries[-1]["status"] == 0):
        yield Row(place, block.text.strip().splitlines()[0], "run", str(failed) if failed else "ok")


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
    rows: list[Row] = []
    for page in asked:
        shown = list(blocks(page))
        with tempfile.TemporaryDirectory() as scratch:
            if any(block.how != "test" for block in shown):
                make_folder(Path(scratch), page)
            for block in shown:
                for row in check(block, Path(scratch)):
                    rows.append(row)
                    print(
                        f"| {row.place} | {row.command[:100]} | {row.how} | {row.result} |",
                        flush=True,
                    )
    failed = sum(row.result != "ok" for row in rows)
    print(f"{len(rows)} commands of {len(asked)} pages, {failed} failed")
    return int(failed > 0)


if __name__ == "__main__":
    raise SystemExit(main())
