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


def test_a_full_disk_costs_curves_and_no_run(tmp_path, monkeypatch, caplog):
    def full(writer, data):
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

    # Of ten failures one is said; a later writer goes on.
    assert caplog.text.count("No space left on device): training goes on without them") == 1
    assert [step for step, _ in Log(tmp_path).scalars("train/loss")] == [10, 50]


def test_numbers_and_texts_are_hyperparameters_and_objects_are_not(tmp_path):
    logger = TensorBoard(str(tmp_path), name="", version="")

    logger.log_hyperparams({"lr": 0.1, "model": "EDSR", "parts": object()})
    logger.finalize("success")

    assert Log(tmp_path).hyperparameters() == {"lr": 0.1, "model": "EDSR"}


# --------------------------------------------------------------------------- Images of validations


def shown(folder, model, data, **settings):
    """What is logged of a validation: of each image, by its name, what stands side by side."""
    logger = TensorBoardLogger(folder, name="", version="")
    model.training_step = lambda *_: None  # it stays as it began
    run = trainer(folder, PSNR(), ValidationImages(**settings), logger=logger)
    run.fit(model, loader(Images(2)), loader(data))
    log = Log(folder)
    side = settings.get("side", data.side)
    columns = {}
    for name in log.names("images"):
        [(_, image)] = log.images(name)
        starts = range(0, image.shape[1], NARROWEST + GAP)
        columns[name] = [image[:side, start : start + side] for start in starts]
    return columns


def test_lr_bicubic_output_and_hr_stand_side_by_side(tmp_path):
    data = Images(3)

    images = shown(tmp_path, Tiny(), data, limit=2)

    assert list(images) == ["images/tiny/00", "images/tiny/01"]
    lr = data[1]["lr"][None]
    enlarged = lr.repeat_interleave(2, 2).repeat_interleave(2, 3)
    bicubic = resize(lr, (24, 24))
    with torch.no_grad():
        output = Tiny()(lr, (24, 24)).clamp(0, 1)
    expected = [enlarged, bicubic, output, data[1]["hr"][None]]
    for column, image in zip(images["images/tiny/01"], expected, strict=True):
        np.testing.assert_array_equal(column, to_bytes(image[0]))


def test_hr_that_is_absent_has_no_column(tmp_path):
    [columns] = shown(tmp_path, Double(), NoHR(1)).values()

    assert len(columns) == 3  # LR, bicubic, output


def test_an_image_larger_than_the_side_is_cut_to_its_middle(tmp_path):
    data = Images(1, side=48)

    [columns] = shown(tmp_path, Tiny(), data, side=16).values()

    middle = data[0]["hr"][:, 16:32, 16:32]
    np.testing.assert_array_equal(columns[-1], to_bytes(middle))


def test_an_output_that_is_not_finite_is_black(tmp_path):
    class Breaks(Tiny):
        def validation_step(self, batch, batch_idx):
            return {"sr": torch.full_like(batch["hr"], torch.nan)}

    [columns] = shown(tmp_path, Breaks(), Images(1)).values()

    assert not columns[2].any()  # LR, bicubic, output, HR
