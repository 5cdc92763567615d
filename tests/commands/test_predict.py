"""`predict`: a folder in, a folder out, and nothing is lost."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from PIL.ExifTags import IFD, Base

from callbacks.predict.predictions import NAME
from commands.run.ranking import best_or_newest
from tests.quick import quick

Enlarger = Callable[..., None]
PREDICT = ("predict", "--config", "bicubic/tiny.yaml")
OUT = Path("runs/tiny/predict")


def smooth(size: tuple[int, int] = (24, 20), mode: str = "RGB") -> Image.Image:
    blocks = np.random.default_rng(3).integers(0, 256, (5, 5, 4), dtype=np.uint8)
    return Image.fromarray(blocks).convert(mode).resize(size, Image.Resampling.BICUBIC)


def pixels(path: Path) -> NDArray[np.uint8]:
    with Image.open(path) as image:
        return np.asarray(image)


@pytest.fixture
def folder(tiny: Path, bicubic: str) -> Path:
    """Return a folder of images, with a sub-folder."""
    folder = tiny / "in"
    (folder / "sub").mkdir(parents=True)
    smooth().save(folder / "a.png")
    smooth((20, 24)).save(folder / "sub" / "b.c.jpg")
    return folder


def predict(enlarger: Enlarger, folder: Path, *more: object) -> None:
    enlarger(*PREDICT, "--data.init_args.predict", folder, *more)


def written(root: Path = OUT) -> list[str]:
    """Return the images in a folder and below, without predictions.jsonl."""
    files = (p for p in root.rglob("*") if p.is_file() and p.name != NAME)
    shown = (p.relative_to(root) for p in files)
    return sorted(p.as_posix() for p in shown if not any(s.startswith(".") for s in p.parts))


# ------------------------------------------------------------------------------------ the files


def test_to_a_size(folder: Path, enlarger: Enlarger) -> None:
    """Whatever their own sizes, and with transparency."""
    smooth(mode="RGBA").save(folder / "a.png")
    predict(enlarger, folder, "--data.init_args.size", "[30,70]")
    assert pixels(OUT / "sub" / "b.c.png").shape == (30, 70, 3)
    out = pixels(OUT / "a.png")
    expected = smooth(mode="RGBA").resize((70, 30), Image.Resampling.BICUBIC)
    assert out.shape == (30, 70, 4)
    alpha = np.asarray(expected.getchannel("A")).astype(int)
    assert np.abs(out[..., 3] - alpha).max() <= 1


@pytest.mark.parametrize("scale", [1.5, 3])
def test_a_run_enlarges_by_any_factor(
    trained: Path, enlarger: Enlarger, refusal: Callable[..., str], scale: float
) -> None:
    """From its folder, its configuration or a checkpoint: the network has one factor, 2."""
    smooth((20, 12)).save("a.png")
    checkpoint, _ = best_or_newest(trained / "checkpoints")
    models = (("--model", trained), ("--config", "tiny.yaml"), ("--model", checkpoint))
    outputs = []
    for number, model in enumerate(models):
        options = ("--data.scale", scale, "--writer.folder", f"out{number}")
        enlarger("predict", *model, "--data.predict", "a.png", *options)
        outputs.append(pixels(Path(f"out{number}/a.png")))
    assert outputs[0].shape == (round(12 * scale), round(20 * scale), 3)
    assert all(np.array_equal(output, outputs[0]) for output in outputs)
    options = ("--data.predict", "a.png", "--data.scale", "0.5")
    assert "at least 1" in refusal("predict", "--model", trained, *options)


PLACES = [("in/out", ""), ("in/out", "_x2"), ("in", "_x2")]


@pytest.mark.parametrize(("place", "suffix"), quick(PLACES, "in"))
def test_outputs_among_the_inputs_are_not_enlarged(
    folder: Path,
    enlarger: Enlarger,
    caplog: pytest.LogCaptureFixture,
    place: str,
    suffix: str,
) -> None:
    command = ("--writer.folder", place, "--writer.suffix", suffix)
    predict(enlarger, folder, *command)
    first = written(folder)
    assert len(first) == 4
    for inputs in (folder, folder / "**" / "*.*"):
        caplog.clear()
        predict(enlarger, inputs, *command)
        assert written(folder) == first
        assert "0 written, 2 skipped (done before), 0 unusable" in caplog.text
        assert "left out 2 images in writer.folder" in caplog.text
    smooth().save(folder / "new.png")
    predict(enlarger, folder, *command)
    assert len(written(folder)) == 6


# ------------------------------------------------------------------------- what else a file holds


def test_exif_and_orientation(folder: Path, enlarger: Enlarger) -> None:
    tags = Image.Exif()
    tags[Base.Orientation], tags[Base.Make] = 6, "Maker"  # rotated by a quarter turn
    tags[IFD.Exif] = {Base.DateTimeOriginal: "2020:01:02 03:04:05"}
    smooth().save(folder / "a.jpg", quality=98, subsampling=0, exif=tags)
    predict(enlarger, folder / "a.jpg")
    with Image.open(OUT / "a.png") as image:
        found, out = image.getexif(), np.asarray(image)
        details = found.get_ifd(IFD.Exif)
    assert (found[Base.Make], found[Base.Orientation]) == ("Maker", 1)
    assert details[Base.DateTimeOriginal] == "2020:01:02 03:04:05"
    assert (details[Base.ExifImageWidth], details[Base.ExifImageHeight]) == (40, 48)
    upright = smooth().rotate(-90, expand=True).resize((40, 48), Image.Resampling.BICUBIC)
    assert np.abs(out.astype(int) - np.asarray(upright)).mean() < 2  # JPEG
