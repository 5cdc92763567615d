"""The packer resumes after kills, full disks and Ctrl-C, with the bytes of an uninterrupted run."""

from __future__ import annotations

import json
import logging
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from datamodules.pack import __main__ as pack
from datamodules.pack import packing
from datamodules.pack.journal import Journal
from datamodules.pack.report import Files
from datamodules.shards import writer as shard_writer
from datamodules.shards.index import build_index
from files import owned
from files.owned import hidden
from tests.conftest import REPO
from tests.datamodules.image_files import save
from tests.datamodules.pack.killed import kill_at_every_step

OPTIONS = ["--samples-per-shard", "3", "--crop", "8", "--step", "8", "--encode", "png"]


@pytest.fixture(autouse=True)
def _log(caplog):
    caplog.set_level(logging.INFO)


@pytest.fixture
def images(tmp_path):
    """Images of 2 squares each, so that some begin in one shard and end in the next."""
    for number in range(12):
        save(tmp_path / "images" / f"{number:02d}.png", (16, 8), seed=number)
    broken = tmp_path / "images" / "05.png"
    broken.write_bytes(broken.read_bytes()[:60])
    shutil.copy(tmp_path / "images" / "00.png", tmp_path / "images" / "09.png")
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


def test_any_number_of_workers_gives_the_same(tmp_path):
    for number in range(70):
        save(tmp_path / "images" / f"{number}.png", (20, 20), seed=number % 60)
    found = []
    for workers in (0, 1, 3):
        out = tmp_path / str(workers)
        arguments = [str(tmp_path / "images"), str(out), "--workers", str(workers)]
        assert pack.main([*arguments, "--samples-per-shard", "9", "--encode", "webp"]) == 0
        found.append(content(out))
    assert found[0] == found[1] == found[-1]
    assert json.loads(found[0]["shard.report.json"])["counts"]["duplicates"] == 10


# -------------------------------------------------------------------------------------------- kills


def test_what_a_kill_left_of_the_report_is_removed(images, tmp_path, monkeypatch):
    assert run(images, tmp_path / "whole") == run(images, tmp_path / "out") == 1
    files = Files.of(tmp_path / "out", "shard")
    for path in (files.report, files.lines):
        assert path.is_file()
        hidden(path).write_bytes(b"{")
    monkeypatch.setattr(owned, "_CLEARED", set())  # as in another process
    assert run(images, tmp_path / "out") == 1
    assert content(tmp_path / "out") == content(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.parametrize(("first", "stride"), [(1, 1), (20, 3)])
def test_kills_at_every_step(images, tmp_path, first, stride):
    """Kill before and after each write, flush, rename and removal; some images are equal."""
    assert run(images, tmp_path / "whole") == 1
    out = tmp_path / "out"
    command = [images, out, *OPTIONS, "--workers", "0"]
    kills, status = kill_at_every_step(out, first, stride, *command)
    assert (kills > 5, status) == (True, 1)
    assert content(out) == content(tmp_path / "whole")


def test_finished_blocks_are_not_packed_again(images, tmp_path, monkeypatch):
    assert run(images, tmp_path / "whole") == 1
    out, finish = tmp_path / "out", shard_writer.ShardWriter.finish

    def stopping(self):
        if self.name == "shard-000003":
            raise KeyboardInterrupt
        return finish(self)

    with monkeypatch.context() as patch:
        patch.setattr(shard_writer.ShardWriter, "finish", stopping)
        assert run(images, out) == 130
    for path in sorted(images.iterdir())[:9]:
        path.write_bytes(bytes(path.stat().st_size))
    assert run(images, out) == 1
    assert content(out) == content(tmp_path / "whole")


@pytest.mark.slow
def test_kills_at_random_with_workers(tmp_path):
    for number in range(36):
        save(tmp_path / "images" / f"{number:02d}.png", (150, 100), seed=number)
    arguments = [str(tmp_path / "images"), "OUT", "--samples-per-shard", "6", "--encode", "webp"]
    whole, out = tmp_path / "whole", tmp_path / "out"
    command = [sys.executable, "-m", "datamodules.pack", *arguments, "--workers", "2"]
    command[command.index("OUT")] = str(out)
    chance = random.Random(0)
    killed = 0
    for _ in range(20):
        before = len(list(out.rglob("*.tar")))
        process = subprocess.Popen(command, cwd=REPO, stderr=subprocess.DEVNULL)
        # Each run gets at least one shard further.
        while process.poll() is None and len(list(out.rglob("*.tar"))) <= before:
            time.sleep(0.01)
        time.sleep(chance.uniform(0, 0.1) if killed else 0.0)
        family = _descendants(process.pid)
        process.kill()
        if process.wait() == -signal.SIGKILL:
            killed += 1
            assert _end(family), "workers outlive the command"
            for shard in out.rglob("*.tar"):
                build_index(shard)
        else:
            break
    assert killed >= 1
    assert subprocess.run(command, cwd=REPO, stderr=subprocess.DEVNULL, check=False).returncode == 0
    arguments[1] = str(whole)
    assert pack.main([*arguments, "--workers", "0"]) == 0
    assert content(out) == content(whole)


def _descendants(pid):
    found = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in path.read_text().split():
            found += [int(child), *_descendants(int(child))]
    return found


def _end(pids):
    for _ in range(1000):
        if not any(_runs(pid) for pid in pids):
            return True
        time.sleep(0.01)
    return False


def _runs(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_ctrl_c(images, tmp_path, monkeypatch, caplog):
    def interrupt(self):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(shard_writer.ShardWriter, "finish", interrupt)
        assert run(images, tmp_path / "out") == 130
    assert "the same command continues" in caplog.text
    assert not list((tmp_path / "out").glob("*.part"))
    assert run(images, tmp_path / "out") == 1


def test_once_more_does_nothing(images, tmp_path, monkeypatch, caplog):
    assert run(images, tmp_path / "out") == 1
    before = content(tmp_path / "out")
    caplog.clear()
    monkeypatch.setattr(packing, "process", None)
    assert run(images, tmp_path / "out") == 1
    assert "everything was packed already" in caplog.text
    assert "refused by reason: 1 truncated, 1 empty" in caplog.text
    assert content(tmp_path / "out") == before


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


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to mount a small disk")
def test_a_small_disk(tmp_path, caplog):
    for number in range(40):
        save(tmp_path / "images" / f"{number}.png", (60, 60), seed=number)
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=200k", "none", str(disk)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("may not mount")
    arguments = [str(tmp_path / "images"), str(disk / "out"), "--samples-per-shard", "5"]
    try:
        assert pack.main([*arguments, "--workers", "2"]) == 2
        assert 1 <= len(list(disk.glob("out/shard.parts/*.tar"))) <= 7
        assert "No space left on device. What is finished stays" in caplog.text
        assert not list(disk.rglob("*.part"))
        subprocess.run(["mount", "-o", "remount,size=4m", str(disk)], check=True)
        assert pack.main([*arguments, "--workers", "0"]) == 0
        arguments[1] = str(tmp_path / "whole")
        assert pack.main([*arguments, "--workers", "0"]) == 0
        assert content(disk / "out") == content(tmp_path / "whole")
    finally:
        subprocess.run(["umount", str(disk)], check=True)


# --------------------------------------------------------------------------- another job, or damage


def test_other_options_are_refused_by_name(images, tmp_path, caplog):
    out = tmp_path / "out"
    run(images, out)
    before = content(out)
    assert run(images, out, "--min-side", "9", "--captions", "text") == 2
    assert "--captions was None, now it is 'text'" in caplog.text
    assert "--min-side was 1, now it is 9" in caplog.text
    assert "--overwrite" in caplog.text
    shutil.copytree(images, tmp_path / "copy")
    assert run(tmp_path / "copy", out) == 2
    assert f"SOURCE was '{images}', now it is '{tmp_path / 'copy'}'" in caplog.text
    (images / "05.png").unlink()
    assert run(images, out) == 2
    assert "SOURCE had 13 images, now it has 12, of other names or sizes" in caplog.text
    assert content(out) == before
    assert run(images, out, "--name", "other") == 1
    assert run(images, out, "--overwrite") == 1


def test_a_finished_shard_that_is_gone(images, tmp_path, caplog):
    out = tmp_path / "out"
    run(images, out)
    (out / "shard-000001.tar").write_bytes(b"short")
    assert run(images, out) == 2
    assert "shard-000001.tar was finished but is missing or has another size" in caplog.text


def test_shards_of_nobody(images, tmp_path, caplog):
    out = tmp_path / "out"
    run(images, out)
    (out / "shard.journal.jsonl").unlink()
    assert run(images, out) == 2
    assert "already has shards named shard-*.tar: run" in caplog.text


@pytest.mark.parametrize("cut", [1, 30])
def test_a_line_that_is_cut_off(images, tmp_path, cut):
    out = tmp_path / "out"
    run(images, out)
    before = content(out)
    journal = out / "shard.journal.jsonl"
    journal.write_bytes(journal.read_bytes()[:-cut])
    assert run(images, out) == 1
    assert content(out) == before


def test_two_at_once(images, tmp_path, caplog):
    out = tmp_path / "out"
    with Journal(out / "shard.journal.jsonl"):
        assert run(images, out) == 2
    assert "another process packs these shards" in caplog.text
    assert run(images, out) == 1
