"""SampleGrid: which images, which window, where it goes."""

from __future__ import annotations

import errno
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor
from torch.utils.data import DataLoader

from callbacks.metrics.pixels import PSNR
from callbacks.pages.images import most_detailed
from callbacks.report.images import GAP, LINE, SampleGrid, compose
from tests.callbacks.tiny import Images, Tiny, collate, loader, trainer


def panels(grid: SampleGrid, **images: Any) -> dict[str, np.ndarray[Any, Any]]:
    sample = collate([Images()[0]])
    arguments = {"sr": sample["hr"] * 0.9, "lr": sample["lr"], "hr": sample["hr"]} | images
    return dict(grid._panels(**arguments, scale=2))


def test_panels_and_their_numbers() -> None:
    found = panels(SampleGrid(crop=None, zoom=1))
    names = [label.split()[0] for label in found]
    assert names == ["LR", "bicubic", "ours", "HR"]
    sample = collate([Images()[0]])
    metric = PSNR()
    metric.scale = 2
    expected = metric.compute(sample["hr"] * 0.9, sample["hr"], sample).item()
    assert f"ours  {expected:.2f} dB (Y)" in found
    levels = (sample["hr"][0] * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    assert np.array_equal(found["HR"], levels)
    assert np.array_equal(found["LR"][::2, ::2], found["LR"][1::2, 1::2])  # blocks of 2x2


def test_zoom_makes_squares_of_a_window() -> None:
    found = panels(SampleGrid(crop=8, zoom=3))
    assert {image.shape for image in found.values()} == {(24, 24, 3)}
    assert np.array_equal(found["HR"][::3, ::3], found["HR"][2::3, 2::3])


def test_without_hr_or_lr() -> None:
    assert list(panels(SampleGrid(), hr=None)) == ["LR", "bicubic", "ours"]
    assert [label.split()[0] for label in panels(SampleGrid(), lr=None)] == ["ours", "HR"]


def test_an_image_smaller_than_its_border_or_window() -> None:
    tiny = torch.rand(1, 3, 4, 4)
    assert len(SampleGrid(crop=96)._panels(tiny, tiny[..., ::4, ::4], tiny, 4.0)) == 4


def test_the_window_has_the_edges_and_shows_whole_lr_pixels() -> None:
    image = torch.zeros(1, 3, 40, 60)
    image[..., 20:28, 43:49] = 1
    top, left = most_detailed(image, (16, 16), 1)
    assert top <= 19
    assert top + 16 >= 28
    assert left <= 42
    assert left + 16 >= 49
    assert most_detailed(image, (16, 16), 4) == (top // 4 * 4, left // 4 * 4)
    assert most_detailed(image, (40, 60), 4) == (0, 0)


def test_rows_do_not_overlap() -> None:
    colors = [np.full((10, 12, 3), value, np.uint8) for value in (10, 200)]
    image = compose({"a": [("x", colors[0]), ("y", colors[1])], "b": [("x", colors[1])]})
    assert image.shape == (2 * (10 + 2 * LINE + GAP) + GAP, 2 * 12 + 3 * GAP, 3)
    first = image[GAP + LINE : GAP + LINE + 10]
    assert (first[:, GAP : GAP + 12] == 10).all()
    assert (first[:, 2 * GAP + 12 : 2 * GAP + 24] == 200).all()


def drawn(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "samples").glob("*"))


def test_files_of_fit_validate_and_test(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    grid = SampleGrid(every_n=2)
    run = trainer(tmp_path, grid, max_epochs=3, num_sanity_val_steps=1)
    with caplog.at_level(logging.INFO):
        run.fit(Tiny(), loader(), loader())
    assert drawn(tmp_path) == ["val-00000004.png", "val-00000012.png"]  # the first and the third
    assert str(tmp_path / "samples/val-00000012.png") in caplog.text
    run.validate(Tiny(), loader(), verbose=False)
    run.test(Tiny(), loader(), verbose=False)
    assert drawn(tmp_path)[:2] == ["test.png", "val-00000004.png"]
    assert "val.png" in drawn(tmp_path)
    assert grid.path == tmp_path / "samples/test.png"
    assert Image.open(grid.path).format == "PNG"


def test_a_full_disk_ends_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*arguments: Any, **options: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("callbacks.report.images.write_image", full)
    grid = SampleGrid()
    trainer(tmp_path, grid, max_epochs=2).fit(Tiny(), loader(), loader())
    assert drawn(tmp_path) == []
    assert grid.path is None
    assert caplog.text.count("could not be written ([Errno 28] No space left on device)") == 2


def test_the_first_images_of_each_dataset_in_its_order(tmp_path: Path) -> None:
    class Look(SampleGrid):
        keys: list[str]

        def _finish(self, *arguments: Any) -> None:
            self.keys = [key for key in self._wanted if key in self._rows]

    backwards = DataLoader(Images(5, "a"), 1, sampler=[4, 3, 2, 1, 0], collate_fn=collate)
    grid = Look(images=2)
    trainer(tmp_path, grid).test(Tiny(), [backwards, loader(Images(3, "b"))], verbose=False)
    assert grid.keys == ["a/00", "a/01", "b/00", "b/01"]


def test_tensorboard_gets_it_too(tmp_path: Path) -> None:
    logger = TensorBoardLogger(tmp_path, name="", version="")
    trainer(tmp_path, SampleGrid(), logger=logger).fit(Tiny(), loader(), loader())
    events = EventAccumulator(str(tmp_path)).Reload()
    image = events.Images("samples/val")[0]
    assert image.step == 4
    image = Image.open(tmp_path / "samples/val-00000004.png")
    assert (image.width, image.height) == image.size


@pytest.mark.parametrize("key", ["images", "crop", "zoom", "every_n"])
def test_settings_below_one(key: str) -> None:
    with pytest.raises(ValueError, match=f"`{key}` of SampleGrid is 0"):
        SampleGrid(**{key: 0})


def test_the_trained_image_is_shown(tmp_path: Path) -> None:
    class Red(Tiny):
        def test_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
            red = torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1)
            return {"sr": red.expand_as(batch["hr"])}

    trainer(tmp_path, SampleGrid(images=1, crop=8, zoom=1)).test(Red(), loader(), verbose=False)
    image = np.asarray(Image.open(tmp_path / "samples/test.png"))
    ours = image[GAP + LINE : GAP + LINE + 8, 3 * GAP + 16 : 3 * GAP + 24]
    assert (ours == (255, 0, 0)).all()
