"""Messages name what the program knows, such as the scale of weights."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

Refusal = Callable[..., str]
Enlarger = Callable[..., None]


@pytest.mark.parametrize("scale", [3, 4])
def test_the_scale_of_weights(tiny: Path, refusal: Refusal, trained: Path, scale: int) -> None:
    shutil.copy(next(trained.glob("checkpoints/*.ckpt")), "x2.ckpt")
    got = refusal(
        *("test", "--config", "tiny.yaml", "--run.name", "other"),
        *("--model.init_args.weights", "x2.ckpt", "--data.init_args.scale", scale),
    )
    assert got.startswith("the tensors of x2.ckpt do not fit the model: 2 ")
    assert got.endswith(
        f"They are weights for x2, and data.scale is {scale}: set it to 2, or name "
        f"weights for x{scale}"
    )


def test_weights_of_another_size_have_no_scale(tiny: Path, refusal: Refusal, trained: Path) -> None:
    got = refusal(
        *("test", "--config", "tiny.yaml", "--model.init_args.network.init_args.channels", 16)
    )
    assert "Is it another network, size or scale? See model.init_args and" in got
    assert got.endswith(f"use --config {Path('runs/tiny/config.yaml')}")


def test_nothing_to_do(
    tiny: Path, enlarger: Enlarger, photo_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    command = (
        *("predict", "--model", "lightning_modules.Bicubic"),
        *("--data", "datamodules.SRDataModule", "--data.init_args.scale", 2),
        *("--data.init_args.predict", photo_folder, "--trainer.accelerator", "cpu"),
    )
    enlarger(*command)
    assert "nothing to do" not in caplog.text
    caplog.clear()
    enlarger(*command)
    assert caplog.text.count("nothing to do, all outputs are there") == 1
    assert "0.00 a second" not in caplog.text
