"""Outputs: files of `predict` that a Folder leaves out of the images to enlarge."""

from __future__ import annotations

import pickle
from functools import partial
from pathlib import Path

import pytest

from datamodules.sources.folder import Folder, Outputs
from tests.datamodules.image_files import save


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in ("a.jpg", "a.png", "sub/b.png", "sub/out/c.png", "sub/outer/d.png"):
        save(tmp_path / "in" / name)
    return tmp_path / "in"


def keys(paths: str | list[str], folder: Path, *names: str) -> list[str]:
    source = Folder.of(paths)
    source.outputs = Outputs(folder, partial(set, names))
    source.prepare(2.0)
    return list(pickle.loads(pickle.dumps(source)).keys)  # as a worker gets it


@pytest.mark.parametrize("pattern", ["", "**/*.*"])
def test_a_writers_folder_below_the_one_that_is_searched(tree: Path, pattern: str) -> None:
    paths = str(tree / pattern)
    assert keys(paths, tree / "sub" / "out") == ["a.jpg", "a.png", "sub/b", "sub/outer/d"]
    assert keys(paths, tree / "sub") == ["a.jpg", "a.png"]
    assert len(keys(paths, tree / "not_there_yet")) == len(keys(paths, tree.parent / "other")) == 5


def test_in_the_writers_folder_or_below_it_what_is_known(tree: Path) -> None:
    """A name does not change if an output with another extension is beside it."""
    assert keys(str(tree), tree, "a.png", "sub/out/c.png") == ["a", "sub/b", "sub/outer/d"]
    assert keys(str(tree / "sub"), tree, "a.png", "sub/b.png") == ["out/c", "outer/d"]
    assert len(keys(str(tree), tree)) == 5


def test_files_that_are_named_stay(tree: Path) -> None:
    files = [str(tree / "sub" / "b.png"), str(tree / "a.png")]
    assert keys(files, tree, "a.png") == keys(files, tree / "sub") == ["a", "b"]


def test_nothing_but_outputs(tree: Path) -> None:
    message = r"data\.predict: all 1 images found in '.*out' are outputs in writer.folder '.*out'"
    with pytest.raises(ValueError, match=message):
        keys(str(tree / "sub" / "out"), tree / "sub" / "out", "c.png")
