"""Tables of results, as they are printed and as papers have them."""

from __future__ import annotations

import numpy as np

from callbacks.results.compare import ALL, load_run, mean_interval
from callbacks.results.tables import as_latex, as_markdown, of_run, of_runs
from tests.callbacks.results.measured import KEYS, row, run


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


def test_the_best_is_bold_and_differences_have_intervals(tmp_path):
    worse = 30.0 + np.arange(12)
    better = worse + [1, 1.02] * 6
    alike = better + [0.1, -0.1] * 6
    runs = [
        load_run(run(tmp_path / "a", worse)),
        load_run(run(tmp_path / "b_1", better)),
        load_run(run(tmp_path / "c", alike)),
    ]

    cells, notes = of_runs(runs, ALL)

    low, high = mean_interval(np.array([-1.0, -1.02] * 6))
    half = f"{(high - low) / 2:.2f}"
    assert cells[0] == ["", "psnr, set5 x2 ↑ (n = 12)"]
    assert cells[1][1] == "35.50"
    assert cells[2][1] == f"**36.51** (+1.01 ± {half})"
    assert cells[3][1].startswith("**36.51**")
    assert f"/b_1 | **36.51** (+1.01 ± {half}) |" in as_markdown(cells, notes)
    assert rf"/b\_1 & \textbf{{36.51}} ($+1.01 \pm {half}$) \\" in as_latex(cells, notes)


def test_a_column_is_of_the_images_that_all_runs_have_with_a_finite_number(tmp_path):
    """A worse run that lacks hard images, or reproduces them exactly, is not the best."""
    full = np.array([30.0, 31, 32, 33, 34, 35, 36, 20, 20, 10, 38, 39])
    exact = full - 1
    exact[7:9] = np.inf
    protocol = row().protocol | {"images": 9}
    runs = [
        load_run(run(tmp_path / "full", full)),
        load_run(run(tmp_path / "part", full[:9] - 0.5, keys=KEYS[:9], protocol=protocol)),
        load_run(run(tmp_path / "exact", exact, mean={"value": 36.0, "not_finite": 2})),
    ]

    cells, _ = of_runs(runs, ALL)

    assert cells[0][1] == "psnr, set5 x2 ↑ (n = 7)"
    numbers = [texts[1].partition(" (")[0] for texts in cells[1:]]
    assert numbers == ["**33.00**", "32.50", "32.00"]
