"""Check every command of every page: ``make docs-commands``, for maintainers; takes about an hour.

A page's blocks are run one after another in a folder of the page's own, which looks like a checkout
and holds small images and shards. Prints a table, and ends with 1 where a command failed.
"""

import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.conftest import REPO
from tests.docs.blocks import blocks, pages
from tests.docs.folder import make_folder
from tests.docs.parsed import parsed
from tests.docs.stand_in import FOLDER

LONGEST = 1200  # seconds of one block


def check(block, folder):
    """Check a block; yield for each of its commands what was typed, how it was checked, the result.

    Args:
        block: Of the page that the folder was made for.
        folder: Of `make_folder`.
    """
    first = block.text.strip().splitlines()[0]
    if block.how == "test":
        yield first, f"test {block.why}", tested(block)
        return
    own = {
        "HOME": str(folder),
        "ENLARGER_DATA": str(folder / "my" / "data"),
        "ENLARGER_WEIGHTS": os.environ.get("ENLARGER_WEIGHTS", str(folder / "my" / "weights")),
        "HF_HUB_OFFLINE": "1",
    }
    failed, entries = run(block, folder, own)
    for entry in entries:
        result = "ok" if entry["status"] == 0 else failed or f"status {entry['status']}"
        if entry["how"] == "parsed":
            result = parsed(entry["words"], folder, own | entry["set"])
        yield shlex.join(entry["command"]), entry["how"], result
    if not entries or (failed and entries[-1]["status"] == 0):
        yield first, "run", failed or "ok"


def run(block, folder, own):
    """Run a block with the stand-ins; return why it failed, or nothing, and what they noted."""
    log = folder / ".log"
    log.unlink(missing_ok=True)
    path = f"{folder / FOLDER}{os.pathsep}{os.environ['PATH']}"
    noting = {"PATH": path, "DOCS_LOG": str(log), "DOCS_CHECK": block.how}
    process = subprocess.Popen(
        ["bash", "-euo", "pipefail", "-c", block.text],
        cwd=folder,
        env={**os.environ, **own, **noting},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    failed = ""
    try:
        out, err = process.communicate(timeout=LONGEST)
        if process.returncode:
            said = err.strip() or out.strip() or f"status {process.returncode}"
            failed = said.splitlines()[-1][-150:]
    except subprocess.TimeoutExpired:
        failed = f"not done in {LONGEST} s"
    finally:  # it leaves no process behind
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    lines = log.read_text().splitlines() if log.is_file() else []
    return failed, [json.loads(line) for line in lines]


def tested(block):
    """`ok` where a block's test reads the commands off its page, else what it does not."""
    test = REPO / block.why
    if not test.is_file():
        return "there is no such test"
    page = Path(block.place.partition(":")[0])
    text = test.read_text()
    names_page = f'"{page.name}"' in text or f'"{page.parent.name}"' in text
    reads = names_page and "from tests.docs.blocks import" in text
    return "ok" if reads else f"the test does not read the blocks of {page.name}"


def main(typed):
    """Check the pages that are typed, by default all; return 1 where a command failed."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what runs is ended, too
    failed = 0
    for page in [Path(name).resolve() for name in typed] or pages():
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            make_folder(folder, page)
            for block in blocks(page):
                for command, how, result in check(block, folder):
                    failed += result != "ok"
                    print(f"| {block.place} | {command[:100]} | {how} | {result} |", flush=True)
    print(f"{failed} commands failed")
    return int(failed > 0)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
