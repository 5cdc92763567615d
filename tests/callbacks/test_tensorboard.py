"""TensorBoard: a full disk, hyperparameters, and images of validations."""

from __future__ import annotations

import errno

import numpy as np
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.summary.writer.record_writer import RecordWriter

from callbacks.metrics.pixels import PSNR
from callbacks.tensorboard import TensorBoard
from callbacks.validation_images import GAP, NARROWEST, ValidationImages
from degradations.bicubic import resize
from degradations.images import to_bytes
from tests.callbacks.event_files import Log
from tests.callbacks.tiny import Double, Images, NoHR, Tiny, loader, trainer


def test_a_full_disk_raises_no_error_and_a_later_logger_goes_on(tmp_path, monkeypatch, caplog):
    def full(writer, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("threading.excepthook", lambda _: None)  # TensorBoard's thread ends by it
    logger = TensorBoard(str(tmp_path), name="", version="")
    logger.log_metrics({"train/loss": 0.5}, step=10)
    logger.experiment.flush()

    with monkeypatch.context() as patch:
        patch.setattr(RecordWriter, "write", full)
        for step in range(20, 30):
            logger.log_metrics({"train/loss": 0.4}, step=step)
            logger.experiment.flush()
    logger.finalize("success")
    later = TensorBoard(str(tmp_path), name="", version="")
    later.log_metrics({"train/loss": 0.3}, step=50)
    later.finalize("success")

    # One warning of ten failures.
    assert caplog.text.count("No space left on device): training goes on without them") == 1
    assert [step for step, _ in Log(tmp_path).scalars("train/loss")] == [10, 50]


def test_numbers_and_texts_are_hyperparameters_and_objects_are_not(tmp_path):
    logger = TensorBoard(str(tmp_path), name="", version="")

    logger.log_hyperparams({"lr": 0.1, "model": "EDSR", "parts": object()})
    logger.finalize("success")

    assert Log(tmp_path).hyperparameters() == {"lr": 0.1, "model": "EDSR"}


# --------------------------------------------------------------------------- Images of validations


def logged_columns(folder, model, data, **settings):
    """The images that a validation logs side by side, by the name of what is logged."""
    logger = TensorBoardLogger(folder, name="", version="")
    model.training_step = lambda *_: None  # it stays as it began
    run = trainer(folder, PSNR(), ValidationImages(**settings), logger=logger)
    run.fit(model, loader(Images(count=2)), loader(data))
    log = Log(folder)
    side = settings.get("side", data.side)
    columns = {}
    for name in log.names("images"):
        [(_, image)] = log.images(name)
        starts = range(0, image.shape[1], NARROWEST + GAP)
        columns[name] = [image[:side, start : start + side] for start in starts]
    return columns


def test_lr_bicubic_output_and_hr_are_logged_side_by_side(tmp_path):
    side = 24
    data = Images(count=3, name="tiny", scale=2, side=side)

    columns = logged_columns(tmp_path, Tiny(), data, limit=2)

    assert list(columns) == ["images/tiny/00", "images/tiny/01"]  # of three images
    lr = data[1]["lr"][None]
    nearest = lr.repeat_interleave(2, 2).repeat_interleave(2, 3)
    bicubic = resize(lr, (side, side))
    with torch.no_grad():
        output = Tiny()(lr, (side, side)).clamp(0, 1)
    expected = [nearest, bicubic, output, data[1]["hr"][None]]
    for column, image in zip(columns["images/tiny/01"], expected, strict=True):
        np.testing.assert_array_equal(column, to_bytes(image[0]))


def test_without_hr_its_column_is_missing(tmp_path):
    [columns] = logged_columns(tmp_path, Double(), NoHR(count=1)).values()

    assert len(columns) == 3  # LR, bicubic, output


def test_an_image_larger_than_the_side_is_cut_to_its_middle(tmp_path):
    data = Images(count=1, side=48)

    [columns] = logged_columns(tmp_path, Tiny(), data, side=16).values()

    *_, hr = columns
    middle = data[0]["hr"][:, 16:32, 16:32]  # 16 of 48 pixels
    np.testing.assert_array_equal(hr, to_bytes(middle))


def test_an_output_that_is_not_finite_is_black(tmp_path):
    class Breaks(Tiny):
        def validation_step(self, batch, batch_idx):
            return {"sr": torch.full_like(batch["hr"], torch.nan)}

    [columns] = logged_columns(tmp_path, Breaks(), Images(count=1)).values()

    _lr, _bicubic, output, _hr = columns
    assert not output.any()
