"""Files are deleted and replaced by one module only, and only files of this program."""

from __future__ import annotations

import ast
import errno
import fcntl
import multiprocessing
import os
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from files.owned import (
    hidden,
    move_aside,
    remove_file,
    whole_file,
    whole_folder,
    write_whole,
)

REPO = Path(__file__).parents[2]
FORK = multiprocessing.get_context("fork")
CODE = ("benchmarks", "docs", "commands", "lightning_modules", "datamodules", "callbacks")
CODE += ("degradations", "files")
DELETES = {"rmtree", "removedirs", "unlink", "rmdir", "rename", "renames"}
OF_OS = {"remove", "replace"}


def found_in(path: Path) -> Iterator[tuple[str, str, int]]:
    """Yield calls that delete or replace files: file, function and line."""
    name = path.relative_to(REPO).as_posix()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module in ("os", "shutil"):
            for alias in node.names:
                if alias.name in DELETES | OF_OS | {"move"}:
                    yield name, alias.name, node.lineno
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
            continue
        function = node.func.attr
        of = node.func.value
        module = of.id if isinstance(of, ast.Name) else ""
        # `str.replace` takes two arguments, `Path.replace` one.
        moves = function == "replace" and len(node.args) == 1 and not node.keywords
        of_os = module == "os" and function in OF_OS
        of_shutil = module == "shutil" and function == "move"
        if function in DELETES or moves or of_os or of_shutil:
            yield name, function, node.lineno


def all_code() -> list[Path]:
    files = [
        REPO / "main.py",
        *(p for room in CODE for p in (REPO / room).rglob("*.py")),
    ]
    return [path for path in files if path != REPO / "files" / "owned.py"]


def test_no_other_module_deletes_or_replaces_anything():
    found = [call for path in all_code() for call in found_in(path)]
    others = [f"{name}:{line}: {what}" for name, what, line in found]
    assert not others, "to go through files/owned.py: " + ", ".join(others)


# ----------------------------------------------------------------------------------------- writing


def half(path: Path) -> None:
    with whole_file(path) as file:
        file.write(b"half")
        raise OSError("full")


def test_a_file_is_whole_or_as_before(tmp_path):
    path = tmp_path / "new/a.txt"
    write_whole(path, "é")
    assert path.read_bytes() == "é".encode()
    with pytest.raises(OSError, match="full"):
        half(path)
    assert path.read_bytes() == "é".encode()
    assert list(path.parent.iterdir()) == [path]


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
    assert [p.name for p in tmp_path.rglob("*")] == ["a", "1"]
    with pytest.raises(FileNotFoundError), whole_folder(tmp_path / "b") as beside:
        (beside / "none/1").write_text("x")
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def begin(path: Path, end: Connection[Any, Any]) -> None:
    with whole_file(path) as file:
        file.write(b"a long text of the other process")
        file.flush()
        end.send("begun")
        end.recv()


def in_a_process(path: Path) -> tuple[Any, Connection[Any, Any]]:
    """Return a process that has begun to write a file, and goes on when something is sent."""
    mine, other = FORK.Pipe()
    process = FORK.Process(target=begin, args=(path, other))
    process.start()
    assert mine.recv() == "begun"
    return process, mine


def test_what_a_kill_left_is_overwritten(tmp_path):
    process, _ = in_a_process(tmp_path / "a")
    process.kill()
    process.join()
    assert hidden(tmp_path / "a").exists()
    write_whole(tmp_path / "a", "x")
    assert (tmp_path / "a").read_text() == "x"
    assert list(tmp_path.iterdir()) == [tmp_path / "a"]


def test_a_process_that_writes_the_same_file_is_not_waited_for(tmp_path):
    process, end = in_a_process(tmp_path / "a")
    write_whole(tmp_path / "a", "x")
    assert (tmp_path / "a").read_text() == "x"
    end.send("go on")
    process.join()
    assert process.exitcode == 0
    assert (tmp_path / "a").read_text() == "a long text of the other process"
    assert list(tmp_path.iterdir()) == [tmp_path / "a"]


def test_the_first_of_two_writers_holds_on_a_disk_without_locks(tmp_path, monkeypatch):
    def no_locks(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with whole_file(tmp_path / "a") as first, whole_file(tmp_path / "a") as second:
        first.write(b"the first")
        second.write(b"2")
    assert (tmp_path / "a").read_bytes() == b"the first"


def test_a_hidden_file_that_cannot_be_opened_is_passed_by(tmp_path):
    hidden(tmp_path / "a").symlink_to("nowhere")  # as another user's: root may open that
    write_whole(tmp_path / "a", "x")
    assert (tmp_path / "a").read_text() == "x"


def test_a_link_is_deleted_and_not_followed(tmp_path):
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "link").symlink_to("mine")
    remove_file(tmp_path / "link")
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_what_is_moved_aside_replaces_nothing(tmp_path):
    names = []
    for _ in range(3):
        (tmp_path / "a").mkdir()
        names.append(move_aside(tmp_path / "a", "old").name)
    assert names == ["a.old-0", "a.old-1", "a.old-2"]
    (tmp_path / "a").mkdir()
    first = move_aside(tmp_path / "a")
    os.symlink("nowhere", tmp_path / "a")
    assert move_aside(tmp_path / "a") != first
