"""`enlarger.measure`, and the commands `measure` and `compare`: numbers and their protocols."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

import enlarger
from callbacks import PSNR
from callbacks.results.compare import mean_interval
from commands import compare, measure
from lightning_modules import Bicubic
from main import main
from tests.callbacks.results.measured import KEYS, run
from tests.datamodules.profiles import rgb_profile

DRAWS = np.random.default_rng(0)


def noise(height=24, width=20):
    return DRAWS.integers(0, 256, (height, width, 3), dtype=np.uint8)


RGB = noise()
OUTPUTS = [noise(), noise()]
REFERENCES = [noise(), noise()]


def psnr(sr, hr, peak=255):
    """10 log10(peak² / mean squared error)."""
    return 10 * np.log10(peak**2 / np.mean((sr / 1.0 - hr) ** 2))


def save(folder, images):
    """Write images as a.png, b.png ... in a folder."""
    Path(folder).mkdir()
    for name, image in zip("abcdef", images, strict=False):
        cv2.imwrite(f"{folder}/{name}.png", image[..., ::-1])


def test_psnr_of_rgb_is_its_definition_on_images_whose_border_of_scale_pixels_is_cut():
    """Papers cut the border, too, but measure luminance, Y, which is the default here."""
    rgb = PSNR(color="rgb", label="rgb")
    found = enlarger.measure(OUTPUTS, REFERENCES, ["psnr", rgb], scale=2)
    inside = np.s_[2:-2, 2:-2]
    first = psnr(OUTPUTS[0][inside], REFERENCES[0][inside])
    second = psnr(OUTPUTS[1][inside], REFERENCES[1][inside])
    assert found["rgb"]["images"] == pytest.approx({"000000": first, "000001": second}, rel=1e-5)
    assert found["psnr"]["n"] == 2
    assert found["psnr"]["protocol"]["color"] == "y"


@pytest.mark.parametrize(
    ("outputs", "references", "metrics", "message"),
    [
        pytest.param([RGB], [RGB], ["pnsr"], "no metric 'pnsr'; did you mean 'psnr'", id="typo"),
        pytest.param({"a": RGB}, {"b": RGB}, ["psnr"], "differ in 2 names, such as a", id="names"),
        pytest.param([RGB[:9]], [RGB], ["psnr"], "expected equal sizes", id="sizes"),
        pytest.param([RGB], [RGB], ["lr_consistency"], "has no `lr` to compare", id="no LR"),
    ],
)
def test_what_cannot_be_measured_is_refused(outputs, references, metrics, message):
    with pytest.raises(ValueError, match=message):
        enlarger.measure(outputs, references, metrics)


def test_a_reference_is_cut_to_a_multiple_of_the_scale_only_if_the_output_is():
    """Of a reference of 23 x 19, LR at x2 has 11 x 9 pixels, and its enlargement 22 x 18.

    An output may have the reference's own size, too. The protocol says what was measured, so that
    the two are not compared.
    """
    hr = noise(height=23, width=19)
    lr = enlarger.degrade(hr, "bicubic", scale=2)
    bicubic = enlarger.Enlarger(Bicubic(2), "cpu")
    whole = bicubic.enlarge(lr, size=(23, 19))
    cut = bicubic.enlarge(lr)
    metrics = ["psnr", PSNR(color="rgb", border=0, label="exact")]

    of_whole = enlarger.measure([whole], [hr], metrics, scale=2)
    of_cut = enlarger.measure([cut], [hr], metrics, scale=2)

    assert of_whole["exact"]["value"] == pytest.approx(psnr(whole, hr), rel=1e-5)
    assert of_cut["exact"]["value"] == pytest.approx(psnr(cut, hr[:22, :18]), rel=1e-5)
    assert of_whole["psnr"]["protocol"]["border"] == 2
    assert "reference" not in of_whole["psnr"]["protocol"]
    assert of_cut["psnr"]["protocol"]["border"] == 2
    assert of_cut["psnr"]["protocol"]["reference"] == "cut to multiples of 2"


def test_files_of_16_bits_and_floats_are_rounded_to_8_bits_if_the_protocol_says_so(tmp_path):
    """`round_8bit` is on by default, as papers save PNGs of 8 bits; without it, PSNR is exact.

    A level of 8 bits is 257 of 16 bits. The error here is up to a third of one; rounded, it is
    none or a whole one.
    """
    third = 257 // 3
    white = 65535
    hr = DRAWS.integers(third, white - third, (24, 20, 3)).astype(np.uint16)
    sr = (hr + DRAWS.integers(-third, third, hr.shape)).astype(np.uint16)
    expected = psnr(sr, hr, peak=white)
    save(tmp_path / "sr", [sr])
    save(tmp_path / "hr", [hr])

    exact = PSNR(color="rgb", border=0, round_8bit=False)
    rounded = PSNR(color="rgb", border=0)
    of_files = enlarger.measure(tmp_path / "sr", tmp_path / "hr", [exact])
    of_floats = enlarger.measure([sr / white], [hr / white], [exact])
    of_8_bits = enlarger.measure(tmp_path / "sr", tmp_path / "hr", [rounded])

    assert of_files["psnr"]["value"] == pytest.approx(expected, rel=1e-4)
    assert of_floats["psnr"]["value"] == pytest.approx(expected, rel=1e-4)
    assert abs(of_8_bits["psnr"]["value"] - expected) > 1  # dB: 56 for 62


def test_pillow_images_are_converted_to_srgb_by_their_profile_as_files_are(tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(RGB).save(path, icc_profile=rgb_profile())
    of_image = enlarger.measure([Image.open(path)], [path], ["psnr"])["psnr"]
    of_levels = enlarger.measure([RGB], [path], ["psnr"])["psnr"]
    assert np.isinf(of_image["value"])  # the two are equal
    assert np.isfinite(of_levels["value"])  # an array has no profile


# ------------------------------------------------------------------------------------ the commands


def test_measure_prints_and_writes_the_numbers_of_two_folders(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save("sr", OUTPUTS)
    save("hr", REFERENCES)
    of_images = enlarger.measure(OUTPUTS, REFERENCES, scale=2)

    with pytest.raises(SystemExit, match="0"):
        main(["measure", "sr", "--reference", "hr", "--scale=2", "--json=out.json"])

    written = json.loads(Path("out.json").read_text())
    printed = capsys.readouterr().out
    assert written == enlarger.measure("sr", "hr", scale=2)
    assert list(written["psnr"]["images"]) == ["a", "b"]
    for name in ("psnr", "ssim"):
        assert written[name]["value"] == of_images[name]["value"]
        assert f"{name:<12} {written[name]['value']:<10.5g} of 2 images" in printed


def test_an_infinite_psnr_is_written_to_json_as_text(tmp_path):
    """JSON has no infinity: Python would write `Infinity`, which other programs cannot read."""
    Image.fromarray(RGB).save(tmp_path / "a.png")
    file = tmp_path / "out.json"
    # An image and itself: its mean squared error is 0.
    assert measure.main([str(tmp_path), f"--reference={tmp_path}", f"--json={file}"]) == 0
    found = json.loads(file.read_text(), parse_constant=pytest.fail)["psnr"]
    assert found["value"] == "inf"
    assert found["images"] == {"a": "inf"}


def test_compare_of_folders_prints_the_mean_difference_and_interval(tmp_path, capsys, monkeypatch):
    """Images are paired by their names without the ending: a.png with a.bmp.

    `mean_interval` is the bootstrap over images that has tests of its own.
    """
    monkeypatch.chdir(tmp_path)
    hr = [noise() for _ in range(6)]  # an interval needs 5
    save("hr", hr)
    save("fine", [image // 8 * 8 for image in hr])  # off by up to 7 levels
    save("coarse", [image // 32 * 32 for image in hr])  # by up to 31
    Image.open("coarse/a.png").save("coarse/a.bmp")
    Path("coarse/a.png").unlink()

    assert compare.main(["fine", "coarse", "--reference", "hr", "--scale", "2"]) == 0

    of_fine = enlarger.measure("fine", "hr", scale=2)["psnr"]["images"]
    of_coarse = enlarger.measure("coarse", "hr", scale=2)["psnr"]["images"]
    differences = np.array([of_fine[name] - of_coarse[name] for name in of_fine])
    low, high = mean_interval(differences)
    printed = capsys.readouterr().out
    assert f"{differences.mean():+.4f}" in printed
    assert f"{low:+.4f} to {high:+.4f}" in printed
    assert "A is better" in printed  # A is the first, fine


def test_compare_of_runs_reads_the_psnr_of_each_image_that_test_has_written(tmp_path, capsys):
    better = run(tmp_path / "one", values=[31.0, 32.0, 33.0, 34.0, 35.0, 36.0], keys=KEYS[:6])
    worse = run(tmp_path / "two", values=[30.0, 31.0, 32.0, 33.0, 34.0, 35.0], keys=KEYS[:6])
    assert compare.main([better, worse]) == 0
    assert "A is better" in capsys.readouterr().out  # by 1 dB on each image


def test_compare_of_a_folder_that_is_no_run_asks_for_one(tmp_path):
    with pytest.raises(FileNotFoundError, match="name the directory of a run"):
        compare.main([run(tmp_path / "one", values=[30.0], keys=KEYS[:1]), "nowhere"])
