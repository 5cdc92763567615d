"""`prepare`: a downloaded archive becomes the folder that configurations name."""

import shutil

import pytest
from PIL import Image

from commands.errors import CONFIGS, ConfigurationError
from commands.prepare import _prepare, main
from files.yaml import plain_yaml

RECIPES = plain_yaml((CONFIGS / "needs.yaml").read_text())["prepare"]


def size_of(path):
    with Image.open(path) as image:
        return image.size


def test_an_archive_is_unpacked_and_its_images_are_counted(tmp_path):
    downloaded = tmp_path / "downloaded"
    downloaded.mkdir()
    for number in range(24):
        Image.new("RGB", (8, 6), (number, 0, 0)).save(downloaded / f"{number}.png")
    archive = shutil.make_archive(str(downloaded), "zip", downloaded)
    out = tmp_path / "kodak24"
    assert main(["kodak24", archive, "--out", str(out)]) == 0
    assert len(list(out.iterdir())) == 24  # Kodak's set has so many
    (downloaded / "5.png").unlink()
    with pytest.raises(ConfigurationError, match="has 23 images of this set, which has 24"):
        main(["kodak24", str(downloaded), "--out", str(out)])


def test_images_become_squares_of_the_side_of_a_recipe(tmp_path):
    Image.new("RGB", (30, 20)).save(tmp_path / "wide.png")
    _prepare(tmp_path, tmp_path / "out", {"count": 1, "side": 8})
    assert size_of(tmp_path / "out/wide.png") == (8, 8)


def test_hr_and_lr_of_a_pair_are_told_apart_by_their_names(tmp_path):
    (tmp_path / "image_SRF_2").mkdir()
    for method, size in {"HR": (8, 6), "LR": (4, 3), "A+": (8, 6)}.items():  # A+ made an output
        Image.new("RGB", size).save(tmp_path / f"image_SRF_2/a_SRF_2_{method}.png")
    files = {"count": 2}  # in place of those of five pairs
    _prepare(tmp_path, tmp_path / "out", RECIPES["set5/x2"] | files)
    assert size_of(tmp_path / "out/hr/a.png") == (8, 6)
    assert size_of(tmp_path / "out/lr/a.png") == (4, 3)


def test_pairs_are_made_by_the_degradation_of_a_recipe(tmp_path):
    Image.new("RGB", (90, 60), (200, 100, 50)).save(tmp_path / "0801.png")
    _prepare(tmp_path, tmp_path / "out", RECIPES["div2k_1024"] | {"count": 1, "side": 64})
    assert size_of(tmp_path / "out/hr/0801.png") == (64, 64)
    assert size_of(tmp_path / "out/lr/0801.png") == (16, 16)  # at the recipe's scale, 4
