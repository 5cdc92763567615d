"""Runs compared: intervals, verdicts, numbers that are left out, and tables."""

from __future__ import annotations

import itertools
import math
from statistics import NormalDist

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
    """A number for each of the 12 images."""
    return np.random.default_rng(seed).normal(0, 1, len(KEYS))


# ------------------------------------------------------------------------- intervals by resampling


def test_the_interval_of_a_mean_approaches_the_quantiles_of_all_resamples():
    """Of five values there are 5^5 resamples, few enough to list."""
    values = np.array([0.0, 1.0, 2.0, 4.0, 8.0])
    means = np.array(list(itertools.product(values, repeat=5))).mean(1)
    tail = expanded_tail(n=5, level=0.8)

    interval = mean_interval(values, draws=200_000, level=0.8)

    # Within a quarter of the step between two possible means, 1/5.
    assert interval == pytest.approx(np.quantile(means, [tail, 1 - tail]), abs=0.05)


@pytest.mark.parametrize(("n", "at_least", "at_most"), [(5, 0.90, 0.96), (20, 0.93, 0.97)])
def test_95_of_100_intervals_of_95_percent_hold_the_mean(n, at_least, at_most):
    hits = 0
    for seed in range(1000):
        values = np.random.default_rng(seed).normal(loc=0.3, scale=1.0, size=n)
        low, high = mean_interval(values, draws=1000, seed=seed)
        hits += low <= 0.3 <= high

    # The share has a deviation of 0.7 %, sqrt(.95 .05 / 1000); of five values, fewer hold it.
    assert at_least < hits / 1000 < at_most


@pytest.mark.parametrize(("n", "t"), [(10, 2.2622), (40, 2.0227)])
def test_the_tail_for_few_images_is_that_of_students_quantile(n, t):
    """t is Student's quantile of 97.5 % with n - 1 degrees of freedom, as tables have it.

    Means of resamples spread too little, by sqrt((n - 1) / n): an end at t standard errors leaves
    out what is beyond sqrt(n / (n - 1)) t of a normal distribution (Hesterberg).
    """
    expected = NormalDist().cdf(-math.sqrt(n / (n - 1)) * t)
    assert expanded_tail(n, level=0.95) == pytest.approx(expected, rel=1e-3)


# --------------------------------------------------------------------------------------- verdicts


def test_a_gain_on_each_image_is_shown_although_images_differ_by_far_more(tmp_path):
    """Differences are taken image by image, so that the spread of images does not matter."""
    gain = 0.1
    images = 30 + 10 * noise(seed=1)
    a = run(tmp_path / "a", images + gain + 0.02 * noise(seed=2))
    b = run(tmp_path / "b", images)
    other_pairs = run(tmp_path / "c", np.roll(images, 1))

    [difference], left_out = compared(a, b)
    [of_other_pairs], _ = compared(a, other_pairs)

    low, high = difference.interval
    assert difference.verdict == "A is better"
    assert low < gain < high
    assert high - low < gain
    assert difference.notes == []
    assert left_out == []
    assert of_other_pairs.verdict == "no difference shown"


@pytest.mark.parametrize(
    ("interval", "higher_is_better", "words"),
    [
        ((0.1, 1.0), True, "A is better"),
        ((0.1, 1.0), False, "B is better"),
        ((-1.0, -0.1), True, "B is better"),
        ((-1.0, -0.1), False, "A is better"),
        ((0.0, 1.0), None, "no difference shown"),
        ((-1.0, 1.0), False, "no difference shown"),
        ((0.1, 1.0), None, "A is higher"),
        ((-1.0, -0.1), None, "B is higher"),
    ],
)
def test_a_difference_is_shown_by_an_interval_without_0(interval, higher_is_better, words):
    """The interval is of A - B. Without a direction, no run is better, but one may be higher."""
    assert verdict(interval, higher_is_better) == words


def test_each_image_is_averaged_over_seeds_before_runs_are_compared(tmp_path):
    values_of_seeds = [noise(seed) for seed in range(4)]
    rows = [row(seeds=[0, 1, 2, 3], std=0.1, n=len(KEYS))]
    for seed, values in enumerate(values_of_seeds):
        for key, value in zip(KEYS, values, strict=True):
            rows.append(row(image=key, value=value, seed=seed))
    append(tmp_path / "a", rows)
    b = run(tmp_path / "b", np.mean(values_of_seeds, 0) - 0.5)

    [difference], _ = compared(tmp_path / "a", b)

    assert difference.interval == pytest.approx((0.5, 0.5))  # each image's mean gains 0.5
    assert difference.a.std == 0.1  # kept, for reports


# ------------------------------------------------------------------------ images that are left out


def better_by_1_except_image_3(value):
    """Numbers 1 above `noise()`, but for the image set5/3."""
    values = noise() + 1.0
    values[3] = value
    return values


def assert_better_by_1_without_image_3(difference):
    assert difference.verdict == "A is better"
    assert difference.interval == pytest.approx((1.0, 1.0))
    assert difference.a.value - difference.b.value == pytest.approx(1.0)
    assert difference.a.n == 11
    assert difference.b.n == 11
    assert difference.notes[0].startswith("1 of 12 images are left out")
    assert "set5/3" in difference.notes[0]


# Other pixels, also by an early version, and LR of another degradation.
@pytest.mark.parametrize("digest", ["00000002 9.00", "00000002", "00000001 9.20"])
def test_images_whose_pixels_or_degradation_differ_are_left_out(tmp_path, digest):
    """A digest is a hash of HR's pixels and the detail of LR; early versions have the hash alone.

    Details that differ by up to 1 % are of one degradation, rounded otherwise by another device.
    """
    digests = dict.fromkeys(KEYS, "00000001 9.00")
    of_a = digests | {"set5/0": "00000001", "set5/1": "00000001"}
    of_b = digests | {"set5/0": "00000001", "set5/2": "00000001 9.01", "set5/3": digest}
    a = run(tmp_path / "a", better_by_1_except_image_3(-100.0), digests=of_a)
    b = run(tmp_path / "b", noise(), digests=of_b)

    [difference], left_out = compared(a, b)

    assert_better_by_1_without_image_3(difference)
    assert left_out == []


@pytest.mark.parametrize("mean", [{"value": 31.0, "not_finite": 1}, {"value": math.inf}])
def test_images_of_infinite_psnr_are_left_out_of_both_runs(tmp_path, mean):
    """A run stores the mean of its finite numbers, 31 say; version 0.1.0 stored an infinite one."""
    a = run(tmp_path / "a", better_by_1_except_image_3(math.inf), mean=mean)
    b = run(tmp_path / "b", noise())

    [difference], _ = compared(a, b)

    assert_better_by_1_without_image_3(difference)


def test_a_run_with_a_nan_has_no_interval(tmp_path):
    """Left out, an output with a broken pixel would not count against its method."""
    a = run(tmp_path / "a", better_by_1_except_image_3(math.nan))
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
    assert difference.interval == pytest.approx((1, 1))  # each image gains 1
    assert difference.a.n == 10
    assert difference.b.n == 10
    assert difference.a.value == pytest.approx((noise() + 1)[2:].mean())


# ----------------------------------------------------------------------- numbers that are left out


def test_a_metric_of_sets_is_left_out_if_the_images_differ(tmp_path):
    """FID has no numbers of images; the digest of its set begins with a hash of all pixels."""
    append(tmp_path / "a", [row(metric="fid", digest="00000001 9.00")])
    append(tmp_path / "b", [row(metric="fid", digest="00000002 9.00")])

    differences, [line] = compared(tmp_path / "a", tmp_path / "b")

    assert differences == []
    assert "has other pixels under the same names" in line


@pytest.mark.parametrize(
    ("change", "reason"),  # of `row()`: PSNR on set5 x2, on Y
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


def test_of_several_checkpoints_one_is_named_by_a_part_of_its_name(tmp_path):
    a = run(tmp_path / "a", noise(), checkpoint="step-1.ckpt")
    run(tmp_path / "a", noise() + 1, checkpoint="step-2.ckpt")
    b = run(tmp_path / "b", noise())

    [difference], _ = compared(f"{a}@step-1", f"{a}@step-2")

    assert difference.interval == pytest.approx((-1, -1))
    with pytest.raises(ValueError, match=r"2 checkpoints \(step-1.ckpt, step-2.ckpt\): say"):
        compared(b, a)
    with pytest.raises(ValueError, match=r"nothing of a checkpoint 'step-3'; it has step-1.ckpt"):
        load_run(f"{a}@step-3")


def test_bicubic_is_compared_only_if_it_is_named(tmp_path):
    """A run has the numbers of bicubic enlargement beside those of its model."""
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
        row(dataset="set5", value=38.0, protocol={"color": "y", "border": "scale"}, n=5),
        row(dataset="set14", value=33.63, protocol={"border": "scale", "color": "y"}, n=14),
        row(dataset="div2k", value=36.0, protocol=rgb, n=100, not_finite=1),
        row(dataset="set5", value=35.9, protocol=rgb),
        row(dataset="set5", metric="ssim", value=0.96, std=0.01),
    ]

    cells, notes = of_run(rows)

    assert cells == [
        ["dataset", "scale", "psnr (1)", "psnr (2)", "ssim", "n", "checkpoint"],
        ["set5", "x2", "38.0000", "35.9000", "0.9600 ± 0.0100", "5", "a.ckpt"],
        ["set14", "x2", "33.6300", "-", "-", "14", "a.ckpt"],
        ["div2k", "x2", "-", "36.0000", "-", "99 of 100", "a.ckpt"],
    ]
    assert notes[1] == "psnr (2): color rgb, border 0"


def table_of(*runs):
    return of_runs([load_run(run) for run in runs], ALL)


def test_the_best_is_bold_and_differences_have_intervals_in_a_table(tmp_path):
    values = 30.0 + np.arange(12)  # 35.5 on average
    gains = np.array([1, 1.02] * 6)  # 1.01 on average
    worse = run(tmp_path / "a", values)
    better = run(tmp_path / "b", values + gains)
    same_mean = run(tmp_path / "c", values + gains + [0.1, -0.1] * 6)

    cells, _ = table_of(worse, better, same_mean)

    low, high = mean_interval(-gains)
    half_width = f"{(high - low) / 2:.2f}"
    assert cells[0] == ["", "psnr, set5 x2 ↑ (n = 12)"]
    assert cells[1][1] == "35.50"
    assert cells[2][1] == f"**36.51** (+1.01 ± {half_width})"
    assert cells[3][1].startswith("**36.51**")


def test_bold_numbers_with_intervals_are_written_as_markdown_and_as_latex():
    cells = [["", "psnr"], ["runs/b_1", "**36.51** (+1.01 ± 0.02)"]]

    assert "| runs/b_1 | **36.51** (+1.01 ± 0.02) |" in as_markdown(cells, notes=[])
    assert r"runs/b\_1 & \textbf{36.51} ($+1.01 \pm 0.02$) \\" in as_latex(cells, notes=[])


@pytest.mark.parametrize(
    ("higher_is_better", "arrow", "texts"),
    [(False, " ↓", ["**0.2000**", "0.3000"]), (None, "", ["0.2000", "0.3000"])],
)
def test_the_lowest_is_bold_where_lower_is_better_and_none_where_that_is_unknown(
    tmp_path, higher_is_better, arrow, texts
):
    metric = {"metric": "m", "mean": {"higher_is_better": higher_is_better}}
    low = run(tmp_path / "low", np.full(12, 0.2), **metric)
    high = run(tmp_path / "high", np.full(12, 0.3), **metric)

    cells, _ = table_of(low, high)

    assert cells[0][1] == f"m, set5 x2{arrow} (n = 12)"
    assert [cells[1][1], cells[2][1].partition(" (")[0]] == texts


def test_a_column_is_of_the_images_with_a_finite_number_in_all_runs(tmp_path):
    """A worse run that lacks hard images, or has infinite PSNR there, would be the best."""
    values = np.array([30.0, 31, 32, 33, 34, 35, 36, 20, 20, 10, 38, 39])
    infinite = values - 1
    infinite[7:9] = np.inf
    of_nine = {"keys": KEYS[:9], "protocol": row().protocol | {"images": 9}}  # of 12

    cells, _ = table_of(
        run(tmp_path / "full", values),
        run(tmp_path / "nine", values[:9] - 0.5, **of_nine),
        # Its ten finite numbers have a mean of 30.8.
        run(tmp_path / "infinite", infinite, mean={"value": 30.8, "not_finite": 2}),
    )

    # The first 9 images less the two infinite ones: 30 to 36, 33 on average.
    assert cells[0][1] == "psnr, set5 x2 ↑ (n = 7)"
    numbers = [texts[1].partition(" (")[0] for texts in cells[1:]]
    assert numbers == ["**33.00**", "32.50", "32.00"]
