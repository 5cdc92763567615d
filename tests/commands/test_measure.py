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
from callbacks.results.files import append
from commands import compare, measure
from lightning_modules import Bicubic
from main import main
from tests.callbacks.results.measured import row
from tests.datamodules.profiles import rgb_profile

DRAWS = np.random.default_rng(0)


def noise(height=24, width=20):
    return DRAWS.integers(0, 256, (height, width, 3), dtype=np.uint8)


RGB = noise()


def psnr(sr, hr, peak=255):
    return 10 * np.log10(peak**2 / np.mean((sr / 1.0 - hr) ** 2))


def save(folder, images):
    """Write images as a.png, b.png ... in a folder."""
    Path(folder).mkdir()
    for name, image in zip("abcdef", images, strict=False):
        cv2.imwrite(f"{folder}/{name}.png", image[..., ::-1])


@pytest.fixture
def outputs():
    return [noise(), noise()]


@pytest.fixture
def references():
    return [noise(), noise()]


def test_psnr_is_that_of_its_definition_without_a_border_as_wide_as_the_scale(outputs, references):
    """Of RGB if that is asked for, else of luminance."""
    rgb = PSNR(color="rgb", label="rgb")
    found = enlarger.measure(outputs, references, ["psnr", rgb], scale=2)
    expected = {}
    for number, (sr, hr) in enumerate(zip(outputs, references, strict=True)):
        expected[f"{number:06}"] = psnr(sr[2:-2, 2:-2], hr[2:-2, 2:-2])
    assert found["rgb"]["images"] == pytest.approx(expected, rel=1e-5)
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


def test_equal_sizes_are_measured_whole_and_a_larger_reference_is_cut():
    """Of a reference whose sides the scale does not divide; the protocol says which it was."""
    hr = noise(height=23, width=19)
    lr = enlarger.degrade(hr, "bicubic", scale=2)
    bicubic = enlarger.Enlarger(Bicubic(2), "cpu")
    whole = bicubic.enlarge(lr, size=(23, 19))
    cut = bicubic.enlarge(lr)  # 22 x 18
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
    """The error is up to a third of a level of 8 bits, 257 of 16 bits: rounding changes it."""
    third = 257 // 3  # of a level
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
    assert abs(of_8_bits["psnr"]["value"] - expected) > 1  # dB


def test_pillow_images_are_converted_to_srgb_by_their_profile_as_files_are(tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(RGB).save(path, icc_profile=rgb_profile())
    of_image = enlarger.measure([Image.open(path)], [path], ["psnr"])["psnr"]
    of_levels = enlarger.measure([RGB], [path], ["psnr"])["psnr"]
    assert np.isinf(of_image["value"])  # the two are equal
    assert np.isfinite(of_levels["value"])  # an array has no profile


# ------------------------------------------------------------------------------------ the commands


def test_measure_prints_and_writes_the_numbers_of_two_folders(
    outputs, references, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    save("sr", outputs)
    save("hr", references)
    of_images = enlarger.measure(outputs, references, scale=2)

    with pytest.raises(SystemExit, match="0"):
        main(["measure", "sr", "--reference", "hr", "--scale=2", "--json=out.json"])

    written = json.loads(Path("out.json").read_text())
    printed = capsys.readouterr().out
    assert written == enlarger.measure("sr", "hr", scale=2)
    assert list(written["psnr"]["images"]) == ["a", "b"]
    for name in ("psnr", "ssim"):
        assert written[name]["value"] == of_images[name]["value"]
        assert f"{name:<12} {written[name]['value']:<10.5g} of 2 images" in printed


def test_an_infinite_number_is_written_as_text(tmp_path):
    Image.fromarray(RGB).save(tmp_path / "a.png")
    file = tmp_path / "out.json"
    assert measure.main([str(tmp_path), f"--reference={tmp_path}", f"--json={file}"]) == 0
    found = json.loads(file.read_text(), parse_constant=pytest.fail)["psnr"]
    assert found["value"] == "inf"
    assert found["images"] == {"a": "inf"}


def test_compare_of_folders_is_by_the_numbers_of_measure(tmp_path, capsys, monkeypatch):
    """Also of files of different formats: one is a BMP."""
    monkeypatch.chdir(tmp_path)
    hr = [noise().repeat(3, axis=0) for _ in range(6)]
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
    assert "A is better" in printed


def test_compare_of_runs_is_by_their_results(tmp_path, capsys):
    for name, value in (("one", 31.0), ("two", 30.0)):
        images = [row(image=f"set5/{number}", value=value + number) for number in range(6)]
        append(tmp_path / name, [row(value=value, n=6), *images])
    assert compare.main([str(tmp_path / "one"), str(tmp_path / "two")]) == 0
    assert "A is better" in capsys.readouterr().out  # by 1 dB on each image
    with pytest.raises(FileNotFoundError, match="name the directory of a run"):
        compare.main([str(tmp_path / "one"), "nowhere"])
