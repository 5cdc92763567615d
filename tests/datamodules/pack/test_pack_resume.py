"""The packer resumes after kills, full disks and Ctrl-C, with the bytes of an uninterrupted run."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from datamodules.pack import __main__ as pack
from datamodules.pack import shard_set
from tests.conftest import REPO
from tests.datamodules.image_files import save

OPTIONS = ["--images-per-shard", "3", "--crop", "8", "--step", "8", "--encode", "png"]


@pytest.fixture
def images(tmp_path):
    for number in range(12):
        save(tmp_path / "images" / f"{number:02d}.png", (16, 8), seed=number)
    broken = tmp_path / "images" / "05.png"
    broken.write_bytes(broken.read_bytes()[:60])
    (tmp_path / "images" / "zz.png").write_bytes(b"")
    return tmp_path / "images"


def run(images, out, *more):
    return pack.main([str(images), str(out), *OPTIONS, "--workers", "0", *more])


def content(out):
    """The contents without times of modification."""
    found = {path.name: path.read_bytes() for path in sorted(out.iterdir())}
    for name in found:
        if name.endswith(".idx.json"):
            found[name] = {**json.loads(found[name]), "mtime_ns": 0}
    return found


# -------------------------------------------------------------------------------------------- kills


@pytest.mark.slow
def test_a_kill_with_workers(tmp_path):
    """They end with the command, which goes on when it is given again."""
    for number in range(36):
        save(tmp_path / "images" / f"{number:02d}.png", (150, 100), seed=number)
    words = ["--images-per-shard", "6", "--encode", "webp"]
    images, whole, out = (str(tmp_path / name) for name in ("images", "whole", "out"))
    command = [sys.executable, "-m", "datamodules.pack", images, out, *words, "--workers", "2"]
    with subprocess.Popen(command, cwd=REPO, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None and not list(Path(out).rglob("*.tar")):
            time.sleep(0.001)
        workers = psutil.Process(process.pid).children(recursive=True)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert not psutil.wait_procs(workers, timeout=60)[1]
    assert pack.main([images, out, *words, "--workers", "2"]) == 0
    assert pack.main([images, whole, *words, "--workers", "0"]) == 0
    assert content(Path(out)) == content(Path(whole))


@pytest.mark.parametrize("written", ["before", "after"])
def test_ctrl_c_at_the_record_of_a_shard(images, tmp_path, monkeypatch, written):
    """It is the last file before the shard gets its name."""
    write_whole = shard_set.write_whole

    def interrupt(path, text):
        if written == "after" or path.name != "shard-000001.json":
            write_whole(path, text)
        if path.name == "shard-000001.json":
            raise KeyboardInterrupt

    out = tmp_path / "out"
    assert run(images, tmp_path / "whole") == 1
    with monkeypatch.context() as patch:
        patch.setattr(shard_set, "write_whole", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run(images, out)
    assert [path.name for path in out.glob("*.tar")] == ["shard-000000.tar"]
    assert run(images, out) == 1
    assert content(out) == content(tmp_path / "whole")


# ------------------------------------------------------------------------------------------- disks


@pytest.mark.slow
def test_a_disk_that_is_full(images, tmp_path):
    """A limit on file size simulates it: it stops a shard in the middle, too."""
    assert run(images, tmp_path / "whole") == 1
    arguments = [str(images), str(tmp_path / "out"), *OPTIONS, "--workers", "0"]
    command = [sys.executable, "main.py", "pack", *arguments]

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (5000, resource.RLIM_INFINITY))

    stopped = subprocess.run(
        command,
        cwd=REPO,
        env={name: value for name, value in os.environ.items() if not name.startswith("COV")},
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=limit,  # also for the file that coverage would write at the end
    )
    assert stopped.returncode == 2
    assert "error: [Errno 27] File too large: " in stopped.stderr
    assert "Traceback" not in stopped.stderr
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["shard.json"]
    assert run(images, tmp_path / "out") == 1
    assert content(tmp_path / "out") == content(tmp_path / "whole")


# ------------------------------------------------------------------------------------------- damage


def test_a_shard_that_is_gone_is_made_again(images, tmp_path):
    out = tmp_path / "out"
    run(images, out)
    before = content(out)
    (out / "shard-000001.tar").unlink()
    assert run(images, out) == 1
    assert content(out) == before


def test_a_shard_that_is_another(images, tmp_path):
    out = tmp_path / "out"
    run(images, out)
    (out / "shard-000001.tar").write_bytes(b"mine")
    with pytest.raises(ValueError, match=r"shard-000001\.tar is not the shard that was written"):
        run(images, out)
    assert (out / "shard-000001.tar").read_bytes() == b"mine"
