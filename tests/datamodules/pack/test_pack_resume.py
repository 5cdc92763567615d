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
from datamodules.shards import writer as shard_writer
from tests.conftest import REPO
from tests.datamodules.image_files import save

OPTIONS = ["--samples-per-shard", "3", "--crop", "8", "--step", "8", "--encode", "png"]


@pytest.fixture
def images(tmp_path):
    """Images of 2 squares each, so that some begin in one shard and end in the next."""
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
    words = ["--samples-per-shard", "6", "--encode", "webp"]
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


def test_ctrl_c(images, tmp_path, monkeypatch, caplog):
    def interrupt(self):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(shard_writer.ShardWriter, "finish", interrupt)
        assert run(images, tmp_path / "out") == 130
    assert "the same command continues" in caplog.text
    assert not list((tmp_path / "out").glob("*.part"))
    assert run(images, tmp_path / "out") == 1


# ------------------------------------------------------------------------------------------- disks


@pytest.mark.slow
def test_a_disk_that_is_full(images, tmp_path):
    """A limit on file size simulates it: it stops a shard in the middle, too."""
    assert run(images, tmp_path / "whole") == 1
    arguments = [str(images), str(tmp_path / "out"), *OPTIONS, "--workers", "0"]
    command = [sys.executable, "-m", "datamodules.pack", *arguments]

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
    assert "cannot write to" in stopped.stderr
    assert "the same command to go on" in stopped.stderr
    assert "Traceback" not in stopped.stderr
    assert not list((tmp_path / "out").glob("*.part"))
    assert run(images, tmp_path / "out") == 1
    assert content(tmp_path / "out") == content(tmp_path / "whole")


# --------------------------------------------------------------------------- another job, or damage


def test_a_finished_shard_that_is_gone(images, tmp_path, caplog):
    out = tmp_path / "out"
    run(images, out)
    (out / "shard-000001.tar").write_bytes(b"short")
    assert run(images, out) == 2
    assert "shard-000001.tar was finished but is missing or has another size" in caplog.text
