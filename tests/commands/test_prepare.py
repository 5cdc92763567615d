"""`prepare`: a downloaded archive becomes the folder that configurations name."""

import shutil

import pytest
import torch
from PIL import Image

from commands.errors import CONFIGS, ConfigurationError
from commands.prepare import _prepare, main
from degradations.draws import seed_of
from degradations.tools.configure import degradation_of
from files.yaml import plain_yaml
from tests.make import assert_near, photograph, read

RECIPES = plain_yaml((CONFIGS / "needs.yaml").read_text())["prepare"]


def test_an_archive_is_unpacked_and_its_images_are_counted(tmp_path):
    downloaded = tmp_path / "downloaded"
    downloaded.mkdir()
    for number in range(24):
        Image.new("RGB", (8, 6), (number, 0, 0)).save(downloaded / f"{number}.png")
    archive = shutil.make_archive(str(downloaded), "zip", downloaded)
    out = tmp_path / "kodak24"

    assert main(["kodak24", archive, "--out", str(out)]) == 0
    assert len(list(out.iterdir())) == 24  # Kodak's set has so many
    for path in out.iterdir():
        assert path.read_bytes() == (downloaded / path.name).read_bytes()

    (downloaded / "5.png").unlink()
    with pytest.raises(ConfigurationError, match="has 23 images of this set, which has 24"):
        main(["kodak24", str(downloaded), "--out", str(out)])


def test_an_image_is_reduced_to_the_side_of_a_recipe_and_cut_to_its_middle_square(tmp_path):
    image = Image.fromarray(photograph(height=20, width=30))
    image.save(tmp_path / "wide.png")
    _prepare(tmp_path, tmp_path / "out", {"count": 1, "side": 8})
    reduced = image.resize((12, 8), Image.Resampling.BICUBIC)  # the shorter side becomes 8
    middle = reduced.crop((2, 0, 10, 8))  # (12 - 8) / 2 = 2 columns on each side are cut off
    assert Image.open(tmp_path / "out/wide.png").tobytes() == middle.tobytes()


def test_hr_and_lr_of_a_pair_are_told_apart_by_their_names(tmp_path):
    folder = tmp_path / "image_SRF_2"
    folder.mkdir()
    for name, colour in {"HR": "red", "LR": "lime", "A+": "blue"}.items():  # A+ made an output
        size = (4, 3) if name == "LR" else (8, 6)
        Image.new("RGB", size, colour).save(folder / f"a_SRF_2_{name}.png")
    files = {"count": 2}  # in place of those of five pairs
    _prepare(tmp_path, tmp_path / "out", RECIPES["set5/x2"] | files)
    for part, name in (("hr", "HR"), ("lr", "LR")):
        copy = tmp_path / "out" / part / "a.png"
        assert copy.read_bytes() == (folder / f"a_SRF_2_{name}.png").read_bytes()


def test_pairs_are_made_by_the_degradation_of_a_recipe(tmp_path):
    Image.new("RGB", (90, 60), (200, 100, 50)).save(tmp_path / "0801.png")
    _prepare(tmp_path, tmp_path / "out", RECIPES["div2k_1024"] | {"count": 1, "side": 64})
    hr = read(tmp_path / "out/hr/0801.png")
    recipe = degradation_of([CONFIGS / "degradation/real_esrgan.yaml"], scale=4)
    expected = recipe(hr, torch.tensor([seed_of("0801.png")]))
    assert hr.shape[2:] == (64, 64)
    assert_near(read(tmp_path / "out/lr/0801.png"), expected, within=0.51 / 255)  # it has 8 bits
