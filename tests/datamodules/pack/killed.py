"""A program that kills the packer before and after each of its steps, one step later each time."""

from __future__ import annotations

import subprocess
import sys

from tests.conftest import REPO

EVERY_STEP = """
import os, pathlib, signal, sys, tarfile
import webdataset
from PIL import Image
from datamodules.pack import __main__ as pack
from datamodules.shards.index import build_index

Image.init(), webdataset.TarWriter  # else each fork would import them

def step(function):
    def wrapped(*arguments, **options):
        global left
        for _ in "before", "after":
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            result = function(*arguments, **options) if _ == "before" else result
        return result
    return wrapped

os.fsync, os.replace, os.rename, os.unlink = map(
    step, (os.fsync, os.replace, os.rename, os.unlink)
)
tarfile.TarFile.addfile = step(tarfile.TarFile.addfile)
out, first, stride, *words = sys.argv[1:]
kills = 0
while True:
    pid = os.fork()
    if not pid:
        left = int(first) + int(stride) * kills
        sys.stderr = open(os.devnull, "w")
        os._exit(pack.main(words))
    status = os.waitpid(pid, 0)[1]
    for path in pathlib.Path(out).glob("*.tar"):
        build_index(path)
    kills += 1
    if not os.WIFSIGNALED(status):
        print(kills, os.waitstatus_to_exitcode(status))
        break
"""


def kill_at_every_step(out: object, first: int, stride: int, *words: object) -> tuple[int, int]:
    """Run a command until it ends; how often it ran, and its exit status.

    Args:
        out: Folder whose shards are whole after each kill.
        first: The step at which the first run is killed.
        stride: How many steps later each further run is killed.
        words: The command.
    """
    command = [sys.executable, "-c", EVERY_STEP, *map(str, (out, first, stride, *words))]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=True)
    kills, status = map(int, done.stdout.split())
    return kills, status
