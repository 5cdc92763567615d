"""Folder, Paired and Photos: the files they find, their keys, and outputs that are left out."""

import pickle
from functools import partial

import pytest
from numpy.testing import assert_array_equal

from datamodules.sources.folder import Folder, Outputs
from datamodules.sources.paired import Paired
from datamodules.sources.photos import PHOTOS, Photos
from tests.datamodules.image_files import pixels, save


def prepared(source):
    source.prepare(scale=2.0)
    return source


@pytest.fixture
def tree(tmp_path):
    for number, name in enumerate(["b.png", "a.JPG", "deep/er/c.webp", "deep/a.png", ".d.png"]):
        save(tmp_path / name, seed=number)
    (tmp_path / "notes.txt").write_text("none of the images")
    return tmp_path


def test_images_below_the_root_are_found_in_order_and_read(tree):
    source = prepared(Folder(str(tree)))
    sample = source.read(1)
    file = (tree / "b.png").stat()

    assert source.keys == ["a", "b", "deep/a", "deep/er/c"]
    assert source.groups == [4]  # one group: a folder is not read shard by shard
    assert_array_equal(sample["hr"], pixels(seed=0))
    assert sample["meta"]["path"] == str(tree / "b.png")
    assert sample["meta"]["bit_depth"] == 8
    assert sample["meta"]["read"] == (file.st_size, file.st_mtime_ns)


@pytest.mark.parametrize("files", [["deep/*.png", "b.png"], ["**/*.png"]])
def test_files_below_a_root_keep_their_keys(tree, files):
    assert prepared(Folder(str(tree), files=files)).keys == ["b", "deep/a"]


def test_files_without_a_root_have_keys_below_their_folders(tree):
    source = prepared(Folder(files=[f"{tree}/deep/**/*.*", f"{tree}/b.png"]))
    assert source.keys == ["a", "b", "er/c"]


def test_linked_folders_are_followed_once(tree):
    (tree / "deep" / "loop").symlink_to(tree)
    assert prepared(Folder(str(tree))).keys == ["a", "b", "deep/a", "deep/er/c"]


@pytest.mark.parametrize(
    ("names", "keys"),
    [
        pytest.param("x.jpg x.png x.jpg.png", "x.jpg x.png x.jpg.png", id="and a third's name"),
        pytest.param("x.jpg x.jpg.png", "x x.jpg", id="none shared"),
        pytest.param("x.JPG x.jpg x.JPG.png", "x.JPG x.jpg x.JPG.png", id="endings of two cases"),
        pytest.param("x.jpg y/x.png y/x.bmp", "x y/x.png y/x.bmp", id="shared in one folder"),
    ],
)
def test_predict_has_the_ending_in_keys_that_files_would_share(tmp_path, names, keys):
    """Else the output of one would replace that of the other."""
    names = names.split()
    keys = keys.split()
    for name in names:
        save(tmp_path / name)
    # The first file is named twice, and counts once.
    folder = prepared(Folder.of([str(tmp_path), str(tmp_path / names[0])]))
    paths = {key: folder.path(index) for index, key in enumerate(folder.keys)}
    assert paths == {key: f"{tmp_path}/{name}" for key, name in zip(keys, names, strict=True)}


# ---------------------------------------------------------------------------- predict's own outputs


@pytest.fixture
def photos(tmp_path):
    for name in ("a.jpg", "a.png", "sub/b.png", "sub/out/c.png", "sub/outer/d.png"):
        save(tmp_path / "in" / name)
    return tmp_path / "in"


def inputs(paths, writer_folder, *outputs):
    """The keys of what `predict` reads; `outputs` are what its writer calls its own."""
    source = Folder.of(paths)
    source.outputs = Outputs(writer_folder, partial(set, outputs))
    return list(pickle.loads(pickle.dumps(prepared(source))).keys)  # as a worker gets it


@pytest.mark.parametrize("pattern", ["", "**/*.*"])
def test_a_writers_folder_below_the_one_that_is_searched_is_left_out(photos, pattern):
    paths = str(photos / pattern)
    assert inputs(paths, photos / "sub" / "out") == ["a.jpg", "a.png", "sub/b", "sub/outer/d"]
    assert inputs(paths, photos / "sub") == ["a.jpg", "a.png"]
    assert len(inputs(paths, photos.parent / "other")) == 5  # all


def test_outputs_in_the_folder_of_the_inputs_are_left_out(photos):
    """The key of a.jpg stays "a": an output a.png beside it is no second input of that name."""
    assert inputs(str(photos), photos, "a.png", "sub/out/c.png") == ["a", "sub/b", "sub/outer/d"]
    assert inputs(str(photos / "sub"), photos, "a.png", "sub/b.png") == ["out/c", "outer/d"]


def test_outputs_that_are_named_one_by_one_are_read(photos):
    files = [str(photos / "sub" / "b.png"), str(photos / "a.png")]
    assert inputs(files, photos, "a.png") == ["a", "b"]
    assert inputs(files, photos / "sub") == ["a", "b"]


# --------------------------------------------------------------------------------- Paired, Photos


def test_pairs_are_matched_by_name_whatever_the_extension(tmp_path):
    for number, name in enumerate(["a", "sub/b"]):
        save(tmp_path / "hr" / f"{name}.png", (12, 8), seed=number)
        save(tmp_path / "lr" / f"{name}.bmp", (6, 4), seed=number + 10)

    source = prepared(Paired(str(tmp_path / "hr"), str(tmp_path / "lr")))
    sample = source.read(1)

    assert source.keys == ["a", "sub/b"]
    assert_array_equal(sample["hr"], pixels((12, 8), seed=1))
    assert_array_equal(sample["lr"], pixels((6, 4), seed=11))
    assert sample["meta"]["path"].endswith("hr/sub/b.png")


def test_pairs_with_the_names_of_div2k_are_matched(tmp_path):
    save(tmp_path / "hr" / "0001.png", (12, 8))
    save(tmp_path / "LR" / "X2" / "0001x2.png", (6, 4))
    lr = str(tmp_path / "LR" / "X{scale}")
    source = prepared(Paired(str(tmp_path / "hr"), lr, lr_suffix="x{scale}"))
    assert source.keys == ["0001"]
    assert source.read(0)["lr"].shape == (4, 6, 3)


@pytest.mark.parametrize("name", PHOTOS)
def test_each_photograph_can_be_read(name):
    hr = prepared(Photos([name])).read(0)["hr"]
    assert min(hr.shape[:2]) >= 300  # the smallest one, chelsea, is 451x300
    assert hr.std() > 5  # an image, not a blank
