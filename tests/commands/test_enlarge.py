"""`enlarger.Enlarger`, `load` and `degrade`: images of each kind, files, and trained weights."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import enlarger
from callbacks.predict.files import Extras, encode
from commands.run.ranking import best_or_newest
from degradations.bicubic import resize
from degradations.tools.configure import degradation_of
from files.images.decode import read_image
from lightning_modules import EDSR, Bicubic, Regression, ResShift, RRDBNet, Taef2Space
from lightning_modules.sampling.tiling import Tiling
from tests.conftest import REPO
from tests.datamodules.profiles import rgb_profile

RGB = np.random.default_rng(0).integers(0, 256, (24, 20, 3), dtype=np.uint8)
GREY = RGB[..., 0]
EVEN = np.full_like(RGB[..., :1], 99)  # an even alpha, which weights no colours
# An alpha that is 0 here and there: those colours must not spread.
HIDING = np.where(RGB[..., :1] < 99, 0, RGB[..., 1:2])


@pytest.fixture(scope="module")
def bicubic():
    return enlarger.Enlarger(Bicubic(2), "cpu")


def edsr():
    return Regression(2, network=EDSR(2, blocks=1, channels=4))


# ---------------------------------------------------------------------------------------- images


def deep(levels):
    """8 bits as 16."""
    return levels.astype(np.uint16) * 257


KINDS = {
    "RGB": Image.fromarray(RGB),
    "L": Image.fromarray(GREY),
    "LA": Image.fromarray(np.dstack([GREY, EVEN])),
    "RGBA": Image.fromarray(np.dstack([RGB, EVEN])),
    "I;16": Image.fromarray(deep(GREY)),
    "I;16B": Image.frombytes("I;16B", (20, 24), deep(GREY).astype(">u2").tobytes()),
    "uint8": RGB,
    "grey uint8": GREY,
    "uint16": deep(RGB),
    "float64": RGB / 255,
    "alpha uint16": deep(np.dstack([RGB, EVEN])),
    "tensor": torch.from_numpy(RGB / np.float32(255)).movedim(-1, 0),
}
ERRORS = {"u1": 1 / 255, "u2": 2 / 65535, "f4": 1e-6, "f8": 1e-6}  # by the type of the levels


def as_floats(image):
    """(H, W, C) in [0, 1]."""
    if isinstance(image, torch.Tensor):
        return image.movedim(0, -1).numpy()
    array = np.atleast_3d(np.asarray(image))
    return array if array.dtype.kind == "f" else array / np.iinfo(array.dtype).max


def as_batch(image):
    """(1, C, H, W) in [0, 1]."""
    return torch.from_numpy(as_floats(image)).movedim(-1, 0)[None].float()


@pytest.mark.parametrize("kind", KINDS)
def test_bicubic_interpolates_each_channel_and_returns_an_image_of_the_same_kind(bicubic, kind):
    """Type, mode and dtype are those of the input, so that its bit depth and alpha are not lost."""
    image = KINDS[kind]
    sr = bicubic.enlarge(image)
    expected = resize(as_batch(image), (48, 40)).clamp(0, 1)[0].movedim(0, -1).numpy()
    assert type(sr) is type(image)
    if isinstance(image, Image.Image):
        assert sr.mode == image.mode.replace("16B", "16")  # not big-endian
        assert sr.size == (40, 48)
    else:
        assert sr.dtype == image.dtype
    levels = np.asarray(sr).dtype.str[1:]  # u1: 8 bits, u2: 16
    np.testing.assert_allclose(as_floats(sr), expected, rtol=0, atol=ERRORS[levels])


@pytest.mark.parametrize("alpha_of_green", [0, 1, 200])
@pytest.mark.parametrize("kind", ["uint8", "uint16"])
def test_colours_are_weighted_by_alpha(bicubic, alpha_of_green, kind):
    """A red square on green: bicubic of colours multiplied by alpha, divided by bicubic alpha."""
    image = np.full((16, 16, 4), (0, 255, 0, alpha_of_green), kind)
    image[4:12, 4:12] = (200, 30, 40, 255)
    image = image * (np.iinfo(kind).max // 255)

    sr = as_floats(bicubic.enlarge(image))

    rgba = as_batch(image)
    alpha = resize(rgba[:, 3:], (32, 32), clamp=False)
    colours = resize(rgba[:, :3] * rgba[:, 3:], (32, 32), clamp=False) / alpha
    expected = colours.clamp(0, 1)[0].movedim(0, -1).numpy()
    visible = sr[..., 3] > 0.5
    # Measured: at most 0.012; of colours that are not weighted, 0.047 or more.
    np.testing.assert_allclose(sr[..., :3][visible], expected[visible], atol=0.02)


def test_alpha_is_enlarged_as_a_grey_image_but_stays_1_where_all_around_is_1():
    """A network changes a constant, too: opaque photographs would become transparent."""
    model = enlarger.Enlarger(edsr(), "cpu")
    image = np.dstack([RGB, GREY]) / np.float32(255)
    image[:12, :12, 3] = 1  # an opaque corner
    alpha = model.enlarge(image)[..., 3]
    as_grey = model.enlarge(image[..., [3, 3, 3]]).mean(2)
    # 10x10 pixels of the corner have 5x5 opaque pixels around them, that is 20x20 at x2.
    assert (alpha[:20, :20] == 1).all()
    assert (as_grey[:20, :20] != 1).any()
    # The corner of 12x12 ends at row and column 24.
    np.testing.assert_allclose(alpha[:, 24:], as_grey[:, 24:], atol=1e-6)
    np.testing.assert_allclose(alpha[24:], as_grey[24:], atol=1e-6)


TRANSPARENT = {
    "LA": Image.fromarray(np.dstack([GREY, HIDING])),
    "L": Image.fromarray(GREY),  # with tRNS
    "P": Image.fromarray(np.dstack([RGB, HIDING])).quantize(16),
    "RGBA": Image.fromarray(np.dstack([RGB, HIDING])),
}


@pytest.mark.parametrize("kind", TRANSPARENT)
def test_transparency_is_enlarged_as_by_predict(bicubic, command, tmp_path, kind):
    options = {"transparency": 7} if kind == "L" else {}  # grey level 7 is transparent
    TRANSPARENT[kind].save(tmp_path / "a.png", icc_profile=rgb_profile(), **options)
    model = f"--model {REPO}/configs/model/bicubic.yaml --data datamodules.SRDataModule"
    places = f"--run.root {tmp_path}/runs --writer.folder {tmp_path}/out"
    command(f"predict {model} --data.scale 2 {places} --data.predict {tmp_path}/a.png")

    written = Image.open(tmp_path / "out/a.png")
    sr = bicubic.enlarge(Image.open(tmp_path / "a.png"))
    assert sr.mode == written.mode
    assert sr.info["icc_profile"] == written.info["icc_profile"]
    assert np.array_equal(np.asarray(sr), np.asarray(written))


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (torch.zeros(1, 3, 4, 4), "1x3x4x4 of float32; expected"),
        (RGB.astype(np.float32), r"lies in \[0, 255\]; expected floats in \[0, 1\]"),
        (torch.full((3, 4, 4), torch.nan), r"lies in \[nan, nan\]; expected"),
        (Image.fromarray(GREY.astype(np.int32) * 257), "mode I, whose range is unknown"),
    ],
    ids=["a batch", "floats up to 255", "NaN", "32 bits"],
)
def test_what_is_no_image_is_refused(bicubic, image, message):
    """Nothing is clipped: of values in [0, 255] hardly any but white would be left."""
    with pytest.raises(ValueError, match=message):
        bicubic.enlarge(image)
    with pytest.raises(ValueError, match=message):
        enlarger.degrade(image)
    with pytest.raises(ValueError, match=message):
        enlarger.measure([image], [image])


# ------------------------------------------------------------------------------------------ files


@pytest.mark.parametrize(
    ("levels", "profile"),
    [(RGB, rgb_profile()), (np.dstack([GREY, RGB[..., 1]]), None), (deep(RGB), rgb_profile())],
    ids=["RGB", "grey with alpha", "16 bits"],
)
def test_a_file_is_enlarged_as_an_image_with_its_profile(bicubic, tmp_path, levels, profile):
    source = tmp_path / "photo.png"
    with source.open("w+b") as file:
        encode(file, levels, Extras(profile), "png", quality=0)  # which PNG has not
    lost = bicubic.enlarge_file(source, tmp_path / "large.png")
    written = read_image(tmp_path / "large.png")
    assert lost == []  # nothing that PNG cannot hold
    assert np.array_equal(written.array(), bicubic.enlarge(levels))
    assert written.icc == profile


def test_enlarge_file_returns_what_the_file_format_cannot_hold(bicubic, tmp_path):
    source = tmp_path / "photo.png"
    cv2.imwrite(str(source), deep(np.dstack([RGB, GREY])))
    lost = bicubic.enlarge_file(source, tmp_path / "large.jpg", side=100)
    assert lost == ["16 bit", "transparency"]
    assert Image.open(tmp_path / "large.jpg").size == (83, 100)  # 20 · 100/24 = 83.3


def test_a_target_in_an_unknown_format_is_refused_before_the_image_is_read(bicubic, tmp_path):
    """Else the refusal would come after minutes of work."""
    with pytest.raises(ValueError, match="expected a name in png, jpg, webp, tiff"):
        bicubic.enlarge_file("no_such_file.png", tmp_path / "large.bmp")


# ----------------------------------------------------------------------------------------- degrade


def test_degrade_applies_a_degradation_or_the_shipped_one_of_a_name():
    recipe = degradation_of([REPO / "configs/degradation/bicubic.yaml"], scale=2)
    seeds = torch.tensor([0])  # bicubic draws nothing
    lr = recipe(as_batch(RGB), seeds)
    expected = (lr * 255).round()[0].movedim(0, -1).byte().numpy()
    assert np.array_equal(enlarger.degrade(RGB, "bicubic", scale=2), expected)
    assert np.array_equal(enlarger.degrade(RGB, recipe), expected)


# --------------------------------------------------------------------------------- trained weights


def loaded(source, **arguments):
    return enlarger.load(source, device="cpu", **arguments).enlarge(RGB)


def test_load_of_a_run_an_export_or_a_file_of_weights_gives_the_images_of_predict(fitted, command):
    """The run's config.yaml has tiles, and so has the export's; a file of weights has none."""
    run = fitted("--tiling.size 8 --tiling.overlap 0")
    Image.fromarray(RGB).save("photo.png")
    command("predict --config runs/tiny/config.yaml --data.predict photo.png")
    command("export runs/tiny --export.out shared")
    command("predict --model shared/model.safetensors --data.predict photo.png")
    in_tiles = np.asarray(Image.open(run / "predict/photo.png"))
    without_tiles = np.asarray(Image.open("runs/shared/predict/photo.png"))
    checkpoint, _ = best_or_newest(run / "checkpoints")

    assert not np.array_equal(in_tiles, without_tiles)
    for source in (run, "shared"):
        assert np.array_equal(loaded(source), in_tiles)
    for source in ("shared/model.safetensors", checkpoint):
        assert np.array_equal(loaded(source), without_tiles)
    untiled = enlarger.load(run, device="cpu").enlarge(RGB, tiling=Tiling())
    assert np.array_equal(untiled, without_tiles)


def test_a_colour_fix_that_load_is_given_changes_the_images_of_a_run(trained):
    assert not np.array_equal(loaded(trained, color_fix="adain"), loaded(trained))


def test_the_file_that_a_model_names_as_its_weights_is_read_once(tmp_path):
    """Unread, the weights would be random; read for a second Enlarger, it would undo a change."""
    trained = edsr()
    torch.save({"params": trained.network.state_dict()}, tmp_path / "a.pth")
    network = EDSR(2, blocks=1, channels=4)  # with other random weights
    model = Regression(2, network=network, weights=str(tmp_path / "a.pth"))
    expected = enlarger.Enlarger(trained, "cpu").enlarge(RGB)
    assert np.array_equal(enlarger.Enlarger(model, "cpu").enlarge(RGB), expected)
    network.tail[-1].bias.data += 0.5  # a change of the user's
    assert not np.array_equal(enlarger.Enlarger(model, "cpu").enlarge(RGB), expected)


def test_a_model_whose_file_of_weights_is_missing_is_refused():
    missing = Regression(2, network=EDSR(2, blocks=1), weights="no/such.pth")
    with pytest.raises(FileNotFoundError, match="no weights at no/such"):
        enlarger.Enlarger(missing)


def test_a_model_in_a_space_with_random_weights_is_refused():
    random = ResShift(4, torch.nn.Identity(), Taef2Space())
    with pytest.raises(ValueError, match="the space of ResShift has random weights"):
        enlarger.Enlarger(random)


def test_load_takes_other_weights_for_an_export(trained, command):
    command(f"export {trained} --export.out shared")
    other = EDSR(2, blocks=1, channels=8, global_skip=True)  # as tests/tiny.yaml has it
    torch.save({"params": other.state_dict()}, "other.pth")
    network = enlarger.load("shared", weights="other.pth").module.network
    torch.testing.assert_close(network.state_dict(), other.state_dict(), rtol=0, atol=0)


def test_a_file_that_spandrel_reads_takes_arguments_of_its_method(tmp_path):
    pytest.importorskip("spandrel", reason="needs the optional package spandrel")
    published = RRDBNet(4, channels=64, blocks=1).community()
    file = tmp_path / "x4.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in published.items()}, file)
    assert enlarger.load(file, color_fix="wavelet").module.color_fix == "wavelet"
    with pytest.raises(ValueError, match=r"Option 'colour_fix' is not accepted"):
        enlarger.load(file, colour_fix="wavelet")


def save_run(folder, method):
    """Write the configuration of a run or an export, and an empty file of weights."""
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(f"model: {{class_path: lightning_modules.{method}}}")
    (folder / "model.safetensors").touch()


def test_sources_are_the_runs_and_published_weights_that_load_takes(tmp_path, monkeypatch):
    """The page of `main.py app` offers them."""
    save_run(tmp_path / "edsr", "Regression")
    save_run(tmp_path / "edsr/export", "Regression")  # the same model: the run alone is listed
    save_run(tmp_path / "moved/export", "Regression")  # its run is no longer here
    # These cannot be loaded: no SuperResolver, no class, no weights.
    save_run(tmp_path / "diffusion", "Diffusion")
    save_run(tmp_path / "unknown", "NoSuchClass")
    save_run(tmp_path / "without_weights", "Regression")
    (tmp_path / "without_weights/model.safetensors").unlink()
    on_this_machine = {"imdn-x3": Path("imdn-x3.pth")}  # of all published weights
    monkeypatch.setattr("commands.interface.models.place_of", on_this_machine.get)
    expected = [str(tmp_path / "edsr"), str(tmp_path / "moved/export"), "imdn-x3"]
    assert enlarger.sources(tmp_path) == expected
