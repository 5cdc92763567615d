"""Paths that exist as written are used as written, and only files are opened."""

import errno
import os
import socket
from pathlib import Path

import pytest

from files.paths import expand_path, glob_paths, list_images, open_regular, walk

ODD = ["#2", "- dash", "Trip: Rome.png", "null", "~", "~x", "1e3", "[hd]", "{a}", "*x", "&a", "yes"]
ODD += ["$SET", "cost$", "$5", "${", "a\nb", " lead", "trail ", "\N{GRINNING FACE}", "%41", "-x"]
ODD += [os.fsdecode(b"\xff\xfe")]


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SET", "elsewhere")
    monkeypatch.setenv("HOME", "/home/me")
    return tmp_path


@pytest.mark.parametrize("name", ODD)
def test_what_exists_as_written_is_taken_as_written(here, name):
    """Users have names in which YAML, a shell, `glob`, a URL or UTF-8 would see something else."""
    Path(name).mkdir()
    Path(name, "a.png").touch()
    assert expand_path(name, what="x") == name
    assert expand_path(f"{name}/new", what="x") == f"{name}/new"
    assert expand_path(str(here / name), what="x") == str(here / name)
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
        ("~nobody-of-this-name/a", "~nobody-of-this-name/a"),  # no such user
        ("here/~/a", "here/~/a"),
        ("a $5 bill", "a $5 bill"),
        ("$(echo)", "$(echo)"),
        ("[new]/*.png", "[new]/*.png"),
        ("/none-of-this-name/a", "/none-of-this-name/a"),
    ],
)
def test_variables_and_a_leading_tilde_are_expanded_and_nothing_else(here, path, expected):
    Path("here").mkdir()
    assert expand_path(path, what="x") == expected


def test_an_unset_variable_is_refused_unless_the_path_exists_as_written(here, monkeypatch):
    monkeypatch.delenv("SET")
    with pytest.raises(ValueError, match=r"x is 'a/\$SET/b', but .* SET is not set"):
        expand_path("a/$SET/b", what="x")
    Path("a", "$SET").mkdir(parents=True)
    assert expand_path("a/$SET/b", what="x") == "a/$SET/b"


def test_an_empty_path_is_refused():
    with pytest.raises(ValueError, match="x is empty"):
        expand_path(" ", what="x")


@pytest.mark.parametrize(
    ("pattern", "paths"),
    [
        ("p/[hd]/*.png", ["p/[hd]/a.png"]),  # the folder of this name, and neither h nor d
        ("p/[h]/*.png", ["p/h/b.png"]),
        ("p/**/*.png", ["p/[hd]/a.png", "p/h/b.png", "p/h/i/e.png"]),
        ("p/h/**", ["p/h/b.png", "p/h/i", "p/h/i/e.png"]),
        ("none/*.png", []),
    ],
)
def test_wildcards_find_all_but_hidden_names(here, pattern, paths):
    for name in ("p/[hd]/a.png", "p/h/b.png", "p/h/.c.png", "p/.x/d.png", "p/h/i/e.png"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()
    assert glob_paths(pattern) == paths


def test_wildcards_follow_no_links_in_circles(here):
    Path("p/a").mkdir(parents=True)
    Path("p/a/x.png").touch()
    Path("p/up").symlink_to(here / "p")
    Path("p/a/up").symlink_to(here / "p")
    assert glob_paths("p/**/*.png") == ["p/a/x.png"]


def test_paths_below_a_root_are_relative_to_it(here):
    Path("p/a").mkdir(parents=True)
    Path("p/a/x.png").touch()
    assert glob_paths("a/?.png", root="p") == ["a/x.png"]


@pytest.mark.parametrize(
    "listed",
    [
        lambda: list(walk("set")),
        lambda: list_images(Path("set")),
        lambda: glob_paths("set/**/*.png"),
        lambda: glob_paths("set/*/*.png"),
    ],
    ids=["walk", "list_images", "**", "*"],
)
def test_a_folder_that_cannot_be_listed_is_named(here, monkeypatch, listed):
    """Else its images would be missing in silence.

    Permissions would not do: root, as whom tests in a container run, may list any folder.
    """
    (here / "set" / "closed").mkdir(parents=True)
    scandir = os.scandir

    def refuse(path="."):
        if Path(path).name == "closed":
            raise PermissionError(errno.EACCES, "Permission denied", os.fspath(path))
        return scandir(path)

    def names(path="."):
        with refuse(path) as entries:
            return [entry.name for entry in entries]

    monkeypatch.setattr(os, "scandir", refuse)
    monkeypatch.setattr(os, "listdir", names)
    with pytest.raises(ValueError, match=r"'.*set/closed' cannot be listed \(Permission denied\)"):
        listed()


def bind(path):
    socket.socket(socket.AF_UNIX).bind(path)


@pytest.mark.parametrize(
    "make",
    [os.mkfifo, bind, os.mkdir, lambda path: os.symlink("/dev/zero", path)],
    ids=["named pipe", "socket", "folder", "device"],
)
def test_only_regular_files_are_opened(here, make):
    """Reading would wait for a pipe's writer, and never end at a device such as /dev/zero."""
    make("x")
    with pytest.raises(OSError, match="not a regular file"):
        open_regular("x")
