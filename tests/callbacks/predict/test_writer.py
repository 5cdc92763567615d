"""Writer: pixels of all types, names, skipping, lines, inputs that must survive, threads."""

from __future__ import annotations

import io
import logging
import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
import torch
from lightning.pytorch import LightningDataModule
from PIL import Image, ImageCms
from PIL.ExifTags import GPS, IFD, Base
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from callbacks.predict import files as image_file
from callbacks.predict.predictions import NAME
from callbacks.predict.writer import Writer
from datamodules import SRDataModule
from degradations.bicubic import resize
from files.images.colours import code_points_of
from files.method import Method
from lightning_modules import EDSR, Bicubic, Regression
from tests.callbacks.predict.test_predictions import stored
from tests.callbacks.tiny import Tiny, trainer
from tests.datamodules.profiles import grey_profile, rgb_profile, srgb_of_grey

RGB_PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


class Inputs(Dataset[dict[str, Any]]):
    name = "predict"

    def __init__(self, samples: dict[str, dict[str, Any]]) -> None:
        self.samples = samples
        self.keys = [f"predict/{key}" for key in samples]

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> dict[str, Any]:
        key, sample = list(self.samples.items())[index]
        return {"key": [f"predict/{key}"], "seed": torch.tensor([index])} | sample


class Data(LightningDataModule):
    """The attributes of our data module that the writer uses."""

    def __init__(self, samples: dict[str, dict[str, Any]], paths: list[str] | None = None) -> None:
        super().__init__()
        self.samples = samples
        self.predict_keys = list(samples)
        self.predict_paths = paths or [None] * len(samples)
        self.predict_videos: list[str] = []
        self.predict_frames: int | None = None
        self.left_out: set[str] = set()

    def skip_in_predict(self, keys: set[str]) -> None:
        self.left_out = keys

    def convert_in_predict(self) -> None: ...

    def predict_dataloader(self) -> DataLoader[Any]:
        left = {key: s for key, s in self.samples.items() if key not in self.left_out}
        return DataLoader(Inputs(left), batch_size=None, collate_fn=lambda sample: sample)


class Double(Tiny):
    """A model that doubles the size by repeating pixels, so outputs are known exactly."""

    def predict_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor] | None:
        if "error" in batch:
            return None
        return {"sr": functional.interpolate(batch["lr"], scale_factor=2, mode="nearest")}


def batch_of(**meta: Any) -> dict[str, Any]:
    """Return a batch of one image of whole levels; with a grey mode, of equal channels."""
    generator = torch.Generator().manual_seed(3)
    top = 2 ** meta.setdefault("bit_depth", 8) - 1
    levels = torch.randint(0, top + 1, (1, 3, 6, 5), generator=generator)
    if meta.setdefault("mode", "RGB") != "RGB":
        levels = levels[:, :1].expand(-1, 3, -1, -1)
    if meta.get("alpha") is not None:
        meta["colours"] = levels[0].permute(1, 2, 0).numpy().astype(meta["alpha"].dtype)
    return {"lr": levels.float() / top, "meta": [{"alpha": None, "icc": None} | meta]}


def doubled(sample: dict[str, Any]) -> np.ndarray[Any, Any]:
    """Return the (H, W, 3) levels expected in the file."""
    depth = sample["meta"][0]["bit_depth"]
    levels = (sample["lr"][0] * (2**depth - 1)).round().permute(1, 2, 0).numpy()
    return levels.astype(f"uint{depth}").repeat(2, 0).repeat(2, 1)


def predict(root: Path, writer: Writer, data: Data) -> None:
    trainer(root, writer).predict(Double(), data, return_predictions=False)


def one(root: Path, sample: dict[str, Any], format: Any = "png", **settings: Any) -> Path:
    predict(root, Writer(format=format, suffix="_x2", **settings), Data({"a": sample}))
    return root / f"predict/a_x2.{format}"


def images_in(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir() if p.name != NAME)


# ---------------------------------------------------------------------------------- kinds of pixels


@pytest.mark.parametrize("format", ["png", "tiff"])
@pytest.mark.parametrize(
    ("mode", "bit_depth", "written"),
    [("RGB", 8, "RGB"), ("L", 8, "L"), ("1", 8, "L"), ("I;16", 16, "I;16")],
)
def test_pixels_and_profile_are_written(tmp_path, format, mode, bit_depth, written):
    sample = batch_of(mode=mode, bit_depth=bit_depth, icc=RGB_PROFILE if mode == "RGB" else None)
    image = Image.open(one(tmp_path, sample, format))
    assert image.mode == written
    expected = doubled(sample)
    assert np.array_equal(np.asarray(image), expected if mode == "RGB" else expected[..., 0])
    if mode == "RGB":
        assert image.info["icc_profile"] == RGB_PROFILE


def test_formats_by_another_name():
    assert Writer(format="jpeg").format == "jpg"
    assert Writer(format="tif").format == "tiff"


@pytest.mark.parametrize(("format", "kind"), [("jpg", "JPEG"), ("webp", "WEBP")])
def test_lossy_formats_are_near(tmp_path, format, kind):
    smooth = torch.linspace(0, 1, 64).expand(1, 3, 32, 64)
    sample = batch_of(icc=RGB_PROFILE) | {"lr": smooth}
    image = Image.open(one(tmp_path, sample, format))
    assert image.format == kind
    assert image.info["icc_profile"] == RGB_PROFILE
    difference = np.asarray(image).astype(int) - doubled(sample).astype(int)
    assert np.abs(difference).max() <= 6


def test_quality_is_that_of_the_format(tmp_path):
    sample = batch_of()
    low = one(tmp_path / "20", sample, "jpg", quality=20)
    high = one(tmp_path / "100", sample, "jpg", quality=100)
    assert low.stat().st_size < high.stat().st_size


def test_16_bit_rgb_png_with_profile(tmp_path):
    sample = batch_of(bit_depth=16, icc=RGB_PROFILE)
    path = one(tmp_path, sample)
    pixels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)[..., ::-1]
    assert np.array_equal(pixels, doubled(sample))
    image = Image.open(path)
    image.load()  # checks the chunks' sums
    assert image.info["icc_profile"] == RGB_PROFILE


def test_16_bit_rgb_tiff_with_profile(tmp_path):
    sample = batch_of(bit_depth=16, icc=RGB_PROFILE)
    with tifffile.TiffFile(one(tmp_path, sample, "tiff")) as file:
        assert np.array_equal(file.asarray(), doubled(sample))
        assert file.pages[0].iccprofile == RGB_PROFILE


@pytest.mark.parametrize("given", [grey_profile(), rgb_profile()])
@pytest.mark.parametrize(
    ("format", "mode", "bit_depth", "space"),
    [
        ("png", "L", 8, "GRAY"),
        ("png", "LA", 8, "GRAY"),
        ("png", "I;16", 16, "GRAY"),
        ("png", "LA", 16, "RGB "),  # Pillow cannot read 16-bit grey with alpha
        ("tiff", "L", 8, "GRAY"),
        ("jpg", "L", 8, "GRAY"),
        ("webp", "L", 8, "RGB "),
    ],
)
def test_a_profile_of_grey_fits_the_file(tmp_path, given, format, mode, bit_depth, space):
    """Levels look as in the input, whose gamma is 1.8, whether or not the file is grey."""
    alpha = np.full((6, 5), 9, f"uint{bit_depth}") if mode == "LA" else None
    sample = batch_of(mode=mode, icc=given, bit_depth=bit_depth, alpha=alpha)
    path = one(tmp_path, sample, format)
    icc = Image.open(path).info["icc_profile"]
    assert icc[16:20].decode() == space
    levels = Image.fromarray(np.arange(256, dtype=np.uint8)[None])
    levels = levels if space == "GRAY" else levels.convert("RGB")
    transform = ImageCms.buildTransform(
        io.BytesIO(icc), ImageCms.createProfile("sRGB"), levels.mode, "RGB"
    )
    shown = np.asarray(transform.apply(levels))[0]
    expected = srgb_of_grey(np.arange(256))
    assert np.abs(shown - expected).max() <= 2


@pytest.mark.parametrize("bit_depth", [8, 16])
def test_hdr_is_kept_by_png(tmp_path, bit_depth):
    path = one(tmp_path, batch_of(cicp=bytes([9, 16, 0, 1]), bit_depth=bit_depth))
    with path.open("rb") as file:
        assert code_points_of(file) == bytes([9, 16, 0, 1])
    with Image.open(path) as image:
        image.load()  # checks the chunks' sums


def expected_alpha(alpha: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    top = np.iinfo(alpha.dtype).max
    large = resize(torch.from_numpy(alpha.astype(np.float32) / top)[None, None], (12, 10))
    return (large[0, 0] * top).round().numpy().astype(alpha.dtype)


@pytest.mark.parametrize("format", ["png", "tiff", "webp"])
@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_8_bit_alpha_is_enlarged(tmp_path, format, mode):
    alpha = np.random.default_rng(0).integers(0, 256, (6, 5), dtype=np.uint8)
    image = Image.open(one(tmp_path, batch_of(alpha=alpha, mode=mode), format))
    assert image.mode == ("RGBA" if format == "webp" else mode)
    assert np.array_equal(np.asarray(image)[..., -1], expected_alpha(alpha))


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_16_bit_alpha_is_enlarged(tmp_path, mode):
    alpha = np.random.default_rng(0).integers(0, 65536, (6, 5), dtype=np.uint16)
    sample = batch_of(alpha=alpha, mode=mode, bit_depth=16)
    pixels = cv2.imread(str(one(tmp_path, sample)), cv2.IMREAD_UNCHANGED)
    assert np.array_equal(pixels[..., -1], expected_alpha(alpha))
    assert tifffile.imread(one(tmp_path, sample, "tiff")).shape == (12, 10, 4)


def some_exif(comment: bytes = b"x") -> bytes:
    tags = Image.Exif()
    tags[Base.Make] = "Maker"
    tags[IFD.Exif] = {Base.DateTimeOriginal: "2020:01:02 03:04:05", Base.UserComment: comment}
    tags[IFD.GPSInfo] = {GPS.GPSLatitudeRef: "N", GPS.GPSLatitude: (1.0, 2.0, 3.0)}
    return tags.tobytes()


@pytest.mark.parametrize(
    ("format", "bit_depth"),
    [("png", 8), ("png", 16), ("jpg", 8), ("webp", 8), ("tiff", 8), ("tiff", 16)],
)
def test_exif_is_kept_and_says_the_size(tmp_path, format, bit_depth):
    sample = batch_of(exif=some_exif(), bit_depth=bit_depth)
    path = one(tmp_path, sample, format)
    if format == "tiff":  # which is rewritten for it
        assert np.array_equal(tifffile.imread(path), doubled(sample))
    image = Image.open(path)
    tags = image.getexif()
    if (format, bit_depth) != ("tiff", 16):  # which Pillow cannot read
        image.load()  # checks the chunks' sums
    details = tags.get_ifd(IFD.Exif)
    assert tags[Base.Make] == "Maker"
    assert details[Base.DateTimeOriginal] == "2020:01:02 03:04:05"
    assert (details[Base.ExifImageWidth], details[Base.ExifImageHeight]) == (10, 12)
    assert tags.get_ifd(IFD.GPSInfo)[GPS.GPSLatitude] == (1.0, 2.0, 3.0)


def test_exif_can_be_dropped_or_its_place(tmp_path):
    sample = batch_of(exif=some_exif())
    tags = Image.open(one(tmp_path, sample, exif="no_place")).getexif()
    assert tags[Base.Make] == "Maker"
    assert tags.get_ifd(IFD.GPSInfo) == {}
    tags = Image.open(one(tmp_path / "none", sample, exif="drop")).getexif()
    assert dict(tags) == {}


HDR = bytes([9, 16, 0, 1])
CLEAR = np.zeros((6, 5), np.uint8)


@pytest.mark.parametrize(
    ("meta", "settings", "said"),
    [
        ({"alpha": CLEAR}, {"format": "jpg"}, "that lost their transparency, which jpg"),
        ({"exif": some_exif(bytes(70_000))}, {"format": "jpg"}, "that lost their EXIF"),
        ({"cicp": HDR}, {"format": "webp"}, "that lost their colours (cICP code points"),
        ({"lost": ("gain map",)}, {}, "that are read without their gain map: 1"),
    ],
)
def test_what_is_not_kept_is_counted(tmp_path, caplog, meta, settings, said):
    one(tmp_path, batch_of(**meta), **settings)
    assert f"images {said}" in caplog.text


def test_what_is_transparent_becomes_white_where_a_format_has_no_alpha(tmp_path):
    image = Image.open(one(tmp_path, batch_of(alpha=CLEAR), "jpg"))
    assert image.getextrema() == ((255, 255),) * 3
    colours = np.random.default_rng(0).integers(0, 256, (12, 10, 4), dtype=np.uint8)
    colours[:6, :, 3] = 0
    colours[6:, :, 3] = 255
    found = image_file.fitted_pixels(colours, "jpg")
    assert (found[:6] == 255).all()
    assert (found[6:] == colours[6:, :, :3]).all()


def test_a_side_that_a_format_cannot_have_is_an_error_of_the_image(tmp_path, caplog):
    long = batch_of() | {"lr": torch.zeros(1, 3, 1, 8192)}
    data = Data({"a": long, "b": batch_of()})
    writer = Writer(format="webp")
    predict(tmp_path, writer, data)
    assert writer.written == 1
    assert writer.failed == 1
    reason = "16384 pixels are more than the 16383 that a side of webp can have"
    assert f"not written: a: {reason}" in caplog.text
    broken, _ = stored(tmp_path / "predict")
    assert broken["error"].startswith(reason)
    assert images_in(tmp_path / "predict") == ["b.webp"]


def test_an_output_that_is_not_finite_is_not_written(tmp_path):
    broken = batch_of()
    broken["lr"][0, 1, 2, 3] = torch.nan
    with pytest.raises(ValueError, match="none of the 1 inputs could be enlarged"):
        predict(tmp_path, Writer(), Data({"a": broken}))
    assert images_in(tmp_path / "predict") == []
    (line,) = stored(tmp_path / "predict")
    assert line["error"] == "the output has pixels that are not finite"


def test_values_out_of_range_do_not_wrap_around(tmp_path):
    sample = batch_of() | {"lr": torch.tensor([-0.1, 0.5, 1.1]).view(1, 3, 1, 1)}
    assert np.asarray(Image.open(one(tmp_path, sample)))[0, 0].tolist() == [0, 128, 255]


def test_an_image_that_cannot_be_encoded_does_not_end_the_run(tmp_path):
    broken = batch_of(exif=b"Exif\0\0no tags at all")  # a plug-in's Source may give anything
    data = Data({"a": broken} | {str(number): batch_of() for number in range(11)})
    writer = Writer()
    predict(tmp_path, writer, data)
    assert writer.written == 11
    assert writer.failed == 1
    (line,) = (line for line in stored(tmp_path / "predict") if "error" in line)
    assert line["output"] == "a.png"
    assert line["error"].startswith("it cannot be written as png: SyntaxError: not a TIFF file")
    assert len(images_in(tmp_path / "predict")) == 11


def test_a_name_that_is_too_long_does_not_end_the_run(tmp_path):
    """Disks take names of 255 bytes."""
    fits = "x" * 251
    for _ in range(2):  # the second one meets what the first one did
        writer = Writer()
        data = Data({fits: batch_of(), fits + "x": batch_of()})
        predict(tmp_path, writer, data)
    assert data.left_out == {fits}
    assert writer.failed == 1
    assert images_in(tmp_path / "predict") == [f"{fits}.png"]
    errors = [line["error"] for line in stored(tmp_path / "predict") if "error" in line]
    assert len(errors) == 2
    assert "File name too long" in errors[0]


# -------------------------------------------------------------------------- names, skipping, inputs


def test_what_is_done_is_skipped(tmp_path, caplog):
    predict(tmp_path, Writer(), Data({"a": batch_of()}))
    done = tmp_path / "predict/a.png"
    done.write_text("made smaller by another program")  # which is allowed
    data = Data({"a": batch_of(), "b": batch_of()})
    writer = Writer()
    with caplog.at_level(logging.INFO):
        predict(tmp_path, writer, data)
    assert data.left_out == {"a"}
    assert done.read_text() == "made smaller by another program"
    assert "1 written, 1 skipped (done before), 0 unusable" in caplog.text


class Stepped(Method, Double):
    """A method with noise, an option, and known weights."""

    def __init__(self, width: int = 3) -> None:
        super().__init__(width)
        self._noise_seed = 7
        self._drew_noise = True
        self._tile_count = 6
        self.weights_source = "runs/a/best.ckpt"


def configured(**options: Any) -> Writer:
    writer = Writer()
    writer.config = {"model": {"init_args": options}}
    return writer


def test_a_line_for_each_image(tmp_path):
    source = tmp_path / "in.jpg"
    source.write_bytes(b"an image")
    samples = {"a/b": batch_of(path=str(source)), "c": {"error": ["c.jpg: truncated"]}}
    data = Data(samples, paths=[str(source), "c.jpg"])
    model = Stepped()
    trainer(tmp_path, configured(steps=4)).predict(model, data, return_predictions=False)
    lost, line = sorted(stored(tmp_path / "predict"), key=lambda line: "error" not in line)
    assert lost == {"key": "c", "input": "c.jpg", "output": "c.png", "error": "c.jpg: truncated"}
    options = {"model.init_args.steps": 4, "writer.profile": "keep", "writer.exif": "keep"}
    expected = {
        "key": "a/b",
        "input": str(source),
        "output": "a/b.png",
        "lr_size": [6, 5],
        "size": [12, 10],
        "seed": 7,
        "tiles": 6,
        "device": "cpu",
        "model": f"{__name__}.Stepped",
        "weights": "runs/a/best.ckpt",
        "options": options,
    }
    assert {key: line[key] for key in expected} == expected
    assert line["seconds"] > 0
    assert len(line["weights_digest"]) == 16
    assert line["peak_memory"] > 1 << 20


def test_what_was_made_otherwise_is_made_again(tmp_path, caplog):
    samples = {"a": batch_of(), "b": batch_of()}
    predict(tmp_path, configured(steps=15), Data({"a": samples["a"]}))
    again = configured(steps=4)
    predict(tmp_path, again, Data(samples))
    assert again.written == 2
    assert "1 outputs were made otherwise, and are made again" in caplog.text
    kept = configured(steps=4)
    predict(tmp_path, kept, Data(samples))
    assert kept.skipped == 2
    model = Double()
    with torch.no_grad():
        model.net.weight[0, 0, 0, 0] += 1
    trainer(tmp_path, kept).predict(model, Data(samples), return_predictions=False)
    assert kept.written == 2


def test_without_a_configuration_the_objects_say_how_it_was_made(tmp_path):
    Image.new("RGB", (6, 5)).save(tmp_path / "a.png")
    written = []
    ways = [(4, None, "none"), (2, None, "none"), (2, (9, 9), "adain"), (2, (9, 9), "adain")]
    for scale, size, fix in ways:
        data = SRDataModule(scale, predict=str(tmp_path / "a.png"), workers=0, size=size)
        model = Bicubic(scale)
        writer = Writer(str(tmp_path / "out"))
        model.color_fix = fix
        trainer(tmp_path, writer).predict(model, data, return_predictions=False)
        written.append(writer.written)
    assert written == [1, 1, 1, 0]
    assert [line["scale"] for line in stored(tmp_path / "out")] == [4, 2, None]


def test_without_a_configuration_other_weights_are_noticed(tmp_path):
    Image.new("RGB", (6, 5)).save(tmp_path / "a.png")
    file = str(tmp_path / "a.ckpt")
    written = []

    def model(**arguments: Any) -> Regression:
        torch.manual_seed(0)
        return Regression(2, network=EDSR(2, blocks=1, channels=4), **arguments)

    def predicted(model: Regression, checkpoint: str | None = None) -> None:
        data = SRDataModule(2, predict=str(tmp_path / "a.png"), workers=0)
        writer = Writer(str(tmp_path / "out"))
        run = trainer(tmp_path, writer)
        run.predict(model, data, return_predictions=False, ckpt_path=checkpoint)
        written.append(writer.written)

    other = model()
    other.load_state_dict({name: 2 * value for name, value in other.state_dict().items()})
    saved = trainer(tmp_path)
    saved.strategy.connect(other)
    saved.save_checkpoint(file)
    with pytest.raises(ValueError, match="give the method `weights` instead"):
        predicted(model(), file)
    predicted(model())
    predicted(model(weights=file))
    predicted(model(weights=file))
    assert written == [1, 1, 0]


def test_an_image_is_never_below_the_line_of_another(tmp_path, monkeypatch):
    """After a kill between the line and the image, the next run writes the image."""
    predict(tmp_path, configured(steps=15), Data({"a": batch_of()}))

    def killed(source: Any, target: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("os.replace", killed)
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            predict(tmp_path, configured(steps=4), Data({"a": batch_of()}))
    assert len(stored(tmp_path / "predict")) == 2
    writer = configured(steps=4)
    predict(tmp_path, writer, Data({"a": batch_of()}))
    assert writer.written == 1


def test_a_folder_that_cannot_be_one_is_refused_before_any_work(tmp_path):
    (tmp_path / "file").write_bytes(b"precious")
    (tmp_path / "link").symlink_to(tmp_path / "disk/that/is/not/there")
    for name in ("file", "file/below", "link"):
        with pytest.raises(ValueError, match=r"writer\.folder is .*is no folder"):
            predict(tmp_path, Writer(str(tmp_path / name)), Data({"a": batch_of()}))
    assert (tmp_path / "file").read_bytes() == b"precious"


@pytest.mark.parametrize("key", ["../a", "b/../../a", "/a"])
def test_keys_that_lead_out_of_the_folder_are_refused(tmp_path, key):
    with pytest.raises(ValueError, match=f"the key '{key}' leads out of the folder"):
        predict(tmp_path, Writer(), Data({key: batch_of()}))


# ---------------------------------------------------------------------------------- what goes wrong


def test_a_full_disk_stops_the_run_and_leaves_no_half_file(tmp_path, monkeypatch):
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        predict(tmp_path, Writer(), Data({str(i): batch_of() for i in range(12)}))
    assert not list((tmp_path / "predict").iterdir())
