"""The sizes of a cascade: section 3.2 of the paper, and what it leaves open."""

from __future__ import annotations

import itertools

import pytest

from lightning_modules.methods.self_cascade import cascade_sizes, count_stages


def square(side):
    return side, side


@pytest.mark.parametrize(
    ("base", "target", "stages"),
    [
        (square(512), square(1024), 1),
        (square(512), square(2048), 2),
        (square(512), (1536, 3072), 3),
        (square(512), square(1280), 2),
        (square(512), (1024, 2048), 2),
        (square(512), square(512), 0),
        (square(512), square(256), 0),
        (square(512), (512, 520), 1),
    ],
)
def test_the_number_of_stages(base, target, stages):
    assert count_stages(base, target) == stages
    if stages:
        assert len(cascade_sizes(base, target)) == stages + 1


def test_between_powers_of_four():
    assert cascade_sizes(square(512), square(2048)) == [square(512), square(1024), square(2048)]
    assert cascade_sizes(square(512), square(1280)) == [square(512), square(808), square(1280)]
    found = cascade_sizes(square(512), square(1280), multiple=64)
    assert found == [square(512), square(832), square(1280)]
    jump = [square(2048)]
    assert cascade_sizes(square(512), square(2048), jump) == [square(512), *jump]
    assert cascade_sizes(square(16), square(32), multiple=1) == [square(16), square(32)]


def test_another_aspect_ratio():
    """The base runs at the target's, with as many pixels."""
    target = (1024, 2048)
    assert cascade_sizes(square(512), target) == [(360, 728), (608, 1216), target]
    assert cascade_sizes(square(512), (256, 1024)) == [(256, 1024)]


@pytest.mark.parametrize("multiple", [8, 64])
def test_whatever_the_sizes(multiple):
    base = (512, 640)
    for height, width in itertools.product(range(640, 3200, 448), range(512, 4000, 576)):
        sizes = cascade_sizes(base, (height, width), multiple=multiple)
        assert sizes[-1] == (height, width)
        assert all(side % multiple == 0 for size in sizes for side in size)
        areas = [h * w for h, w in sizes]
        steps = [after / before for before, after in itertools.pairwise(areas)]
        slack = (1 + multiple / 200) ** 2  # of rounding
        assert all(1 / slack < step < 4 * slack for step in steps)
