"""Packing in parts, in several processes, and after kills, full disks and Ctrl-C: equal bytes."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time

import psutil
import pytest
from torch.utils.data import Dataset

from datamodules.pack import command as pack
from datamodules.pack import shard_set
from datamodules.pack.workers import read_in_order
from files.owned import MovedError, write_whole
from tests.conftest import REPO
from tests.datamodules.image_files import save
from tests.datamodules.pack.conftest import content

OPTIONS = ["--images-per-shard", "4", "--crop", "8", "--encode", "png", "--workers", "0"]


@pytest.fixture
def images(tmp_path):
    """60 images of 1, 2 or 3 squares in turn; 7 are broken, among them all four of shard 6."""
    folder = tmp_path / "images"
    for number in range(60):
        save(folder / f"{number:02d}.png", (8 * (1 + number % 3), 8), seed=number)
        (folder / f"{number:02d}.txt").write_text(f"caption {number % 7}")
    for number in (5, 24, 25, 26, 27, 58, 59):
        (folder / f"{number:02d}.png").write_bytes(b"")
    return folder


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def run(images, out, *options):
    return pack.main([str(images), str(out), *OPTIONS, *options])


def packed_at_once(images):
    """What one command makes that nothing interrupts."""
    assert run(images, images.parent / "whole") == 1  # some are broken
    return content(images.parent / "whole")


def test_shards_are_not_written_into_a_new_folder_in_the_place_of_a_moved_one(
    images, out, monkeypatch
):
    def write_after_a_move(path, text):
        if path.name == "shard-000000.json":  # when the first shard is complete
            out.rename(images.parent / "moved")
            out.mkdir()
        write_whole(path, text)

    monkeypatch.setattr(shard_set, "write_whole", write_after_a_move)
    with pytest.raises(MovedError):
        run(images, out)
    assert not list(out.iterdir())


# ------------------------------------------------------------------------------------------ parts


@pytest.mark.parametrize("parts", [2, 40])  # fewer and more than the 60 / 4 = 15 shards
def test_any_number_of_parts_gives_the_same_bytes(images, out, parts, caplog):
    for part in reversed(range(parts)):
        assert run(images, out, "--part", f"{part}/{parts}") in (0, 1)  # 1: it has broken images

    assert content(out) == packed_at_once(images)
    assert "shards are missing: make the other parts" in caplog.text
    assert not (out / "shard-000006.tar").exists()  # images 24 to 27, which are all broken
    records = [json.loads(path.read_text()) for path in out.glob("shard-??????.json")]
    # 20 images each of 1, 2 and 3 squares have 120 squares; the 7 broken ones of `images` had 15.
    assert sum(record["samples"] for record in records) == 105
    assert sum(len(record["refused"]) for record in records) == 7


def test_parts_of_other_options_or_images_are_refused(images, out):
    run(images, out, "--part", "1/2")
    with pytest.raises(ValueError, match="--encode was 'png', now it is 'webp'"):
        run(images, out, "--encode", "webp", "--part", "0/2")
    shutil.copy(images / "11.png", images / "10.png")  # another size under its name
    with pytest.raises(ValueError, match="images was '60 of names and sizes"):
        run(images, out, "--part", "0/2")


# ------------------------------------------------------------------------------------------ kills


@pytest.mark.slow
def test_a_killed_command_goes_on_and_its_workers_end(tmp_path, out):
    for number in range(36):
        save(tmp_path / "images" / f"{number:02d}.png", (150, 100), seed=number)
    words = [str(tmp_path / "images"), "--images-per-shard", "6", "--encode", "webp", "--workers"]
    command = [sys.executable, "main.py", "pack", *words, "2", str(out)]

    with subprocess.Popen(command, cwd=REPO, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None and not list(out.rglob("*.tar")):
            time.sleep(0.001)
        workers = psutil.Process(process.pid).children(recursive=True)
        process.kill()

    assert process.returncode == -signal.SIGKILL
    assert not psutil.wait_procs(workers, timeout=60)[1]
    assert pack.main([*words, "2", str(out)]) == 0
    assert pack.main([*words, "0", str(tmp_path / "whole")]) == 0
    assert content(out) == content(tmp_path / "whole")


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_command_goes_on_after_ctrl_c_around_a_records_writing(images, out, monkeypatch, moment):
    """A shard's record is the last file before the shard gets its name.

    So a command stopped at the second record leaves a shard without its name, and writes it again.
    """
    write_whole = shard_set.write_whole

    def interrupt(path, text):
        is_second_record = path.name == "shard-000001.json"
        if moment == "after" or not is_second_record:
            write_whole(path, text)
        if is_second_record:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(shard_set, "write_whole", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run(images, out)

    [finished] = out.glob("*.tar")
    written_at = finished.stat().st_mtime_ns
    run(images, out)

    assert finished.name == "shard-000000.tar"
    assert finished.stat().st_mtime_ns == written_at  # it is not made again
    assert content(out) == packed_at_once(images)


@pytest.mark.slow
def test_a_full_disk_stops_the_command_which_then_goes_on(images, out):
    """A limit on file size simulates it: it stops a shard in the middle, too."""

    def limit():
        # Bytes: shard.json has fewer, a shard has more.
        resource.setrlimit(resource.RLIMIT_FSIZE, (5000, resource.RLIM_INFINITY))

    stopped = subprocess.run(
        [sys.executable, "main.py", "pack", str(images), str(out), *OPTIONS],
        cwd=REPO,
        env={name: value for name, value in os.environ.items() if not name.startswith("COV")},
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=limit,  # also for the file that coverage would write at the end
    )

    assert stopped.returncode == 2
    assert "error: [Errno 27] File too large: " in stopped.stderr
    assert "Traceback" not in stopped.stderr
    assert [path.name for path in out.iterdir()] == ["shard.json"]
    run(images, out)
    assert content(out) == packed_at_once(images)


def test_a_shard_that_was_changed_since_it_was_packed_is_left_alone(images, out):
    run(images, out)
    (out / "shard-000001.tar").write_bytes(b"mine")
    with pytest.raises(ValueError, match=r"shard-000001\.tar is not the shard that was written"):
        run(images, out)
    assert (out / "shard-000001.tar").read_bytes() == b"mine"


# ---------------------------------------------------------------------------------------- workers


class Numbers(Dataset):
    """Numbers; the worker that reads one of them sends itself a signal."""

    def __init__(self, last=None, signal_number=None):
        self.last = last
        self.signal_number = signal_number

    def __getitem__(self, index):
        if index == self.last:
            os.kill(os.getpid(), self.signal_number)
        return index


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_results_of_workers_are_in_order(workers):
    numbers = list(range(5, 100))
    items = read_in_order(Numbers(), numbers, workers, wait_minutes=1, named=str, chunk=4)
    assert list(items) == numbers


@pytest.mark.parametrize(
    ("signal_number", "cause"),
    [(signal.SIGKILL, "DataLoader worker"), (signal.SIGSTOP, "DataLoader timed out after 1.5")],
)
def test_the_error_of_a_worker_that_stops_names_the_image(signal_number, cause):
    numbers = Numbers(last=2, signal_number=signal_number)
    wait = {"wait_minutes": 0.025, "named": "image {}".format}  # 1.5 seconds
    items = read_in_order(numbers, list(range(40)), workers=2, **wait)
    # Image 2 stops its worker, before or after 0 and 1 have come.
    with pytest.raises(ValueError, match=rf"{cause}.*, at about image [0-2]: .*fewer workers"):
        list(items)


class Large(Dataset):
    """Items that no pipe holds: a worker waits while it sends."""

    def __getitem__(self, index):
        return bytes(10_000_000)


def test_the_error_of_a_worker_that_stops_while_it_sends_names_the_image():
    wait = {"wait_minutes": 0.02, "named": "image {}".format}  # 1.2 seconds
    items = read_in_order(Large(), list(range(40)), workers=1, **wait)
    next(items)
    time.sleep(0.5)  # until the next item is being sent
    (worker,) = psutil.Process().children()
    worker.suspend()

    with pytest.raises(ValueError, match=r"DataLoader worker.*, at about image 1: "):
        list(items)


@pytest.mark.slow
def test_ctrl_c_ends_workers_that_are_stopped(tmp_path, out):
    """As by SIGSTOP: they cannot end themselves."""
    for number in range(60):
        save(tmp_path / "images" / f"{number:02d}.png", (400, 300), seed=number)
    words = [str(tmp_path / "images"), str(out), "--workers", "2", "--encode", "webp"]
    command = [sys.executable, "main.py", "pack", *words]

    with subprocess.Popen(command, cwd=REPO, stderr=subprocess.PIPE, text=True) as process:
        workers = []
        while len(workers) < 2:
            workers = psutil.Process(process.pid).children()
        for worker in workers:
            worker.suspend()
        time.sleep(1)
        process.send_signal(signal.SIGINT)
        try:
            _, printed = process.communicate(timeout=60)
        finally:
            process.kill()

    assert process.returncode == 130  # 128 + SIGINT, as shells count
    assert printed.endswith("stopped by SIGINT\n")
    assert not psutil.wait_procs(workers, timeout=60)[1]
