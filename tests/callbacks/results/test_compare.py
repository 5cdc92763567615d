"""Runs compared: intervals, verdicts, numbers that are left out, and tables."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from callbacks.results.compare import ALL, compare, expanded_tail, load_run, mean_interval, verdict
from callbacks.results.files import append
from callbacks.results.tables import as_latex, as_markdown, of_run, of_runs
from tests.callbacks.results.measured import KEYS, row, run


def compared(a, b):
    """The differences of two runs, and lines on what is left out."""
    return compare(load_run(str(a)), load_run(str(b)))


def noise(seed=0):
    return np.random.default_rng(seed).normal(0, 1, len(KEYS))


# ------------------------------------------------------------------------- intervals by resampling


def test_an_interval_has_the_quantiles_of_all_resamples_of_five():
    """The 5^5 resamples can be listed: drawing approaches their quantiles."""
    values = np.array([0.0, 1.0, 2.0, 4.0, 8.0])
    means = np.array(list(itertools.product(values, repeat=5))).mean(1)
    tail = expanded_tail(5, 0.8)

    interval = mean_interval(values, draws=200_000, level=0.8)

    assert interval == pytest.approx(np.quantile(means, [tail, 1 - tail]), abs=0.05)


@pytest.mark.parametrize(("n", "at_least", "at_most"), [(5, 0.90, 0.96), (20, 0.93, 0.97)])
def test_how_often_the_mean_is_in_an_interval_of_95_percent(n, at_least, at_most):
    hits = 0
    for seed in range(1000):
        values = np.random.default_rng(seed).normal(0.3, 1.0, n)
        low, high = mean_interval(values, draws=1000, seed=seed)
        hits += low <= 0.3 <= high

    # A share of 1000 scatters by 0.7 %; of five images, resampling may miss some more.
    assert at_least < hits / 1000 < at_most


@pytest.mark.parametrize(("n", "tail"), [(10, 0.00854), (40, 0.0203)])
def test_the_tail_for_few_images_is_by_students_quantile(n, tail):
    """P(normal < -sqrt(n / (n - 1)) t), with t = 2.2622 and 2.0227 of any table of Student's."""
    assert expanded_tail(n, 0.95) == pytest.approx(tail, rel=0.01)


# --------------------------------------------------------------------------------------- verdicts


def test_a_small_gain_in_pairs_outweighs_a_large_spread_of_images(tmp_path):
    """Images differ by far more than the methods; in pairs that does not matter."""
    images = 30 + 10 * noise(1)
    a = run(tmp_path / "a", images + 0.1 + 0.02 * noise(2))
    b = run(tmp_path / "b", images)
    shuffled = run(tmp_path / "c", np.roll(images, 1))

    [difference], left_out = compared(a, b)
    [of_shuffled], _ = compared(a, shuffled)

    low, high = difference.interval
    assert difference.verdict == "A is better"
    assert low < 0.1 < high  # A's mean gain
    assert high - low < 0.1  # images differ by 10
    assert difference.notes == []
    assert left_out == []
    assert of_shuffled.verdict == "no difference shown"


@pytest.mark.parametrize(
    ("interval", "higher_is_better", "words"),
    [
        ((0.1, 1.0), True, "A is better"),
        ((-1.0, -0.1), False, "A is better"),
        ((0.0, 1.0), None, "no difference shown"),
        ((-1.0, 1.0), False, "no difference shown"),
        ((0.1, 1.0), None, "A is higher"),
    ],
)
def test_what_an_interval_shows(interval, higher_is_better, words):
    assert verdict(interval, higher_is_better) == words


def test_each_image_is_averaged_over_seeds_before_runs_are_compared(tmp_path):
    of_seeds = [noise(seed) for seed in range(4)]
    rows = [row(seeds=[0, 1, 2, 3], std=0.1, n=12)]
    for seed, values in enumerate(of_seeds):
        for key, value in zip(KEYS, values, strict=True):
            rows.append(row(image=key, value=value, seed=seed))
    append(tmp_path / "a", rows)
    b = run(tmp_path / "b", np.mean(of_seeds, 0) - 0.5)

    [difference], _ = compared(tmp_path / "a", b)

    assert difference.interval == pytest.approx((0.5, 0.5))  # of all images the same gain
    assert difference.a.std == 0.1


# ------------------------------------------------------------------------ images that are left out


def one_better_but_for_image_3(value):
    """Numbers that are by 1 above `noise()` but for the fourth image."""
    values = noise() + 1.0
    values[3] = value
    return values


def assert_one_better_without_image_3(difference):
    assert difference.verdict == "A is better"
    assert difference.interval == pytest.approx((1.0, 1.0))
    assert difference.a.value - difference.b.value == pytest.approx(1.0)
    assert difference.a.n == 11
    assert difference.b.n == 11
    assert difference.notes[0].startswith("1 of 12 images are left out")
    assert "set5/3" in difference.notes[0]


@pytest.mark.parametrize("other", ["00000002", "00000002 9.00", "00000001 9.20"])
def test_images_whose_pixels_or_degradation_differ_are_left_out(tmp_path, other):
    digests = dict.fromkeys(KEYS, "00000001 9.00")
    digests["set5/0"] = "00000001"  # of an earlier version without LR
    a = run(tmp_path / "a", one_better_but_for_image_3(-100.0), digests=digests)
    digests["set5/1"] = "00000001 9.01"  # LR that another device rounded
    digests["set5/3"] = other
    b = run(tmp_path / "b", noise(), digests=digests)

    [difference], left_out = compared(a, b)

    assert_one_better_without_image_3(difference)
    assert left_out == []


@pytest.mark.parametrize("mean", [{"value": 31.0, "not_finite": 1}, {}])  # {}: of version 0.1.0
def test_images_that_are_equal_to_hr_are_left_out_of_both(tmp_path, mean):
    a = run(tmp_path / "a", one_better_but_for_image_3(math.inf), mean=mean)
    b = run(tmp_path / "b", noise())

    [difference], _ = compared(a, b)

    assert_one_better_without_image_3(difference)


def test_an_output_with_a_broken_pixel_has_no_interval(tmp_path):
    a = run(tmp_path / "a", one_better_but_for_image_3(math.nan))
    b = run(tmp_path / "b", noise())

    [difference], _ = compared(a, b)

    assert difference.interval is None
    assert difference.verdict == "no interval"
    assert difference.notes[0].startswith("1 of 12 images have no finite number: set5/3 (nan, ")


def test_only_images_in_both_runs_are_compared(tmp_path):
    a = run(tmp_path / "a", noise() + 1)
    b = run(tmp_path / "b", [*noise()[2:], 99.0], keys=[*KEYS[2:], "set5/another"])

    [difference], _ = compared(a, b)

    assert difference.notes == ["on the 10 images in both; 2 are only in A, 1 only in B"]
    assert difference.interval == pytest.approx((1, 1))  # of all images the same gain
    assert difference.a.n == 10
    assert difference.b.n == 10
    assert difference.a.value == pytest.approx((noise() + 1)[2:].mean())


# ----------------------------------------------------------------------- numbers that are left out


def test_sets_of_other_images_are_left_out(tmp_path):
    append(tmp_path / "a", [row(metric="fid", digest="00000001 9.00")])
    append(tmp_path / "b", [row(metric="fid", digest="00000002 9.00")])

    differences, [line] = compared(tmp_path / "a", tmp_path / "b")

    assert differences == []
    assert "has other pixels under the same names" in line


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"protocol": {"color": "rgb", "border": "scale"}}, "another protocol (color: y / rgb)"),
        ({"scale": 3.0}, "does not have it"),
        ({"metric": "ssim"}, "does not have it"),
        ({"dataset": "set14"}, "does not have it"),
    ],
)
def test_a_number_without_a_counterpart_in_the_other_run_is_left_out(tmp_path, change, reason):
    a = run(tmp_path / "a", noise())
    b = run(tmp_path / "b", noise(), **change)

    differences, left_out = compared(a, b)

    assert differences == []
    assert left_out[0].startswith("psnr on set5 x2 is left out: ")
    assert reason in left_out[0]


# ------------------------------------------------------------------------------------ checkpoints


def test_of_several_checkpoints_one_has_to_be_named(tmp_path):
    a = run(tmp_path / "a", noise(), checkpoint="step-1.ckpt")
    run(tmp_path / "a", noise() + 1, checkpoint="step-2.ckpt")
    b = run(tmp_path / "b", noise())

    [difference], _ = compared(f"{a}@step-1", f"{a}@step-2")

    assert difference.interval == pytest.approx((-1, -1))
    with pytest.raises(ValueError, match=r"2 checkpoints \(step-1.ckpt, step-2.ckpt\): say"):
        compared(b, a)
    with pytest.raises(ValueError, match=r"nothing of a checkpoint 'step-3'; it has step-1.ckpt"):
        load_run(f"{a}@step-3")


def test_bicubic_is_no_checkpoint_unless_it_is_asked_for(tmp_path):
    a = run(tmp_path / "a", noise(), checkpoint="bicubic")
    run(tmp_path / "a", noise() + 1, checkpoint="c/best.ckpt")

    [difference], _ = compared(a, f"{a}@bicubic")

    assert difference.a.checkpoint == "c/best.ckpt"
    assert difference.b.checkpoint == "bicubic"
    assert difference.verdict == "A is better"


# ------------------------------------------------------------------------------- Tables of results


def test_numbers_of_different_protocols_are_in_different_columns():
    rgb = {"color": "rgb", "border": 0}
    rows = [
        row(),
        row(dataset="set14", value=33.63, protocol={"border": "scale", "color": "y"}),
        row(dataset="div2k", value=36.0, protocol=rgb, n=100, not_finite=1),
        row(value=35.9, protocol=rgb),
        row(metric="ssim", value=0.96, std=0.01),
    ]

    cells, notes = of_run(rows)

    assert cells == [
        ["dataset", "scale", "psnr (1)", "psnr (2)", "ssim", "n", "checkpoint"],
        ["set5", "x2", "38.0000", "35.9000", "0.9600 ± 0.0100", "5", "a.ckpt"],
        ["set14", "x2", "33.6300", "-", "-", "5", "a.ckpt"],
        ["div2k", "x2", "-", "36.0000", "-", "99 of 100", "a.ckpt"],
    ]
    assert notes[1] == "psnr (2): color rgb, border 0"


def table_of(*runs):
    return of_runs([load_run(run) for run in runs], ALL)


def test_the_best_is_bold_and_differences_have_intervals(tmp_path):
    gains = np.array([1, 1.02] * 6)  # 1.01 on average
    worse = run(tmp_path / "a", 30.0 + np.arange(12))
    better = run(tmp_path / "b_1", 30.0 + np.arange(12) + gains)
    # The same mean: both are bold.
    alike = run(tmp_path / "c", 30.0 + np.arange(12) + gains + [0.1, -0.1] * 6)

    cells, notes = table_of(worse, better, alike)

    low, high = mean_interval(-gains)
    half = f"{(high - low) / 2:.2f}"
    assert cells[0] == ["", "psnr, set5 x2 ↑ (n = 12)"]
    assert cells[1][1] == "35.50"  # 30 and the mean of 0 to 11
    assert cells[2][1] == f"**36.51** (+1.01 ± {half})"
    assert cells[3][1].startswith("**36.51**")
    assert f"/b_1 | **36.51** (+1.01 ± {half}) |" in as_markdown(cells, notes)
    assert rf"/b\_1 & \textbf{{36.51}} ($+1.01 \pm {half}$) \\" in as_latex(cells, notes)


def test_a_column_is_of_the_images_that_all_runs_have_with_a_finite_number(tmp_path):
    """A worse run that lacks hard images, or reproduces them exactly, is not the best."""
    values = np.array([30.0, 31, 32, 33, 34, 35, 36, 20, 20, 10, 38, 39])
    exact = values - 1
    exact[7:9] = np.inf
    of_nine = {"keys": KEYS[:9], "protocol": row().protocol | {"images": 9}}

    cells, _ = table_of(
        run(tmp_path / "full", values),
        run(tmp_path / "part", values[:9] - 0.5, **of_nine),
        run(tmp_path / "exact", exact, mean={"value": 36.0, "not_finite": 2}),
    )

    # Of the 9 images of `part`, two are infinite in `exact`. The other 7 have 30 to 36: mean 33.
    assert cells[0][1] == "psnr, set5 x2 ↑ (n = 7)"
    numbers = [texts[1].partition(" (")[0] for texts in cells[1:]]
    assert numbers == ["**33.00**", "32.50", "32.00"]
