"""The contact sheet: files, parameters, errors."""

from __future__ import annotations

import base64
import io
import re

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from skimage import data

from degradations.tools import preview
from degradations.tools.configure import degradation_of
from degradations.tools.preview import Section, Tile, page, sheet

NOISE = "degradations.GaussianNoise"
RECIPE = {
    "class_path": "degradations.Pipeline",
    "init_args": {
        "stages": {
            "first": {"class_path": NOISE, "init_args": {"sigma": [25, 25]}},
            "perhaps": {
                "class_path": "degradations.Sometimes",
                "init_args": {"stage": {"class_path": NOISE}, "p": 0.5},
            },
        }
    },
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Work in a folder with a photograph and a recipe."""
    monkeypatch.chdir(tmp_path)
    Image.fromarray(data.astronaut()).save("photo.png")
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    return tmp_path


def run(*arguments):
    return preview.main(["--config", "recipe.yaml", *map(str, arguments)])


def embedded(html):
    """Return the images of a page."""
    return [
        np.asarray(Image.open(io.BytesIO(base64.b64decode(text))))
        for text in re.findall(r"data:image/png;base64,([^\"]+)", html)
    ]


def test_both_files_show_what_the_degradation_does(folder, caplog):
    with caplog.at_level("INFO"):
        assert run("photo.png", "--draws", "3", "--crop", "64", "--seed", "7") == 0
    assert {path.name for path in folder.iterdir()} >= {"preview.png", "preview.html"}
    assert "preview.html" in caplog.text
    html = (folder / "preview.html").read_text()
    images = embedded(html)
    hr = data.astronaut()[224:288, 224:288]
    np.testing.assert_array_equal(images[0], hr)
    # The LR of the draw that is shown stage by stage, and those of all draws.
    degradation = degradation_of(["recipe.yaml"], 4.0)
    x = torch.from_numpy(hr / 255.0).float().permute(2, 0, 1)[None]
    for seed, image in zip((7, 7, 8, 9), images[-4:], strict=True):
        lr = degradation(x, torch.tensor([seed]))[0].permute(1, 2, 0) * 255
        np.testing.assert_array_equal(image, lr.round().numpy())
    assert "levels 25<br>grey " in html
    assert "64 x 64 px" in html
    assert "16 x 16 px" in html
    assert re.search(r"(applied|skipped) \(probability 50%\)", html)


def test_a_page_needs_nothing_from_elsewhere(folder):
    run("photo.png", "--draws", "2", "--crop", "32")
    html = (folder / "preview.html").read_text()
    assert not re.search(r"(src|href)=\"(?!data:)", html)
    assert "http" not in html
    assert "@import" not in html


def test_options(folder):
    out = folder / "sub" / "sheet.png"
    options = ("--draws", "2", "--rows", "2", "--crop", "32", "--at", "5", "6", "--scale", "2")
    assert run("photo.png", *options, "--out", out) == 0
    images = embedded((folder / "sub" / "sheet.html").read_text())
    np.testing.assert_array_equal(images[0], data.astronaut()[5:37, 6:38])
    assert images[-1].shape == (16, 16, 3)
    assert out.is_file()


def test_a_degradation_that_is_no_pipeline(folder):
    (folder / "recipe.yaml").write_text("class_path: degradations.Bicubic\n")
    assert run("photo.png", "--crop", "32", "--draws", "1") == 0
    assert len(embedded((folder / "preview.html").read_text())) == 3  # HR, LR, the one draw


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.png"], "the image nowhere.png does not exist"),
        (["recipe.yaml"], "recipe.yaml cannot be read as an image"),
        (["photo.png", "--crop", "600"], "512 x 512 px, smaller than the crop of 600 px"),
        (["photo.png", "--at", "400", "0"], "at row 400, column 0 is not inside photo.png"),
        (["photo.png", "--config", "no.yaml"], "no.yaml cannot be read: No such file"),
        (["photo.png", "--scale", "0"], "scale is 0.0; expected a positive number"),
        (["photo.png", "--scale", "1000"], "less than one pixel"),
        (["photo.png", "--rows", "3", "--draws", "2"], "--rows is 3, more than the --draws 2"),
    ],
)
def test_errors(folder, caplog, arguments, message):
    assert run(*arguments) == 2
    assert message in caplog.text
    assert not (folder / "preview.png").exists()


@pytest.mark.parametrize("out", ["photo", "./photo.png", "link"])
def test_the_photograph_is_never_overwritten(folder, caplog, out):
    (folder / "link.png").symlink_to("photo.png")
    before = (folder / "photo.png").read_bytes()
    assert run("photo.png", "--out", out) == 2
    assert "is an input and would be overwritten: give another --out" in caplog.text
    assert (folder / "photo.png").read_bytes() == before
    assert not (folder / "photo.html").exists()


def test_a_folder_in_the_place_of_the_sheet(folder, caplog):
    (folder / "preview.html").mkdir()
    assert run("photo.png") == 2
    assert "preview.html is a folder, but a file must be written there" in caplog.text
    assert not (folder / "preview.png").exists()


def test_an_unknown_key(folder, caplog):
    recipe = {**RECIPE, "init_args": {**RECIPE["init_args"], "quantise": True}}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    assert run("photo.png") == 2
    assert "recipe.yaml: unknown key 'degradation.init_args.quantise'" in caplog.text


def test_a_grey_image_of_16_bits(folder):
    deep = (np.arange(64 * 64).reshape(64, 64) * 16).astype(np.uint16)
    Image.fromarray(deep).save("deep.png")
    assert run("deep.png", "--crop", "64", "--draws", "1") == 0
    shown = embedded((folder / "preview.html").read_text())[0]
    np.testing.assert_array_equal(shown[..., 0], np.round(deep / 257))


def test_a_sheet_shows_images_where_they_belong():
    red, small = Image.new("RGB", (64, 64), "red"), Image.new("RGB", (16, 16), "blue")
    tiles = [Tile(red, "one", ["a line"]), Tile(small, "two"), Tile(None, "three")]
    image = np.asarray(sheet([Section("All", tiles, side=64)], width=180))
    assert image.shape[1] == 180
    assert (image == (255, 0, 0)).all(-1).sum() == 64 * 64
    assert (image == (0, 0, 255)).all(-1).sum() == 64 * 64  # enlarged to the side
    assert "<b>one</b>" in page("title", [Section("All", tiles)])


def test_text_is_escaped():
    html = page("<b>&", [Section("<i>", [Tile(None, "<u>", ["<s>"])])])
    assert not re.search(r"<(i|u|s)>", html)
