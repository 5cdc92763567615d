"""Folder: the files it finds, their keys, its errors, and outputs that it leaves out."""

from __future__ import annotations

import pickle
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from datamodules.sources.folder import Folder, Outputs
from tests.datamodules.image_files import pixels, save


def prepared(*arguments, **options):
    source = Folder(*arguments, **options)
    source.prepare(2.0)
    return source


@pytest.fixture
def tree(tmp_path):
    for number, name in enumerate(["b.png", "a.JPG", "deep/er/c.webp", "deep/a.png", ".d.png"]):
        save(tmp_path / name, seed=number)
    (tmp_path / "notes.txt").write_text("none of the images")
    return tmp_path


def test_finds_images_below_the_root_in_order(tree):
    source = prepared(str(tree))
    assert source.keys == ["a", "b", "deep/a", "deep/er/c"]
    np.testing.assert_array_equal(source.read(1)["hr"], pixels(seed=0))
    assert source.groups == [4]


def test_meta_is_what_a_writer_needs(tree):
    meta = prepared(str(tree)).read(1)["meta"]
    assert meta["path"] == str(tree / "b.png")
    assert meta["bit_depth"] == 8
    assert {"alpha", "icc"} <= meta.keys()
    found = (tree / "b.png").stat()
    assert meta["read"] == (found.st_size, found.st_mtime_ns)


def test_files_below_a_root_keep_their_keys(tree):
    assert prepared(str(tree), files=["deep/*.png", "b.png"]).keys == ["b", "deep/a"]
    assert prepared(str(tree), files=["**/*.png"]).keys == ["b", "deep/a"]


def test_files_without_a_root(tree):
    files = [str(tree / "deep" / "**" / "*.*"), str(tree / "b.png")]
    assert prepared(files=files).keys == ["a", "b", "er/c"]


def test_of_takes_folders_and_files(tree):
    for paths in (str(tree), [str(tree)], [str(tree), str(tree / "b.png")]):
        source = Folder.of(paths)
        source.prepare(2.0)
        assert source.keys == ["a", "b", "deep/a", "deep/er/c"]


def test_linked_folders_are_followed_once(tree):
    (tree / "deep" / "loop").symlink_to(tree)
    (tree / "elsewhere").mkdir()
    save(tree / "elsewhere" / "z.png")
    assert prepared(str(tree)).keys == ["a", "b", "deep/a", "deep/er/c", "elsewhere/z"]
    outside = tree / "linked"
    outside.mkdir()
    (outside / "set").symlink_to(tree / "elsewhere")
    assert prepared(str(outside)).keys == ["set/z"]


# --------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("names", "keys"),
    [
        (["x.jpg", "x.png", "x.jpg.png"], ["x.jpg", "x.jpg.png", "x.png"]),
        (["x.jpg", "x.jpg.png"], ["x", "x.jpg"]),
        (
            ["x.png", "x.bmp", "x.png.png", "x.png.png.png"],
            ["x.png", "x.bmp", "x.png.png", "x.png.png.png"],
        ),
        (["x.JPG", "x.jpg", "x.JPG.png"], ["x.JPG", "x.jpg", "x.JPG.png"]),
        (["x.jpg", "y/x.png", "y/x.bmp"], ["x", "y/x.png", "y/x.bmp"]),
    ],
)
def test_predict_tells_all_files_apart(tmp_path, names, keys):
    for name in names:
        save(tmp_path / name)
    folder = Folder.of(str(tmp_path))
    folder.prepare(1)
    found = {folder.keys[n]: folder.path(n) for n in range(len(folder.keys))}
    assert sorted(found) == sorted(keys)
    for key, path in found.items():
        assert path in (f"{tmp_path}/{key}", *(f"{tmp_path}/{key}.{end}" for end in ("jpg", "png")))


def test_two_files_with_one_key(tree):
    save(tree / "b.jpg")
    with pytest.raises(ValueError, match=r"b\.jpg.*b\.png.*the key 'b'"):
        prepared(str(tree))


def test_files_outside_of_the_root(tree):
    with pytest.raises(ValueError, match=r"is not below Folder\.root"):
        prepared(str(tree / "deep"), files=["../a.JPG"])


# ---------------------------------------------------------------------- predict's own outputs


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for name in ("a.jpg", "a.png", "sub/b.png", "sub/out/c.png", "sub/outer/d.png"):
        save(tmp_path / "in" / name)
    return tmp_path / "in"


def left(paths: str | list[str], folder: Path, *names: str) -> list[str]:
    source = Folder.of(paths)
    source.outputs = Outputs(folder, partial(set, names))
    source.prepare(2.0)
    return list(pickle.loads(pickle.dumps(source)).keys)  # as a worker gets it


@pytest.mark.parametrize("pattern", ["", "**/*.*"])
def test_a_writers_folder_below_the_one_that_is_searched(photos: Path, pattern: str) -> None:
    paths = str(photos / pattern)
    assert left(paths, photos / "sub" / "out") == ["a.jpg", "a.png", "sub/b", "sub/outer/d"]
    assert left(paths, photos / "sub") == ["a.jpg", "a.png"]
    assert (
        len(left(paths, photos / "not_there_yet")) == len(left(paths, photos.parent / "other")) == 5
    )


def test_in_the_writers_folder_or_below_it_what_is_known(photos: Path) -> None:
    """A name does not change if an output with another extension is beside it."""
    assert left(str(photos), photos, "a.png", "sub/out/c.png") == ["a", "sub/b", "sub/outer/d"]
    assert left(str(photos / "sub"), photos, "a.png", "sub/b.png") == ["out/c", "outer/d"]
    assert len(left(str(photos), photos)) == 5


def test_files_that_are_named_stay(photos: Path) -> None:
    files = [str(photos / "sub" / "b.png"), str(photos / "a.png")]
    assert left(files, photos, "a.png") == left(files, photos / "sub") == ["a", "b"]
