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
from tests.datamodules.pack.killed import STEP

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

EVERY_STEP = f"""{STEP}
from datamodules.shards.index import build_index

os.fsync = step(os.fsync)
pathlib.Path.replace = step(pathlib.Path.replace)
tarfile.TarFile.addfile = step(tarfile.TarFile.addfile)
source, root, *options = sys.argv[1:]
for first in FIRST:
    kills = 0
    out = pathlib.Path(root, str(first))
    while True:
        pid = os.fork()
        if not pid:
            left = kills + first
            sys.stderr = open(os.devnull, "w")
            os._exit(pack.main([source, str(out), *options]))
        status = os.waitpid(pid, 0)[1]
        for path in out.glob("*.tar"):
            build_index(path)
        kills += 1
        if not os.WIFSIGNALED(status):
            print(kills, os.waitstatus_to_exitcode(status))
            break
"""


def test_what_a_kill_left_of_the_report_is_removed(images, tmp_path):
    assert run(images, tmp_path / "whole") == run(images, tmp_path / "out") == 1
    files = Files.of(tmp_path / "out", "shard")
    for path in (files.report, files.index):
        assert path.is_file()
        hidden(path).write_bytes(b"{")
    owned._CLEARED.clear()  # as in a new process
    assert run(images, tmp_path / "out") == 1
    assert content(tmp_path / "out") == content(tmp_path / "whole")


@pytest.mark.slow
def test_kills_at_every_step(images, tmp_path):
    """Kill before and after each write, flush and rename, one step later each time."""
    assert run(images, tmp_path / "whole") == 1
    firsts = (1, 2, 20)  # in one process, since its imports take longer than the kills
    arguments = [str(images), str(tmp_path / "out"), *OPTIONS, "--workers", "0"]
    command = [sys.executable, "-c", EVERY_STEP.replace("FIRST", str(firsts)), *arguments]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, check=True)
    found = [tuple(map(int, line.split())) for line in done.stdout.splitlines()]
    assert [status for _, status in found] == [1] * len(firsts)
    assert all(kills > 5 for kills, _ in found)
    whole = content(tmp_path / "whole")
    for first in firsts:
        assert content(tmp_path / "out" / str(first)) == whole


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
        before = len(list(out.glob("*.tar")))
        process = subprocess.Popen(command, cwd=REPO, stderr=subprocess.DEVNULL)
        # Each run gets at least one shard further.
        while process.poll() is None and len(list(out.glob("*.tar"))) <= before:
            time.sleep(0.01)
        time.sleep(chance.uniform(0, 0.1) if killed else 0.0)
        family = _descendants(process.pid)
        process.kill()
        if process.wait() == -signal.SIGKILL:
            killed += 1
            assert _end(family), "workers outlive the command"
            for shard in out.glob("*.tar"):
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


def test_finished_inputs_are_not_read_again(images, tmp_path, monkeypatch):
    assert run(images, tmp_path / "whole") == 1
    out = tmp_path / "out"
    _stop_after(monkeypatch, 3)
    with pytest.raises(_Stopped):
        run(images, out)
    monkeypatch.undo()
    journal = (out / "shard.journal.jsonl").read_text().splitlines()
    last = json.loads(journal[-1])["next"]
    assert last[1] == 1  # in the middle of an image, which must be read again
    for path in sorted(images.iterdir())[: last[0]]:
        path.write_bytes(bytes(path.stat().st_size))
    assert run(images, out) == 1
    assert content(out) == content(tmp_path / "whole")


def test_an_image_that_changed_halfway(images, tmp_path, monkeypatch, caplog):
    out = tmp_path / "out"
    _stop_after(monkeypatch, 3)
    with pytest.raises(_Stopped):
        run(images, out)
    monkeypatch.undo()
    half = sorted(images.iterdir())[4]
    before = half.read_bytes()
    for other in (bytes(len(before)), save(tmp_path / "other.png", (16, 8), seed=99).read_bytes()):
        half.write_bytes(other)
        assert run(images, out) == 2
        assert "04.png was changed since a part of it was packed" in caplog.text
        caplog.clear()
    half.write_bytes(before)
    assert run(images, out) == 1


class _Stopped(BaseException):
    pass


def _stop_after(monkeypatch, shards):
    finish = shard_writer.ShardWriter.finish

    def stopping(self):
        if self.number == shards:
            raise _Stopped
        return finish(self)

    monkeypatch.setattr(shard_writer.ShardWriter, "finish", stopping)


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


def test_duplicates_across_a_kill(images, tmp_path, monkeypatch):
    """09.png equals 00.png, which the first run packed."""
    _stop_after(monkeypatch, 3)
    with pytest.raises(_Stopped):
        run(images, tmp_path / "out")
    monkeypatch.undo()
    run(images, tmp_path / "out")
    report = json.loads((tmp_path / "out" / "shard.report.json").read_text())
    path = str(images / "09.png")
    assert report["duplicates"] == [{"key": "09", "path": path, "same_as": "00"}]


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
        finished = len(list((disk / "out").glob("*.tar")))
        assert 1 <= finished <= 7
        shards = f"{finished} shard{'s' * (finished > 1)}"
        assert f"No space left on device. What is finished stays, {shards}" in caplog.text
        assert not list((disk / "out").glob("*.part"))
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
    assert "shard-000001.tar was finished but has 5 bytes" in caplog.text
    (out / "shard-000001.tar").unlink()
    assert run(images, out) == 2
    assert "is missing" in caplog.text


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


def test_a_file_where_the_folder_should_be(images, tmp_path, caplog):
    (tmp_path / "out").touch()
    assert run(images, tmp_path / "out") == 2
    assert "is a file; expected a folder" in caplog.text
