"""TensorBoard: a full disk, hyperparameters, and images of validations."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from numpy.typing import NDArray
from tensorboard.summary.writer.record_writer import RecordWriter

from callbacks.metrics.pixels import PSNR
from callbacks.tensorboard import TensorBoard
from callbacks.validation_images import GAP, NARROWEST, ValidationImages
from degradations.bicubic import resize
from degradations.images import to_bytes
from tests.callbacks.event_files import Log
from tests.callbacks.tiny import Double, Images, NoHR, Tiny, loader, trainer


def test_a_full_disk_costs_curves_and_no_run(tmp_path, monkeypatch, caplog):
    def full(writer: Any, data: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("threading.excepthook", lambda _: None)
    logger = TensorBoard(str(tmp_path), name="", version="")
    logger.log_metrics({"train/loss": 0.5}, step=10)
    logger.experiment.flush()
    with monkeypatch.context() as patch:
        patch.setattr(RecordWriter, "write", full)
        for step in range(20, 30):
            logger.log_metrics({"train/loss": 0.4}, step=step)
            logger.experiment.flush()
    logger.finalize("success")
    again = TensorBoard(str(tmp_path), name="", version="")
    again.log_metrics({"train/loss": 0.3}, step=50)
    again.finalize("success")

    assert caplog.text.count("No space left on device): training goes on without them") == 1
    assert [step for step, _ in Log(tmp_path).scalars("train/loss")] == [10, 50]


def test_hyperparameters_are_those_of_the_tab(tmp_path):
    logger = TensorBoard(str(tmp_path), name="", version="")
    logger.log_hyperparams({"lr": 0.1, "model": "EDSR", "parts": object()})
    logger.finalize("success")

    content = Log(tmp_path).hyperparameters()
    assert content == {"lr": 0.1, "model": "EDSR"}


# --------------------------------------------------------------------------- Images of validations


SIDE = 24
COLUMN = NARROWEST + GAP


def fit(folder: Path, model: Tiny, data: Images, callback: ValidationImages) -> None:
    logger = TensorBoardLogger(folder, name="", version="")
    model.training_step = lambda *_: None  # type: ignore[assignment,return-value]  # as it began
    trainer(folder, PSNR(), callback, logger=logger).fit(model, loader(Images(2)), loader(data))


def logged(folder: Path) -> dict[str, NDArray[np.uint8]]:
    log = Log(folder)
    found = {}
    for name in log.names("images"):
        ((_, image),) = log.images(name)
        found[name] = image
    return found


def columns(image: NDArray[np.uint8], height: int, width: int) -> list[NDArray[np.uint8]]:
    """Return the images that stand side by side, without the words below."""
    return [image[:height, x : x + width] for x in range(0, image.shape[1], COLUMN)]


def test_lr_bicubic_output_and_hr_stand_side_by_side(tmp_path: Path) -> None:
    data = Images(3)
    fit(tmp_path, Tiny(), data, ValidationImages(limit=2))

    found = logged(tmp_path)
    assert [*found] == ["images/tiny/00", "images/tiny/01"]
    sample = data[1]
    lr = sample["lr"][None]
    output = Tiny()(lr, (SIDE, SIDE)).clamp(0, 1)
    expected = [lr.repeat_interleave(2, 2).repeat_interleave(2, 3), resize(lr, (SIDE, SIDE))]
    expected += [output, sample["hr"][None]]
    for shown, image in zip(columns(found["images/tiny/01"], SIDE, SIDE), expected, strict=True):
        np.testing.assert_array_equal(shown, to_bytes(image[0].detach()))


def test_what_is_absent_is_left_out(tmp_path: Path) -> None:
    fit(tmp_path, Double(), NoHR(1), ValidationImages())
    (image,) = logged(tmp_path).values()
    assert len(columns(image, SIDE, SIDE)) == 3


def test_a_large_image_is_cut_to_its_middle(tmp_path: Path) -> None:
    data = Images(1, side=48)
    fit(tmp_path, Tiny(), data, ValidationImages(side=16))
    (image,) = logged(tmp_path).values()
    middle = data[0]["hr"][:, 16:32, 16:32]
    np.testing.assert_array_equal(columns(image, 16, 16)[-1], to_bytes(middle))


class Breaks(Tiny):
    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
        return {"sr": torch.full_like(batch["hr"], torch.nan)}


def test_an_output_that_is_not_finite_is_black(tmp_path: Path) -> None:
    fit(tmp_path, Breaks(), Images(1), ValidationImages())
    (image,) = logged(tmp_path).values()
    assert not columns(image, SIDE, SIDE)[2].any()
