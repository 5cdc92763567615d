"""What may be said of two rows: pairs, seeds, intervals of means and of sets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.miniature import numbers as miniature_numbers
from benchmarks.miniature import swd as miniature_swd
from benchmarks.miniature.numbers import (
    FAILS,
    HOLDS,
    OPEN,
    SPREAD,
    Difference,
    Measured,
    difference,
    set_of,
)
from callbacks.results.compare import mean_interval

PICTURES = 6
SIDE = 32


def test_resampling_nothing_gives_the_distance_of_the_sets() -> None:
    sr, hr = points(0, 1.0), points(1, 2.0)
    once = miniature_swd.resampled(sr, hr, np.ones((1, PICTURES)))
    assert once[0] == pytest.approx(miniature_swd.distance(sr, hr), rel=0.05)  # fewer directions


def test_a_resample_is_the_distance_of_the_images_it_has() -> None:
    sr, hr = points(0, 1.0), points(1, 2.0)
    drawn = [0, 0, 3, 4, 4, 4]
    weights = np.bincount(drawn, minlength=PICTURES)[None].astype(float)
    of_set = miniature_swd.resampled(sr[drawn], hr[drawn], np.ones((1, PICTURES)))
    assert miniature_swd.resampled(sr, hr, weights)[0] == pytest.approx(of_set[0], rel=2e-3)


def test_equal_sets_are_no_distance_apart() -> None:
    hr = points(1, 2.0)
    weights = miniature_swd.counts(PICTURES, 20, 0)
    assert (weights.sum(1) == PICTURES).all()
    assert miniature_swd.resampled(hr, hr, weights) == pytest.approx(np.zeros(20))


def points(seed: int, deviation: float) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.arange(1, PICTURES + 1).view(-1, 1, 1, 1)
    drawn = torch.randn(PICTURES, 1, 200, 49, generator=generator, dtype=torch.float64)
    return drawn * sizes * deviation


@pytest.mark.parametrize(
    ("metric", "interval", "verdict"),
    [
        ("psnr", (0.1, 0.3), HOLDS),
        ("psnr", (-0.3, -0.1), FAILS),
        ("psnr", (-0.1, 0.3), OPEN),
        ("psnr", (0.0, 0.3), OPEN),
        ("psnr", None, OPEN),
        ("swd", (0.1, 0.3), FAILS),
        ("swd", (-0.3, -0.1), HOLDS),
    ],
)
def test_only_an_interval_without_zero_decides(
    metric: str, interval: tuple[float, float] | None, verdict: str
) -> None:
    assert Difference(metric, 2.0, 6, 0.2, interval).verdict == verdict


def test_names_of_sets() -> None:
    assert [set_of(n) for n in ("set14_x2_7", "set14_x2.7", "kodak_x8", "set14", "my_xray")] == [
        *("set14", "set14", "kodak", "set14", "my_xray")
    ]


def run(folder: Path, numbers: dict[int | None, list[float]], noise: float = 0.0) -> Measured:
    """A row's run as `test` leaves it: PSNR of two sets of images, and their outputs."""
    images: list[dict[str, Any]] = []
    for seed, values in numbers.items():
        for name, part in (("one", slice(0, 3)), ("two", slice(3, None))):
            keys = [f"{name}_x2/{i}" for i in range(len(values[part]))]
            images.append(
                {
                    **{"dataset": f"{name}_x2", "scale": 2.0, "metric": "psnr", "protocol": {}},
                    **{"checkpoint": None, "seed": seed},
                    "values": dict(zip(keys, values[part], strict=True)),
                }
            )
            for key in keys:
                save(folder, "hr", key, 0.0)
                save(folder, str(seed or 0), key, noise)
    # What a metric's `control` leaves beside them.
    images.append({**images[0], "checkpoint": "bicubic", "seed": None, "values": {"one_x2/0": 9.0}})
    folder.mkdir(exist_ok=True)
    results = [
        {k: e[k] for k in ("dataset", "scale", "metric", "protocol", "checkpoint")}
        | {"value": 1, "n": len(e["values"])}
        for e in images
    ]
    (folder / "results.json").write_text(json.dumps({"results": results}))
    (folder / "images.json").write_text(json.dumps({"images": images}))
    return Measured(folder)


def save(folder: Path, name: str, key: str, noise: float) -> None:
    draws = np.random.default_rng(len(key) + ord(key[-1]))
    picture = draws.integers(60, 180, (SIDE, SIDE, 3)) + noise * draws.normal(size=(SIDE, SIDE, 1))
    path = folder / "outputs" / name / f"{key}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(path)


BETTER = [31.0, 25.0, 28.0, 35.0, 30.0, 27.0]
WORSE = [30.5, 24.8, 27.5, 34.9, 29.8, 26.6]


def test_pairs_over_all_sets_and_the_mean_over_seeds_of_each_image(tmp_path: Path) -> None:
    up, down = ([b + d for b in BETTER] for d in (0.5, -0.5))
    a = run(tmp_path / "a", {0: up, 1: down})
    b = run(tmp_path / "b", {None: WORSE})
    found = difference(a, b, "psnr", 2.0)
    assert found is not None
    apart = np.array(BETTER) - np.array(WORSE)
    assert found.n == 6
    assert found.value == pytest.approx(apart.mean())
    assert found.interval == pytest.approx(mean_interval(apart))
    assert found.verdict == HOLDS
    back = difference(b, a, "psnr", 2.0)
    assert back is not None
    assert back.verdict == FAILS
    assert a.means("psnr", 2.0) == pytest.approx([np.mean(up), np.mean(down)])


def test_what_was_not_measured_is_not_compared(tmp_path: Path) -> None:
    a, b = run(tmp_path / "a", {0: BETTER}), run(tmp_path / "b", {None: WORSE[:5]})
    assert difference(a, b, "psnr", 2.0) is None  # other images
    assert difference(a, a, "psnr", 3.0) is None  # no such scale
    few = run(tmp_path / "few", {0: BETTER[:4]})
    found = difference(few, few, "psnr", 2.0)
    assert found is not None
    assert found.interval is None
    assert found.verdict == OPEN


def test_spread_is_that_of_the_gain_over_bicubic(tmp_path: Path) -> None:
    gains = np.array([1.0, -1.0, 0.5, 2.0, 0.0, -0.5])
    bicubic = run(tmp_path / "bicubic", {None: WORSE})
    wide = run(tmp_path / "wide", {0: list(WORSE + gains + 3), 1: list(WORSE + gains - 1)})
    narrow = run(tmp_path / "narrow", {None: list(WORSE + gains / 10)})
    found = difference(narrow, wide, SPREAD, 2.0, bicubic)
    assert found is not None
    assert found.value == pytest.approx(-0.99 * gains.var(ddof=1))
    assert found.interval is not None
    assert found.interval[0] < found.value < found.interval[1] < 0
    assert found.verdict == HOLDS
    assert difference(narrow, wide, SPREAD, 2.0) is None
    assert difference(narrow, wide, SPREAD, 2.0, run(tmp_path / "few", {None: WORSE[:5]})) is None


def test_swd_has_an_interval_from_the_outputs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(miniature_numbers, "SWD_DRAWS", 200)
    near = run(tmp_path / "near", {None: BETTER}, noise=2.0)
    far = run(tmp_path / "far", {0: BETTER, 1: BETTER}, noise=30.0)
    found = difference(near, far, "swd", 2.0)
    assert found is not None
    assert found.interval is not None
    assert found.interval[0] < found.value < found.interval[1] < 0
    assert found.verdict == HOLDS
    assert len(far.means("swd", 2.0)) == 2
    nothing = difference(near, near, "swd", 2.0)
    assert nothing is not None
    assert nothing.interval == (0.0, 0.0)
    assert nothing.verdict == OPEN
