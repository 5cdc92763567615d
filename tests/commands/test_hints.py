"""Messages name what the program knows, such as the scale of weights."""

from __future__ import annotations

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
    assert "scale" in got
