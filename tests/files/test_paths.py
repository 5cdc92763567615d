"""Paths that exist as written are used as written, and only files are opened."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from files.paths import (
    expand_path,
    glob_paths,
    list_images,
    open_regular,
    walk,
)

ODD = [
    *("#2", "- dash", "Trip: Rome.png", "null", "~", "~x", "1e3", "[hd]", "{a}", "*x", "&a", "yes"),
    *("$SET", "cost$", "$5", "${", "a\nb", " lead", "trail ", "\N{GRINNING FACE}", "%41", "-x"),
    os.fsdecode(b"\xff\xfe"),
]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SET", "elsewhere")
    monkeypatch.setenv("HOME", "/home/me")
    return tmp_path


@pytest.mark.parametrize("name", ODD)
def test_what_exists_as_written_is_taken_as_written(here, name):
    Path(name).mkdir()
    assert expand_path(name, "x") == name
    assert expand_path(f"{name}/new", "x") == f"{name}/new"
    assert expand_path(str(here / name), "x") == str(here / name)
    (here / name / "a.png").touch()
    assert glob_paths(f"{name}/*.png") == [f"{name}/a.png"]
    assert glob_paths(f"{here}/{name}/**/*.png") == [f"{here}/{name}/a.png"]


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("$SET/a", "elsewhere/a"),
        ("${SET}/a", "elsewhere/a"),
        ("here/$SET/a", "here/elsewhere/a"),
        ("~/a", "/home/me/a"),
        ("~", "/home/me"),
        ("~nobody-of-this-name/a", "~nobody-of-this-name/a"),
        ("here/~/a", "here/~/a"),
        ("cost$", "cost$"),
        ("a $5 bill", "a $5 bill"),
        ("$(echo)", "$(echo)"),
        ("[new]/*.png", "[new]/*.png"),
        ("/none-of-this-name/a", "/none-of-this-name/a"),
    ],
)
def test_only_the_rest_is_expanded(here, path, expected):
    Path("here").mkdir()
    assert expand_path(path, "x") == expected


def test_a_variable_that_is_not_set(here, monkeypatch):
    monkeypatch.delenv("SET")
    with pytest.raises(ValueError, match=r"x is 'a/\$SET/b', but .* SET is not set"):
        expand_path("a/$SET/b", "x")
    Path("a", "$SET").mkdir(parents=True)
    assert expand_path("a/$SET/b", "x") == "a/$SET/b"
    with pytest.raises(ValueError, match="x is empty"):
        expand_path(" ", "x")


def test_wildcards(here):
    for name in ("p/[hd]/a.png", "p/h/b.png", "p/h/.c.png", "p/.x/d.png", "p/h/i/e.png"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()
    assert glob_paths("p/[hd]/*.png") == ["p/[hd]/a.png"]
    assert glob_paths("p/[h]/*.png") == ["p/h/b.png"]
    assert glob_paths("p/**/*.png") == ["p/[hd]/a.png", "p/h/b.png", "p/h/i/e.png"]
    assert glob_paths("h/?.png", "p") == ["h/b.png"]
    assert glob_paths("none/*.png") == []
    assert glob_paths("p/h/**") == ["p/h/b.png", "p/h/i", "p/h/i/e.png"]


def test_links_in_circles(here):
    Path("p/a").mkdir(parents=True)
    Path("p/a/x.png").touch()
    Path("p/up").symlink_to(here / "p")
    Path("p/a/up").symlink_to(here / "p")
    assert glob_paths("p/**/*.png") == ["p/a/x.png"]


@pytest.fixture
def closed(here: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a folder that not even root can list."""
    folder = here / "set" / "closed"
    folder.mkdir(parents=True)
    (here / "set" / "a.png").touch()
    for name in ("scandir", "listdir"):
        whole = getattr(os, name)

        def refused(path: str = ".", whole: Callable[[str], object] = whole) -> object:
            if os.path.abspath(path) == str(folder):
                raise PermissionError(13, "Permission denied", os.fspath(path))
            return whole(path)

        monkeypatch.setattr(os, name, refused)
    return folder


@pytest.mark.parametrize(
    "listed",
    [
        lambda: list(walk("set")),
        lambda: list_images(Path("set")),
        lambda: glob_paths("set/**/*.png"),
        lambda: glob_paths("set/*/*.png"),
    ],
)
def test_a_folder_that_cannot_be_listed_is_named(closed, listed):
    with pytest.raises(ValueError, match=r"'.*set/closed' cannot be listed \(Permission denied\)"):
        listed()


def special(kind: str, path: Path) -> None:
    if kind == "named pipe":
        os.mkfifo(path)
    elif kind == "socket":
        socket.socket(socket.AF_UNIX).bind(str(path))
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        path.mkdir()


@pytest.mark.parametrize("kind", ["named pipe", "socket", "device", "folder"])
def test_only_regular_files_are_opened(here, kind):
    special(kind, Path("x"))
    with pytest.raises(OSError, match="not a regular file"):
        open_regular("x")
