"""Tables over runs, as papers print them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from callbacks.results.compare import ALL, load_run, mean_interval
from callbacks.results.grid import Cell, Format, columns, grid
from tests.callbacks.results.test_compare import KEYS, run
from tests.callbacks.results.test_results import result


def test_the_best_is_bold_and_differences_have_intervals(tmp_path: Path) -> None:
    worse = [30.0 + i for i in range(12)]
    better = [value + 1 + 0.02 * (i % 2) for i, value in enumerate(worse)]
    alike = [value + 0.1 * (-1) ** i for i, value in enumerate(better)]
    names = [run(tmp_path / "a", worse), run(tmp_path / "b_1", better), run(tmp_path / "c", alike)]
    table = columns([load_run(name) for name in names], ALL)
    ((head, arrow, cells),) = table
    assert (head, arrow) == ("psnr, set5 x2", " ↑")
    assert "psnr, set5 x2 ↑ (n = 12)" in grid(["a", "b_1", "c"], table, "markdown")
    first, second, third = cells
    assert first == Cell(35.5, 12)
    assert second is not None
    assert third is not None
    assert (second.bold, third.bold) == (True, True)
    low, high = mean_interval(np.array([1.0, 1.02] * 6))
    assert second.more == pytest.approx(1.01)
    assert second.reach == pytest.approx((high - low) / 2, rel=0.1)
    numbers = f"{second.value},{second.more},{second.reach},12"
    texts: dict[Format, str] = {
        "markdown": f"| b_1 | **36.51** (+1.01 ± {second.reach:.2f}) |",
        "latex": rf"b\_1 & \textbf{{36.51}} ($+1.01 \pm {second.reach:.2f}$) \\",
        "csv": f'b_1,"psnr, set5 x2",{numbers}',
    }
    for form, line in texts.items():
        assert line in grid(["a", "b_1", "c"], table, form).splitlines()


def test_a_column_is_of_the_images_that_all_runs_have_with_a_finite_number(tmp_path: Path) -> None:
    """A worse run that lacks hard images, or reproduces them exactly, is not the best."""
    full = np.array([30.0, 31, 32, 33, 34, 35, 36, 20, 20, 10, 38, 39])
    part, exact = full[:9] - 0.5, full - 1
    exact[7:9] = np.inf
    protocol = {**result()["protocol"], "images": 9}
    names = [
        run(tmp_path / "full", full),
        run(tmp_path / "part", part, keys=KEYS[:9], protocol=protocol),
        run(tmp_path / "exact", exact, value=36.0, not_finite=2),
    ]
    ((_, _, cells),) = columns([load_run(name) for name in names], ALL)
    shown = [(cell.value, cell.n, cell.bold) for cell in cells if cell]
    assert shown == [(33.0, 7, True), (32.5, 7, False), (32.0, 7, False)]
