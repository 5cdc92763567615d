"""LR-consistency: what it compares, its numbers on Set5, and errors."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from callbacks.metrics.consistency import LRConsistency
from degradations.bicubic import resize
from tests.callbacks.tiny import Double, NoHR, Tiny, loader, trainer


def compute(metric: LRConsistency, sr: Tensor, lr: Tensor) -> Tensor:
    batch: Any = {"key": [f"set/{i}" for i in range(len(sr))], "lr": lr}
    return metric.compute(sr, sr, batch)


def read(path: Path) -> Tensor:
    pixels = np.array(Image.open(path).convert("RGB"))
    return torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255


@pytest.mark.parametrize(("scale", "bicubic", "hr"), [(2, 42.4, 61.5), (4, 38.8, 59.6)])
def test_set5(data_root: Path, scale: int, bicubic: float, hr: float) -> None:
    """Bicubic's numbers equal those of an independent script: 42.3 and 38.8."""
    values = []
    for path in sorted((data_root / f"set5/x{scale}/hr").glob("*.png")):
        image, lr = read(path), read(data_root / f"set5/x{scale}/lr" / path.name)
        enlarged = resize(lr, image.shape[-2:])
        values.append([compute(LRConsistency(), x, lr).item() for x in (enlarged, image)])
    assert np.mean(values, 0) == pytest.approx([bicubic, hr], abs=0.1)


def test_a_known_difference() -> None:
    lr = torch.full((2, 3, 8, 9), 0.5)
    sr = torch.full((2, 3, 20, 23), 0.5)  # any factor
    sr[1] += 10.2 / 255
    exact = LRConsistency("rgb", round_8bit=False)
    assert compute(exact, sr, lr)[1].item() == pytest.approx(20 * math.log10(25), abs=1e-3)
    rounded = compute(LRConsistency("rgb"), sr, lr)  # 127.5 is 128, 137.7 is 138
    expected = [20 * math.log10(255 / 0.5), 20 * math.log10(255 / 10.5)]
    assert rounded.tolist() == pytest.approx(expected, abs=1e-3)


def test_the_border_is_that_of_the_input() -> None:
    generator = torch.Generator().manual_seed(0)
    lr, sr = (torch.rand(1, 3, n, n, generator=generator) for n in (12, 24))
    inside = compute(LRConsistency(border=2), sr, lr)
    lr[..., :2, :] = 0
    assert compute(LRConsistency(border=2), sr, lr) == inside
    assert compute(LRConsistency(border=1), sr, lr) != inside


def test_a_run_has_the_control_and_names_bad_images(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Breaks(Tiny):
        def validation_step(self, batch: Any, *_: Any) -> dict[str, Tensor]:
            sr = super().validation_step(batch, 0)["sr"]
            for key, value in (("tiny/01", math.nan), ("tiny/02", math.inf)):
                if key in batch["key"]:
                    sr[batch["key"].index(key), 0, 7, 7] = value
            return {"sr": sr}

    metric = LRConsistency(control=True)
    run = trainer(tmp_path, metric)
    run.validate(Tiny(), loader(), verbose=False)
    assert run.callback_metrics["val/lr_psnr"].item() == pytest.approx(metric.records[0]["value"])
    assert metric.control_records[0]["value"] > metric.records[0]["value"]
    with caplog.at_level(logging.WARNING):
        run.validate(Breaks(), loader(), verbose=False)
    assert "lr_psnr is not finite for 2 of 7 images of tiny" in caplog.text
    assert "tiny/01 (nan), tiny/02 (nan)" in caplog.text


def test_it_needs_an_input() -> None:
    sr, batch = torch.rand(1, 3, 8, 8), {"key": ["set/0"]}
    with pytest.raises(ValueError, match="lr_psnr of set/0: the batch has no `lr`"):
        LRConsistency().compute(sr, sr, batch)  # type: ignore[arg-type]


def test_bad_arguments_and_sizes() -> None:
    with pytest.raises(ValueError, match="`color` of LRConsistency is 'lab'"):
        LRConsistency("lab")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="`border` of LRConsistency is -1"):
        LRConsistency(border=-1)
    with pytest.raises(
        ValueError, match="9x8 pixels are fewer than one pixel of the input without"
    ):
        compute(LRConsistency(border=4), torch.rand(1, 3, 16, 18), torch.rand(1, 3, 8, 9))


def test_images_without_hr(tmp_path: Path) -> None:
    metric = LRConsistency()
    trainer(tmp_path, metric).validate(Double(), loader(NoHR()), verbose=False)
    assert metric.records[0]["n"] == 7
