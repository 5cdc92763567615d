"""Files are deleted and replaced by one module only, and only files of this program."""

from __future__ import annotations

import ast
import errno
import fcntl
import multiprocessing
import os
import signal
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from files import owned
from files.owned import (
    NotOursError,
    foreign,
    move_aside,
    put_in_place,
    remove_file,
    remove_folder,
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
        function, of = node.func.attr, node.func.value
        module = of.id if isinstance(of, ast.Name) else ""
        # `str.replace` takes two arguments, `Path.replace` one.
        moves = function == "replace" and len(node.args) == 1 and not node.keywords
        by_module = (module == "os" and function in OF_OS) or (module, function) == (
            "shutil",
            "move",
        )
        if function in DELETES or moves or by_module:
            yield name, function, node.lineno


def all_code() -> list[Path]:
    files = [
        REPO / "main.py",
        *(p for room in CODE for p in (REPO / room).rglob("*.py")),
    ]
    return [path for path in files if path != REPO / "files" / "owned.py"]


def test_no_other_module_deletes_or_replaces_anything() -> None:
    found = [call for path in all_code() for call in found_in(path)]
    others = [f"{name}:{line}: {what}" for name, what, line in found]
    assert not others, "to go through files/owned.py: " + ", ".join(others)


# ----------------------------------------------------------------------------------------- writing


def half(path: Path) -> None:
    with whole_file(path) as file:
        file.write(b"half")
        raise OSError("full")


def test_a_file_is_whole_or_as_before(tmp_path: Path) -> None:
    path = tmp_path / "new/a.txt"
    write_whole(path, "é")
    assert path.read_bytes() == "é".encode()
    with pytest.raises(OSError, match="full"):
        half(path)
    assert path.read_bytes() == "é".encode()
    assert list(path.parent.iterdir()) == [path]


def test_a_folder_in_the_place_of_a_file_stays(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    part = tmp_path / "part"
    part.touch()
    with pytest.raises(IsADirectoryError):
        write_whole(tmp_path / "a", "x")
    with pytest.raises(IsADirectoryError):
        put_in_place(part, tmp_path / "a")
    with pytest.raises(IsADirectoryError):
        remove_file(tmp_path / "a")
    assert (tmp_path / "a").is_dir()


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    with whole_folder(tmp_path / "a") as beside:
        (beside / "1").write_text("x")
        assert not (tmp_path / "a").exists()
    assert [p.name for p in tmp_path.rglob("*")] == ["a", "1"]
    with pytest.raises(FileNotFoundError), whole_folder(tmp_path / "b") as beside:
        (beside / "none/1").write_text("x")
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


# ---------------------------------------------------------------------------------------- deleting


def ours(name: str) -> bool:
    return name in ("1.png", "sub/2.png")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "a/sub").mkdir(parents=True)
    (tmp_path / "a/1.png").write_text("1")
    (tmp_path / "a/sub/2.png").write_text("2")
    return tmp_path / "a"


def test_a_folder_of_ours_goes(folder: Path) -> None:
    remove_folder(folder, ours)
    assert not list(folder.parent.iterdir())


@pytest.mark.parametrize("name", ["mine.txt", "sub/1.png", ".hidden", "more/deep/1.png"])
def test_a_folder_with_one_file_of_another_stays_whole(folder: Path, name: str) -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text("mine")
    before = sorted(folder.rglob("*"))
    assert foreign(folder, ours) == [name]
    with pytest.raises(NotOursError, match=f"holds {name}, which Enlarger did not write"):
        remove_folder(folder, ours)
    assert sorted(folder.rglob("*")) == before


def test_links_are_never_followed(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "1.png").write_text("mine")
    (tmp_path / "link").symlink_to(other)
    with pytest.raises(NotOursError):
        remove_folder(tmp_path / "link", ours)
    (folder / "2.png").symlink_to(other / "1.png")
    (folder / "more").symlink_to(other)
    assert foreign(folder, lambda name: True) == ["2.png", "more"]
    with pytest.raises(NotOursError):
        remove_folder(folder, lambda name: True)
    remove_file(folder / "2.png")
    assert (other / "1.png").read_text() == "mine"


def begin(path: Path, end: Connection[Any, Any]) -> None:
    with whole_file(path) as file, whole_folder(path.with_name("folder")) as beside:
        file.write(b"half")
        (beside / "1.png").touch()
        end.send("begun")
        signal.pause()


@pytest.mark.parametrize("has_locks", [True, False])
def test_the_next_writer_removes_what_a_kill_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_locks: bool
) -> None:
    kept = [tmp_path / name for name in (".a.tmp", f".{'0' * 16}.{'0' * 8}.tmp.txt", "b.tmp")]
    for other in kept:
        other.touch()
    (link := tmp_path / f".{'0' * 16}.{'0' * 8}.tmp").symlink_to(".a.tmp")
    if not has_locks:
        monkeypatch.setattr(fcntl, "flock", no_locks)
    mine, other = FORK.Pipe()
    process = FORK.Process(target=begin, args=(tmp_path / "a", other))
    process.start()
    assert mine.recv() == "begun"

    def write_again() -> None:
        owned._CLEARED.clear()  # as in a new process
        write_whole(tmp_path / "b", "x")
        with whole_folder(tmp_path / "folder", known=ours):
            pass
        (tmp_path / "folder").rmdir()

    write_again()
    assert len({*tmp_path.iterdir()} - {*kept, link, tmp_path / "b"}) == 2  # it is alive
    process.kill()
    process.join()
    write_again()
    if not has_locks:
        assert len({*tmp_path.iterdir()} - {*kept, link, tmp_path / "b"}) == 2  # too new
        monkeypatch.setattr(owned, "ABANDONED", -1.0)
        write_again()
    assert {*tmp_path.iterdir()} == {*kept, link, tmp_path / "b"}


def no_locks(descriptor: int, operation: int) -> None:
    raise OSError(errno.ENOLCK, "No locks available")


def test_what_is_moved_aside_replaces_nothing(tmp_path: Path) -> None:
    names = []
    for _ in range(3):
        (tmp_path / "a").mkdir()
        names.append(move_aside(tmp_path / "a", "old").name)
    assert names == ["a.old-0", "a.old-1", "a.old-2"]
    (tmp_path / "a").mkdir()
    first = move_aside(tmp_path / "a")
    os.symlink("nowhere", tmp_path / "a")
    assert move_aside(tmp_path / "a") != first
