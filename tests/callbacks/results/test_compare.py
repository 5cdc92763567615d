"""Comparing runs: verdicts, and numbers that are left out."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from callbacks.results.compare import compare, load_run, verdict
from callbacks.results.files import append
from tests.callbacks.results.measured import row

KEYS = [f"set5/{i}" for i in range(12)]


def run(
    folder: Path,
    values: Any,
    seeds: tuple[int | None, ...] = (None,),
    keys: list[str] = KEYS,
    digests: dict[str, str] | None = None,
    mean: dict[str, Any] | None = None,
    **changes: Any,
) -> str:
    """Return a run with one more metric.

    Args:
        folder: The run.
        values: Of each image, or of each seed and image.
        seeds: The seeds.
        keys: Names of the images.
        digests: Of the images, by name.
        mean: Changes of the dataset's row.
        changes: Changes of all rows.
    """
    of_seeds = np.broadcast_to(np.asarray(values, float), (len(seeds), len(keys)))
    number = {"value": float(of_seeds.mean()), "n": len(keys), **changes, **(mean or {})}
    if len(seeds) > 1:
        number |= {"seeds": list(seeds), "std": 0.1}
    rows = [row(**number)]
    for seed, of_seed in zip(seeds, of_seeds, strict=True):
        for key, value in zip(keys, of_seed, strict=True):
            digest = (digests or {}).get(key)
            rows.append(row(image=key, value=float(value), seed=seed, digest=digest, **changes))
    append(folder, rows)
    return str(folder)


def compared(a: str, b: str) -> Any:
    return compare(load_run(a), load_run(b))


def noise(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 1, len(KEYS))


# ------------------------------------------------------------------------------- what may be said


def test_the_pairs_count_not_the_spread(tmp_path: Path) -> None:
    """Images differ by far more than the methods; in pairs that does not matter."""
    images = 10 * noise(1)
    a = run(tmp_path / "a", 30 + images + 0.1 + 0.02 * noise(2))
    b = run(tmp_path / "b", 30 + images)
    ((found,), left_out) = compared(a, b)
    assert found.verdict == "A is better"
    assert found.interval[0] < 0.1 < found.interval[1]
    assert found.interval[1] - found.interval[0] < 0.1
    assert left_out == found.notes == []
    # Against images in another order there is no significant difference.
    shuffled = run(tmp_path / "c", 30 + np.roll(images, 1))
    assert compared(a, shuffled)[0][0].verdict == "no difference shown"


@pytest.mark.parametrize(
    ("interval", "higher", "said"),
    [
        ((0.1, 1.0), True, "A is better"),
        ((-1.0, -0.1), False, "A is better"),
        ((0.0, 1.0), None, "no difference shown"),
        ((-1.0, 1.0), False, "no difference shown"),
        ((0.1, 1.0), None, "A is higher"),
    ],
)
def test_what_an_interval_shows(interval: Any, higher: bool | None, said: str) -> None:
    assert verdict(interval, higher) == said


def test_the_mean_over_seeds_comes_first(tmp_path: Path) -> None:
    drawn = np.stack([noise(seed) for seed in range(4)])
    a = run(tmp_path / "a", 30 + drawn, seeds=(0, 1, 2, 3))
    b = run(tmp_path / "b", 30 + drawn.mean(0) - 0.5)
    ((found,), _) = compared(a, b)
    assert found.interval == pytest.approx((0.5, 0.5))
    assert found.a.std == 0.1


# ------------------------------------------------------------ other images under the same names


@pytest.mark.parametrize("other", ["00000002", "00000002 9.00", "00000001 9.20"])
def test_images_whose_pixels_or_degradation_differ_are_left_out(tmp_path: Path, other: str) -> None:
    values = noise() + 1.0
    values[3] = -100.0
    # Of an earlier version without LR; of LR that another device rounded.
    digests = {key: "00000001 9.00" for key in KEYS} | {"set5/0": "00000001"}
    a = run(tmp_path / "a", values, digests=digests)
    b = run(tmp_path / "b", noise(), digests=digests | {"set5/1": "00000001 9.01", "set5/3": other})
    ((found,), left_out) = compared(a, b)
    assert left_out == []
    assert found.notes == [
        "1 of 12 images are left out: A and B have other pixels under their names, or LR of "
        "another degradation: set5/3"
    ]
    assert found.interval == pytest.approx((1.0, 1.0))
    assert (found.a.n, found.b.n) == (11, 11)
    assert found.a.value - found.b.value == pytest.approx(1.0)


def test_sets_of_other_images_are_left_out(tmp_path: Path) -> None:
    for name, digest in (("a", "00000001 9.00"), ("b", "00000002 9.00")):
        append(tmp_path / name, [row(metric="fid", digest=digest)])
    found, left_out = compared(str(tmp_path / "a"), str(tmp_path / "b"))
    assert found == []
    assert "has other pixels under the same names" in left_out[0]


# --------------------------------------------------------------------------- what has no interval


def test_an_output_with_a_broken_pixel_has_no_interval(tmp_path: Path) -> None:
    values = noise()
    values[3] = math.nan
    a, b = run(tmp_path / "a", values), run(tmp_path / "b", noise())
    ((found,), _) = compared(a, b)
    assert (found.interval, found.verdict) == (None, "no interval")
    assert found.notes[0].startswith("1 of 12 images have no finite number: set5/3 (nan, ")


@pytest.mark.parametrize("mean", ["finite", "of version 0.1.0"])
def test_images_that_are_equal_to_hr_are_left_out_of_both(tmp_path: Path, mean: str) -> None:
    values = noise() + 1.0
    values[3] = math.inf
    given = {"value": 31.0, "not_finite": 1} if mean == "finite" else {}
    a, b = run(tmp_path / "a", values, mean=given), run(tmp_path / "b", noise())
    ((found,), _) = compared(a, b)
    assert found.verdict == "A is better"
    assert found.interval == pytest.approx((1.0, 1.0))
    assert found.a.value - found.b.value == pytest.approx(1.0)
    assert (found.a.n, found.b.n) == (11, 11)
    assert found.notes[0].startswith(
        "1 of 12 images are left out: their number is not finite in A or B: set5/3 (inf, "
    )


# --------------------------------------------------------------------------------- what is left out


def test_common_images_only(tmp_path: Path) -> None:
    a = run(tmp_path / "a", noise() + 1)
    values = np.append(noise()[2:], 99.0)
    b = run(tmp_path / "b", values, keys=[*KEYS[2:], "set5/another"])
    ((found,), _) = compared(a, b)
    assert found.notes == ["on the 10 images in both; 2 are only in A, 1 only in B"]
    assert found.interval == pytest.approx((1, 1))
    assert found.a.n == found.b.n == 10
    assert found.a.value == pytest.approx((noise() + 1)[2:].mean())


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"protocol": {"color": "rgb", "border": "scale"}}, r"another protocol \(color: y / rgb\)"),
        ({"scale": 3.0}, "does not have it"),
        ({"metric": "ssim"}, "does not have it"),
        ({"dataset": "set14"}, "does not have it"),
    ],
)
def test_what_is_not_comparable(tmp_path: Path, change: Any, reason: str) -> None:
    a, b = run(tmp_path / "a", noise()), run(tmp_path / "b", noise(), **change)
    found, left_out = compared(a, b)
    assert found == []
    assert left_out[0].startswith("psnr on set5 x2 is left out: ")
    assert re.search(reason, left_out[0])


# ------------------------------------------------------------------------------------ checkpoints


def two(folder: Path, *names: str) -> str:
    for number, name in enumerate(names):
        run(folder, noise() + number, checkpoint=name)
    return str(folder)


def test_bicubic_is_asked_for(tmp_path: Path) -> None:
    a = two(tmp_path / "a", "bicubic", "c/best.ckpt")
    assert load_run(a).rows[0].checkpoint == "c/best.ckpt"
    ((found,), _) = compared(a, f"{a}@bicubic")
    assert found.verdict == "A is better"
    assert found.b.checkpoint == "bicubic"


def test_several_checkpoints(tmp_path: Path) -> None:
    a = two(tmp_path / "a", "step-1.ckpt", "step-2.ckpt")
    b = run(tmp_path / "b", noise())
    for one, other in ((a, b), (b, a)):
        with pytest.raises(ValueError, match=r"2 checkpoints \(step-1.ckpt, step-2.ckpt\): say"):
            compared(one, other)
    assert compared(f"{a}@step-1", f"{a}@step-2")[0][0].interval == pytest.approx((-1, -1))
    with pytest.raises(ValueError, match=r"nothing of a checkpoint 'step-3'; it has step-1.ckpt"):
        load_run(f"{a}@step-3")
