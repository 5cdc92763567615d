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
    for name in ("a_SRF_2_HR", "a_SRF_2_LR", "a_SRF_2_A+"):  # the output of A+ is no part of a pair
        Image.new("RGB", (8, 6)).save(tmp_path / f"image_SRF_2/{name}.png")
    _prepare(tmp_path, tmp_path / "out", RECIPES["set5/x2"] | {"count": 2})
    assert (tmp_path / "out/hr/a.png").is_file()
    assert (tmp_path / "out/lr/a.png").is_file()


def test_pairs_are_made_by_the_degradation_of_a_recipe(tmp_path):
    Image.new("RGB", (90, 60), (200, 100, 50)).save(tmp_path / "0801.png")
    _prepare(tmp_path, tmp_path / "out", RECIPES["div2k_1024"] | {"count": 1, "side": 64})
    assert size_of(tmp_path / "out/hr/0801.png") == (64, 64)
    assert size_of(tmp_path / "out/lr/0801.png") == (16, 16)  # 64 / 4
