"""Files are deleted and replaced by one module only, and only files of this program."""

import errno
import fcntl
import multiprocessing
import os
import re
import subprocess
import sys
import time

import pytest

from files.owned import (
    free_place,
    hidden,
    hold_place,
    move_aside,
    refuse_moved,
    remove_file,
    whole_file,
    whole_folder,
    write_whole,
)
from tests.conftest import REPO

FORK = multiprocessing.get_context("fork")
ROOMS = ["benchmarks", "docs", "commands", "lightning_modules", "datamodules", "callbacks"]
ROOMS += ["degradations", "files"]
DELETES = re.compile(
    r"\.(rmtree|removedirs|unlink|rmdir|renames?)\("
    r"|\bos\.(remove|replace)\("
    r"|\bshutil\.move\("
    r"|\.replace\([^,()]*(\([^()]*\)[^,()]*)*\)"  # of a path: that of a string takes two arguments
    r"|^from (os|shutil) import",
    re.MULTILINE,
)


@pytest.mark.parametrize("room", ROOMS)
def test_only_files_owned_deletes_or_replaces_anything(room):
    """It checks first that a file is not the user's; a call elsewhere could delete his data."""
    for file in [REPO / "main.py", *(REPO / room).rglob("*.py")]:
        if file != REPO / "files" / "owned.py":
            found = DELETES.search(file.read_text(encoding="utf-8"))
            assert found is None, f"{file}: {found[0]} is to go through files/owned.py"


# ----------------------------------------------------------------------------------------- writing


def write_half(path):
    with whole_file(path) as file:
        file.write(b"half")
        raise OSError("full")


def test_a_write_that_fails_leaves_the_file_as_it_was(tmp_path):
    path = tmp_path / "new/a.txt"
    write_whole(path, "é")
    with pytest.raises(OSError, match="full"):
        write_half(path)
    assert path.read_bytes() == "é".encode()
    assert list(path.parent.iterdir()) == [path]


def test_a_write_does_not_fail_if_another_thread_begins_a_run_meanwhile(tmp_path, monkeypatch):
    """A write loops over the folders of all runs, and a dict must not grow within a loop.

    `samestat`, which that loop calls, stands for the other thread: it adds a folder.
    """
    folder = tmp_path / "run"
    other = tmp_path / "run of another thread"
    folder.mkdir()
    other.mkdir()
    hold_place(folder)

    def hold_another(*_):
        hold_place(other)
        return True

    monkeypatch.setattr(os.path, "samestat", hold_another)
    try:
        refuse_moved(folder / "a.txt")
    finally:
        free_place(folder)
        free_place(other)


FULL = """
import resource, signal, sys
from pathlib import Path
from files.owned import write_whole

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10))  # bytes
write_whole(Path(sys.argv[1]), "x" * 100)
"""


def test_the_error_of_a_full_disk_names_the_file(tmp_path):
    """A limit on file size simulates it."""
    path = tmp_path / "a.txt"
    command = [sys.executable, "-c", FULL, path]
    ended = subprocess.run(command, cwd=REPO, text=True, capture_output=True)
    assert ended.stderr.endswith(f"File too large: '{path}'\n")
    assert not list(tmp_path.iterdir())


def test_a_folder_in_the_place_of_a_file_stays(tmp_path):
    (tmp_path / "a").mkdir()
    with pytest.raises(IsADirectoryError):
        write_whole(tmp_path / "a", "x")
    with pytest.raises(IsADirectoryError):
        remove_file(tmp_path / "a")
    assert (tmp_path / "a").is_dir()


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    with whole_folder(tmp_path / "a") as beside:
        (beside / "1").write_text("x")
        assert not (tmp_path / "a").exists()
    with pytest.raises(FileNotFoundError), whole_folder(tmp_path / "b") as beside:
        (beside / "none/1").write_text("x")
    assert list(tmp_path.rglob("*")) == [tmp_path / "a", tmp_path / "a/1"]


def begin(path, end):
    with whole_file(path) as file:
        file.write(b"a long text of the other process")
        file.flush()
        end.send("begun")
        end.recv()


@pytest.fixture
def other_writer(tmp_path):
    """A process that has begun to write a file, and how to let it go on."""
    mine, its = FORK.Pipe()
    process = FORK.Process(target=begin, args=(tmp_path / "a", its))
    process.start()
    assert mine.recv() == "begun"
    return process, mine


def test_what_a_killed_writer_left_is_overwritten(tmp_path, other_writer):
    process, _ = other_writer
    process.kill()
    process.join()
    assert hidden(tmp_path / "a").exists()

    write_whole(tmp_path / "a", "x")

    assert (tmp_path / "a").read_text() == "x"
    assert list(tmp_path.iterdir()) == [tmp_path / "a"]


def test_a_process_that_writes_the_same_file_is_not_waited_for(tmp_path, other_writer):
    process, end = other_writer
    write_whole(tmp_path / "a", "x")
    assert (tmp_path / "a").read_text() == "x"

    end.send("go on")
    process.join()

    assert process.exitcode == 0
    assert (tmp_path / "a").read_text() == "a long text of the other process"
    assert list(tmp_path.iterdir()) == [tmp_path / "a"]


def test_on_a_disk_without_locks_two_writers_of_a_file_do_not_mix_their_bytes(
    tmp_path, monkeypatch
):
    """The file is that of the writer who ends last: here of the outer block, the first one."""

    def no_locks(descriptor, operation):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with whole_file(tmp_path / "a") as first, whole_file(tmp_path / "a") as second:
        first.write(b"the first")
        second.write(b"2")
    assert (tmp_path / "a").read_bytes() == b"the first"


def test_a_file_is_written_although_the_hidden_one_beside_it_cannot_be_opened(tmp_path):
    hidden(tmp_path / "a").symlink_to("nowhere")  # as another user's: root may open that
    write_whole(tmp_path / "a", "x")
    assert (tmp_path / "a").read_text() == "x"


def test_a_link_is_deleted_and_not_followed(tmp_path):
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "link").symlink_to("mine")
    remove_file(tmp_path / "link")
    assert list(tmp_path.iterdir()) == [tmp_path / "mine"]


def test_a_folder_moved_aside_gets_the_next_number_and_keeps_its_content(tmp_path):
    for number in (0, 1, 2):
        (tmp_path / "a" / f"content {number}").mkdir(parents=True)
        assert move_aside(tmp_path / "a", "old") == tmp_path / f"a.old-{number}"
        assert (tmp_path / f"a.old-{number}" / f"content {number}").is_dir()


def test_what_is_moved_aside_without_a_suffix_gets_a_free_name(tmp_path, monkeypatch):
    monkeypatch.setattr(time, "strftime", lambda *_: "20261130-120000")  # the default suffix
    (tmp_path / "a").mkdir()
    folder = move_aside(tmp_path / "a")
    os.symlink("nowhere", tmp_path / "a")  # a broken link, which is moved as well
    link = move_aside(tmp_path / "a")
    assert sorted(tmp_path.iterdir()) == sorted([folder, link])
    assert folder.is_dir()
    assert link.is_symlink()
