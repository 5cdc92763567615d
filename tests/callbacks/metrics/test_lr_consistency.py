"""LR-consistency: what it compares, and its numbers on Set5."""

from __future__ import annotations

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
    rounded = compute(LRConsistency("rgb"), sr, lr)  # 127.5 is 128, 137.7 is 138
    expected = [20 * math.log10(255 / 0.5), 20 * math.log10(255 / 10.5)]
    assert rounded.tolist() == pytest.approx(expected, abs=1e-3)
