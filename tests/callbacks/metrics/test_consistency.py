"""LR-consistency and its numbers on Set5; repetition: what counts as repeated, and what not."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from callbacks.metrics.consistency import LRConsistency, Repetition, autocorrelation
from degradations.bicubic import resize
from tests.make import keys, read, uniform


def consistency(metric, sr, lr):
    return metric.compute(sr, sr, keys(len(sr)) | {"lr": lr})


@pytest.mark.parametrize(("scale", "bicubic", "real"), [(2, 42.4, 61.5), (4, 38.8, 59.6)])
def test_lr_consistency_on_set5(data_root, scale, bicubic, real):
    """Bicubic's numbers equal those of an independent script: 42.3 and 38.8."""
    values = []
    for path in sorted((data_root / f"set5/x{scale}/hr").glob("*.png")):
        hr = read(path)
        lr = read(data_root / f"set5/x{scale}/lr" / path.name)
        enlarged = resize(lr, hr.shape[-2:])
        values.append([consistency(LRConsistency(), x, lr).item() for x in (enlarged, hr)])

    assert np.mean(values, 0) == pytest.approx([bicubic, real], abs=0.1)


def test_lr_consistency_of_a_known_difference():
    lr = torch.full((2, 3, 8, 9), 0.5)
    sr = torch.full((2, 3, 20, 23), 0.5)  # any factor
    sr[1] += 10.2 / 255

    values = consistency(LRConsistency("rgb"), sr, lr)

    # 127.5 is rounded to 128, and 137.7 to 138.
    expected = [20 * math.log10(255 / 0.5), 20 * math.log10(255 / 10.5)]
    assert values.tolist() == pytest.approx(expected, abs=1e-3)


def scenes(count, seed=0):
    """32x32 images of one bright object each, on a ground below a sky."""
    sky = torch.linspace(0.8, 0.2, 32).view(1, 1, 32, 1).expand(count, 3, 32, 32)
    objects = uniform(count, 3, 8, 8, seed=seed) - 0.5
    return (sky + 0.8 * functional.pad(objects, [12] * 4)).clamp(0, 1)


def repetition(images, base=16):
    return float(Repetition(base).features(images, keys(len(images))).mean())


def test_repetition_is_the_correlation_of_rows_at_a_distance():
    x = torch.rand(2, 20, 9, dtype=torch.float64)

    correlations = autocorrelation(x, range(3, 5))

    y = x[1] - x[1].mean(0)
    above = y[:-4]
    below = y[4:]
    expected = (above * below).sum() / (above.square().sum() * below.square().sum()).sqrt()
    assert float(correlations[1, 1]) == pytest.approx(float(expected))


def test_copies_of_an_image_beside_each_other_repeat_it():
    whole = scenes(20)
    four = functional.avg_pool2d(whole, 2).tile(1, 1, 2, 2)
    two = functional.avg_pool2d(whole, (1, 2)).tile(1, 1, 1, 2)

    once = repetition(whole)

    assert repetition(four) > once + 0.4
    assert repetition(two) > once + 0.05


def test_a_level_ground_is_no_repetition_and_neither_is_blur():
    whole = scenes(20)
    ground = torch.linspace(0, 1, 32).view(1, 1, 32, 1).expand(2, 3, 32, 32)
    blurred = functional.interpolate(functional.avg_pool2d(whole, 2), scale_factor=2.0)

    assert repetition(ground) < 0
    assert abs(repetition(blurred) - repetition(whole)) < 0.05
    assert repetition(torch.full((1, 3, 32, 48), 0.5)) == pytest.approx(0, abs=1e-9)


def test_images_of_any_size_are_brought_to_one_for_repetition():
    whole = scenes(4, seed=1)
    large = functional.interpolate(whole, scale_factor=4.0, mode="nearest")

    assert repetition(large, base=64) == pytest.approx(repetition(whole), abs=1e-6)
