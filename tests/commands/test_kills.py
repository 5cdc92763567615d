"""A command that is killed while it writes files leaves none of them after its next start."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from tests.commands.test_encode import MODEL, save_halves
from tests.conftest import REPO
from tests.quick import quick

KILLS = 5  # of each command
PATIENCE = 300.0  # seconds for a start
SLOW_DISK = "import os, time; os.fsync = lambda descriptor: time.sleep(0.05)\n"
UNFINISHED = re.compile(r"\..*\.tmp|\.lock|.*\.(part|parts|new)")
COMMANDS = {
    "predict": "--config tiny.yaml --model lightning_modules.Bicubic --data.predict in "
    "--writer.folder out",
    "fit": "--config tiny.yaml --trainer.val_check_interval 2",
    "pack": "in packed --workers 1 --samples-per-shard 4",
    "encode": "--config tiny.yaml --model model.yaml --encode.out latents --encode.crop 32 "
    "--encode.samples_per_shard 6",
}


def unfinished() -> set[str]:
    found = (name for _, folders, names in os.walk(".") for name in (*folders, *names))
    return {name for name in found if UNFINISHED.fullmatch(name)}


@pytest.mark.parametrize("command", quick(COMMANDS))
def test_nothing_is_left(tiny: Path, photo_folder: Path, command: str) -> None:
    Path("model.yaml").write_text(MODEL)
    save_halves(0)
    Path("in").mkdir()
    for path in sorted(photo_folder.iterdir()):
        Image.open(path).save(Path("in", path.name))
    Path("site").mkdir()
    Path("site/sitecustomize.py").write_text(SLOW_DISK)
    words = [sys.executable, str(REPO / "main.py"), command, *COMMANDS[command].split()]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": "site"}
    left = set()
    for number in range(KILLS):
        before, seen = unfinished(), set()
        process = subprocess.Popen(words, env=environment, stderr=subprocess.DEVNULL)
        until = time.monotonic() + PATIENCE
        while process.poll() is None and len(seen) <= 2 * number:
            assert time.monotonic() < until
            seen |= unfinished() - before
        process.kill()
        process.wait()
        left |= unfinished()
    assert left
    subprocess.run(words, env=environment, check=True)
    assert unfinished() == set()
