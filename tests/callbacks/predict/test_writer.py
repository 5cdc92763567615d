"""Writer: pixels of all types, lines of predictions.jsonl, skipping, what goes wrong."""

from __future__ import annotations

import errno
import io
import os

import cv2
import numpy as np
import pytest
import tifffile
import torch
from PIL import Image, ImageCms
from PIL.ExifTags import GPS, IFD, Base

from callbacks.predict import files as image_file
from callbacks.predict.predictions import NAME, digest_of
from callbacks.predict.writer import Writer
from datamodules import SRDataModule
from degradations.bicubic import resize
from files.images.colours import code_points_of
from files.method import Method
from lightning_modules import EDSR, Bicubic, Regression
from tests import make
from tests.callbacks.predict.test_predictions import stored
from tests.callbacks.tiny import Tiny, trainer
from tests.datamodules.memory import Memory, random_image
from tests.datamodules.profiles import grey_profile, rgb_profile, srgb_of_grey

RGB_PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
HDR = bytes([9, 16, 0, 1])  # code points of PNG's cICP


class Double(Tiny):
    """A model that repeats each pixel twice in both directions, so outputs are known exactly."""

    def predict_step(self, batch, batch_idx):
        return None if "error" in batch else {"sr": self.enlarge(batch["lr"])}

    def enlarge(self, lr):
        return lr.repeat_interleave(2, 2).repeat_interleave(2, 3)


def image(mode="RGB", bit_depth=8, **meta):
    """A sample of random levels, 6 rows of 5 pixels; with a grey mode, of equal channels."""
    pixels = random_image(6, 5, dtype=f"uint{bit_depth}")
    if mode != "RGB":
        pixels = pixels[..., :1].repeat(3, 2)
    return {"hr": pixels, "meta": {"mode": mode, **meta}}


def doubled(sample):
    """The (H, W, 3) levels expected in the file."""
    return sample["hr"].repeat(2, 0).repeat(2, 1)


def predict(root, samples, writer=None, model=None):
    """Enlarge images by their keys; return the writer."""
    writer = writer or Writer()
    data = SRDataModule(2.0, predict=Memory(samples), workers=0)
    trainer(root, writer).predict(model or Double(), data, return_predictions=False)
    return writer


def written(root, sample, format="png", **settings):
    """The file of one enlarged image."""
    predict(root, {"a": sample}, Writer(format=format, suffix="_x2", **settings))
    return root / f"predict/a_x2.{format}"


def images_in(root):
    return sorted(path.name for path in (root / "predict").iterdir() if path.name != NAME)


# ---------------------------------------------------------------------------------- kinds of pixels


def some_exif(comment=b"x"):
    """EXIF with a maker, a time, a comment and a place."""
    tags = Image.Exif()
    tags[Base.Make] = "Maker"
    tags[IFD.Exif] = {Base.DateTimeOriginal: "2020:01:02 03:04:05", Base.UserComment: comment}
    tags[IFD.GPSInfo] = {GPS.GPSLatitudeRef: "N", GPS.GPSLatitude: (1.0, 2.0, 3.0)}
    return tags.tobytes()


def assert_described(path, height, width):
    """The file has the profile and the EXIF of the input, and the size of the output."""
    output = Image.open(path)
    tags = output.getexif()
    details = tags.get_ifd(IFD.Exif)
    assert output.info["icc_profile"] == RGB_PROFILE
    assert tags[Base.Make] == "Maker"
    assert tags.get_ifd(IFD.GPSInfo)[GPS.GPSLatitude] == (1.0, 2.0, 3.0)
    assert details[Base.DateTimeOriginal] == "2020:01:02 03:04:05"
    assert details[Base.ExifImageHeight] == height
    assert details[Base.ExifImageWidth] == width


@pytest.mark.parametrize("format", ["png", "tiff"])
@pytest.mark.parametrize("bit_depth", [8, 16])
def test_png_and_tiff_keep_levels_bit_depth_profile_and_exif(tmp_path, format, bit_depth):
    sample = image(bit_depth=bit_depth, icc=RGB_PROFILE, exif=some_exif())

    path = written(tmp_path, sample, format)

    if format == "tiff":
        levels = tifffile.imread(path)
    else:
        levels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)[..., ::-1]
        Image.open(path).load()  # checks the chunks' sums
    assert levels.dtype == f"uint{bit_depth}"
    assert np.array_equal(levels, doubled(sample))
    assert_described(path, height=12, width=10)


@pytest.mark.parametrize("format", ["png", "tiff"])
@pytest.mark.parametrize(
    ("mode", "bit_depth", "expected"), [("L", 8, "L"), ("1", 8, "L"), ("I;16", 16, "I;16")]
)
def test_grey_images_stay_grey(tmp_path, format, mode, bit_depth, expected):
    sample = image(mode, bit_depth)

    output = Image.open(written(tmp_path, sample, format))

    assert output.mode == expected
    assert np.array_equal(np.asarray(output), doubled(sample)[..., 0])


@pytest.mark.parametrize(
    ("format", "ending", "kind"),
    [("jpg", "jpg", "JPEG"), ("jpeg", "jpg", "JPEG"), ("webp", "webp", "WEBP")],
)
def test_lossy_formats_have_nearly_the_pixels_and_all_metadata(tmp_path, format, ending, kind):
    sample = image(icc=RGB_PROFILE, exif=some_exif())
    smooth = np.linspace(0, 255, 32 * 64 * 3).reshape(32, 64, 3)
    sample["hr"] = smooth.astype(np.uint8)

    predict(tmp_path, {"a": sample}, Writer(format=format))

    path = tmp_path / f"predict/a.{ending}"
    output = Image.open(path)
    difference = np.asarray(output).astype(int) - doubled(sample)
    assert output.format == kind
    assert np.abs(difference).max() <= 6  # of 256 levels
    assert_described(path, height=64, width=128)


def test_a_lower_quality_makes_a_smaller_file(tmp_path):
    low = written(tmp_path / "20", image(), "jpg", quality=20)
    high = written(tmp_path / "100", image(), "jpg", quality=100)

    assert low.stat().st_size < high.stat().st_size


@pytest.mark.parametrize("profile", [grey_profile(), rgb_profile()], ids=["grey", "RGB"])
@pytest.mark.parametrize(
    ("format", "mode", "bit_depth", "space"),
    [
        ("png", "L", 8, "GRAY"),
        ("png", "I;16", 16, "GRAY"),
        ("png", "LA", 16, "RGB "),  # Pillow cannot read 16-bit grey with alpha
        ("tiff", "L", 8, "GRAY"),
        ("jpg", "L", 8, "GRAY"),
        ("webp", "L", 8, "RGB "),
    ],
)
def test_the_profile_of_a_grey_image_fits_the_colour_space_of_its_file(
    tmp_path, profile, format, mode, bit_depth, space
):
    """A profile of RGB is none of a grey file, nor the reverse, so it is translated.

    Both profiles have a gamma of 1.8: the shown levels are those of the input in each file.
    """
    sample = image(mode, bit_depth, icc=profile)
    if mode == "LA":
        sample["meta"]["alpha"] = np.full((6, 5), 9, np.uint16)

    icc = Image.open(written(tmp_path, sample, format)).info["icc_profile"]

    assert icc[16:20].decode() == space  # the colour space in a profile's header
    levels = Image.fromarray(np.arange(256, dtype=np.uint8)[None])
    levels = levels if space == "GRAY" else levels.convert("RGB")
    srgb = ImageCms.createProfile("sRGB")
    transform = ImageCms.buildTransform(io.BytesIO(icc), srgb, levels.mode, "RGB")
    shown = np.asarray(transform.apply(levels))[0]
    assert np.abs(shown - srgb_of_grey(np.arange(256))).max() <= 2


@pytest.mark.parametrize("bit_depth", [8, 16])
def test_png_keeps_the_code_points_of_hdr(tmp_path, bit_depth):
    path = written(tmp_path, image(bit_depth=bit_depth, cicp=HDR))

    with path.open("rb") as file:
        assert code_points_of(file) == HDR
    Image.open(path).load()  # checks the chunks' sums


def bicubic(alpha):
    """Alpha (6, 5) at twice the size, in whole levels."""
    top = np.iinfo(alpha.dtype).max
    values = torch.from_numpy(alpha.astype(np.float32) / top)
    enlarged = resize(values[None, None], (12, 10))[0, 0]
    return (enlarged * top).round().numpy().astype(alpha.dtype)


@pytest.mark.parametrize("format", ["png", "tiff", "webp"])
@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_8_bit_alpha_is_enlarged_by_bicubic(tmp_path, format, mode):
    alpha = random_image(6, 5)[..., 0]

    output = Image.open(written(tmp_path, image(mode, alpha=alpha), format))

    assert output.mode == ("RGBA" if format == "webp" else mode)  # WebP has no grey
    assert np.array_equal(np.asarray(output)[..., -1], bicubic(alpha))


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_16_bit_alpha_is_enlarged_by_bicubic(tmp_path, mode):
    alpha = random_image(6, 5, dtype=np.uint16)[..., 0]
    sample = image(mode, 16, alpha=alpha)

    png = cv2.imread(str(written(tmp_path, sample)), cv2.IMREAD_UNCHANGED)
    tiff = tifffile.imread(written(tmp_path, sample, "tiff"))

    assert np.array_equal(png[..., -1], bicubic(alpha))
    assert np.array_equal(tiff[..., -1], bicubic(alpha))


def test_exif_or_its_place_alone_can_be_dropped(tmp_path):
    sample = image(exif=some_exif())

    without_place = Image.open(written(tmp_path / "1", sample, exif="no_place")).getexif()
    without = Image.open(written(tmp_path / "2", sample, exif="drop")).getexif()

    assert without_place[Base.Make] == "Maker"
    assert without_place.get_ifd(IFD.GPSInfo) == {}
    assert dict(without) == {}


CLEAR = np.zeros((6, 5), np.uint8)


@pytest.mark.parametrize(
    ("meta", "format", "words"),
    [
        ({"alpha": CLEAR}, "jpg", "that lost their transparency, which jpg"),
        ({"exif": some_exif(bytes(70_000))}, "jpg", "that lost their EXIF"),  # it takes 64 KiB
        ({"cicp": HDR}, "webp", "that lost their colours (cICP code points"),
        ({"lost": ("gain map",)}, "png", "that are read without their gain map: 1"),
    ],
    ids=["alpha", "EXIF", "HDR", "gain map"],
)
def test_losses_of_alpha_metadata_and_colours_are_counted(tmp_path, caplog, meta, format, words):
    written(tmp_path, image(**meta), format)

    assert f"images {words}" in caplog.text


def test_transparent_pixels_are_white_in_a_format_without_alpha():
    pixels = np.random.default_rng(0).integers(0, 256, (12, 10, 4), dtype=np.uint8)
    pixels[:6, :, 3] = 0  # transparent
    pixels[6:, :, 3] = 255

    fitted = image_file.fitted_pixels(pixels, "jpg")

    assert (fitted[:6] == 255).all()
    assert (fitted[6:] == pixels[6:, :, :3]).all()


def test_outputs_below_0_and_above_1_are_black_and_white(tmp_path):
    class Overshoots(Double):
        def enlarge(self, lr):
            return torch.tensor([-0.1, 0.5, 1.1]).view(1, 3, 1, 1).expand(1, 3, 12, 10)

    predict(tmp_path, {"a": image()}, model=Overshoots())

    pixels = np.asarray(Image.open(tmp_path / "predict/a.png"))
    assert pixels[0, 0].tolist() == [0, 128, 255]  # 127.5 is rounded to even


# ------------------------------------------------------------ images that cannot be written or read


def errors_in(root):
    return {line["key"]: line["error"] for line in stored(root / "predict") if "error" in line}


def test_an_image_too_long_for_its_format_fails_alone(tmp_path):
    too_long = {"hr": np.zeros((1, 8192, 3), np.uint8)}

    writer = predict(tmp_path, {"a": too_long, "b": image()}, Writer(format="webp"))

    reason = "16384 pixels are more than the 16383 that a side of webp can have"
    assert errors_in(tmp_path)["a"].startswith(reason)
    assert writer.failed == 1
    assert images_in(tmp_path) == ["b.webp"]


def test_an_output_that_is_not_finite_is_not_written(tmp_path):
    class Breaks(Double):
        def enlarge(self, lr):
            return super().enlarge(lr) * torch.nan

    with pytest.raises(ValueError, match="none of the 1 inputs could be enlarged"):
        predict(tmp_path, {"a": image()}, model=Breaks())

    assert images_in(tmp_path) == []
    assert errors_in(tmp_path) == {"a": "the output has pixels that are not finite"}


def test_an_image_that_cannot_be_encoded_fails_alone(tmp_path, monkeypatch):
    """Pillow may raise errors of any class, here as for broken EXIF; the others are written."""
    encode = image_file.encode

    def fails_at_grey(file, pixels, *settings):
        if pixels.shape[2] == 1:
            raise SyntaxError("not a TIFF file")
        return encode(file, pixels, *settings)

    monkeypatch.setattr(image_file, "encode", fails_at_grey)
    others = {str(number): image() for number in range(11)}  # more than wait for the threads

    writer = predict(tmp_path, {"a": image("L")} | others)

    reason = "it cannot be written as png: SyntaxError: not a TIFF file"
    assert errors_in(tmp_path)["a"].startswith(reason)
    assert writer.written == len(others)
    assert len(images_in(tmp_path)) == len(others)
    assert writer.failed == 1


def test_an_image_whose_name_is_too_long_fails_in_each_run(tmp_path):
    longest = "x" * (255 - len(".png"))  # bytes of a file's name
    too_long = longest + "x"
    samples = {longest: image(), too_long: image()}
    predict(tmp_path, samples)

    second = predict(tmp_path, samples)

    assert "File name too long" in errors_in(tmp_path)[too_long]
    assert second.skipped == 1
    assert second.failed == 1
    assert images_in(tmp_path) == [f"{longest}.png"]


def test_a_full_disk_stops_the_run_and_leaves_no_half_file(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        predict(tmp_path, {str(number): image() for number in range(12)})

    assert not list((tmp_path / "predict").iterdir())


@pytest.mark.parametrize("key", ["../a", "b/../../a", "/a"])
def test_keys_that_lead_out_of_the_folder_are_refused(tmp_path, key):
    with pytest.raises(ValueError, match=f"the key '{key}' leads out of the folder"):
        predict(tmp_path, {key: image()})


def test_a_folder_that_is_a_file_or_a_broken_link_is_refused(tmp_path):
    (tmp_path / "file").write_bytes(b"precious")
    (tmp_path / "link").symlink_to(tmp_path / "disk/that/is/not/there")

    for name in ("file", "file/below", "link"):
        with pytest.raises(ValueError, match=r"writer\.folder is .*is no folder"):
            predict(tmp_path, {"a": image()}, Writer(str(tmp_path / name)))

    assert (tmp_path / "file").read_bytes() == b"precious"


# ----------------------------------------------------------------------- lines, and what is skipped


def test_an_image_that_is_done_is_skipped_also_if_its_file_was_changed(tmp_path, caplog):
    """Other programs may make outputs smaller."""
    predict(tmp_path, {"a": image()})
    done = tmp_path / "predict/a.png"
    done.write_text("made smaller by another program")
    caplog.set_level("INFO")

    predict(tmp_path, {"a": image(), "b": image()})

    assert done.read_text() == "made smaller by another program"
    assert images_in(tmp_path) == ["a.png", "b.png"]
    assert "1 written, 1 skipped (done before), 0 unusable" in caplog.text


class Stepped(Method, Double):
    """A method with noise, tiles and known weights."""

    def __init__(self):
        super().__init__()
        self._noise_seed = 7
        self._drew_noise = True
        self._tile_count = 6
        self.weights_source = "runs/a/best.ckpt"


def configured(**options):
    """A writer that knows the options of the model, as from the command line."""
    writer = Writer()
    writer.config = {"model": {"init_args": options}}
    return writer


def test_each_image_has_a_line_that_says_how_it_was_made_or_why_not(tmp_path):
    (tmp_path / "in").mkdir()
    Image.new("RGB", (5, 6)).save(tmp_path / "in/a.png")
    (tmp_path / "in/c.png").write_bytes(b"no image")
    data = SRDataModule(2.0, predict=str(tmp_path / "in"), workers=0)

    trainer(tmp_path, configured(steps=4)).predict(Stepped(), data, return_predictions=False)

    line, unusable = sorted(stored(tmp_path / "predict"), key=lambda line: line["key"])
    assert set(unusable) == {"key", "input", "output", "error"}
    assert unusable["output"] == "c.png"
    options = {"model.init_args.steps": 4, "writer.profile": "keep", "writer.exif": "keep"}
    expected = {
        "key": "a",
        "input": str(tmp_path / "in/a.png"),
        "output": "a.png",
        "lr_size": [6, 5],
        "size": [12, 10],
        "seed": 7,
        "tiles": 6,
        "device": "cpu",
        "model": f"{__name__}.Stepped",
        "weights": "runs/a/best.ckpt",
        "options": options,
    }
    assert {name: line[name] for name in expected} == expected
    assert line["seconds"] > 0
    assert line["weights_digest"] == digest_of(Stepped())
    assert line["peak_memory"] > 1 << 20  # bytes


def test_outputs_of_other_options_or_weights_are_made_again(tmp_path, caplog):
    samples = {"a": image(), "b": image()}
    predict(tmp_path, {"a": image()}, configured(steps=15))

    other_steps = predict(tmp_path, samples, configured(steps=4))
    assert other_steps.written == 2
    assert "1 outputs were made otherwise, and are made again" in caplog.text  # a.png
    unchanged = predict(tmp_path, samples, configured(steps=4))
    assert unchanged.skipped == 2

    model = Double()
    model.net.weight.data[0, 0, 0, 0] += 1
    other_weights = predict(tmp_path, samples, configured(steps=4), model=model)
    assert other_weights.written == 2


@pytest.fixture
def photo(tmp_path):
    """The path of an image of 6x5 pixels."""
    path = tmp_path / "a.png"
    Image.new("RGB", (6, 5)).save(path)
    return str(path)


def count_written(root, photo, model, scale=2, size=None):
    """Enlarge a photo as a script does; return whether it was written, 1, or skipped, 0."""
    data = SRDataModule(scale, predict=photo, workers=0, size=size)
    writer = Writer(str(root / "out"))
    trainer(root, writer).predict(model, data, return_predictions=False)
    return writer.written


def test_without_a_configuration_an_output_is_made_again_if_scale_size_or_fix_differ(
    tmp_path, photo
):
    """From Python there is no configuration: the writer asks the model and the data."""

    fixed = Bicubic(2)
    fixed.color_fix = "adain"

    assert count_written(tmp_path, photo, Bicubic(4), scale=4) == 1
    assert count_written(tmp_path, photo, Bicubic(2), scale=2) == 1
    assert count_written(tmp_path, photo, fixed, scale=2) == 1
    assert count_written(tmp_path, photo, fixed, size=(9, 9)) == 1
    assert count_written(tmp_path, photo, fixed, size=(9, 9)) == 0
    # The last output, of a size, has no scale.
    assert [line["scale"] for line in stored(tmp_path / "out")] == [4, 2, 2, None]


def regression(**arguments):
    torch.manual_seed(0)
    return Regression(2, network=EDSR(2, blocks=1, channels=4), **arguments)


@pytest.fixture
def other_weights(tmp_path):
    """A checkpoint of a regression whose weights are twice as large."""
    other = regression()
    other.load_state_dict({name: 2 * value for name, value in other.state_dict().items()})
    return str(make.save_run(other, tmp_path / "a.ckpt"))


def test_without_a_configuration_an_output_is_made_again_if_the_weights_differ(
    tmp_path, photo, other_weights
):
    assert count_written(tmp_path, photo, regression()) == 1
    assert count_written(tmp_path, photo, regression(weights=other_weights)) == 1
    assert count_written(tmp_path, photo, regression(weights=other_weights)) == 0


def test_weights_of_lightnings_ckpt_path_are_refused(tmp_path, photo, other_weights):
    """It loads them after `setup`, where the writer has compared the outputs' weights."""
    data = SRDataModule(2, predict=photo, workers=0)
    run = trainer(tmp_path, Writer(str(tmp_path / "out")))
    with pytest.raises(ValueError, match="give the method `weights` instead"):
        run.predict(regression(), data, ckpt_path=other_weights)


def test_an_image_whose_line_was_written_before_a_kill_is_made_again(tmp_path, monkeypatch):
    """The line comes before the image, so that no image has the line of another."""
    predict(tmp_path, {"a": image()}, configured(steps=15))

    def killed(source, target):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("os.replace", killed)
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            predict(tmp_path, {"a": image()}, configured(steps=4))
    assert len(stored(tmp_path / "predict")) == 2  # the second of an image that was not written

    next_run = predict(tmp_path, {"a": image()}, configured(steps=4))

    assert next_run.written == 1
