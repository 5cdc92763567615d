"""Tables over runs, as papers print them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from callbacks.results.compare import ALL, load_run, mean_interval
from callbacks.results.grid import Format, columns, grid
from tests.callbacks.results.test_compare import KEYS, run


def test_the_best_is_bold_and_numbers_have_intervals(tmp_path: Path) -> None:
    worse, better = [30.0 + i for i in range(12)], [31.0 + i for i in range(12)]
    names = [run(tmp_path / "a", worse), run(tmp_path / "b_1", better)]
    table = columns([load_run(name) for name in names], ALL)
    by_name = [value for _, value in sorted(zip(KEYS, better, strict=True))]
    low, high = mean_interval(np.array(by_name))
    ((head, arrow, cells),) = table
    assert (head, arrow) == ("psnr, set5 x2", " ↑")
    assert "psnr, set5 x2 ↑ (n = 12)" in grid(["a", "b_1"], table, "markdown")
    assert cells[1] is not None
    assert cells[0] is not None
    assert (cells[1].value, cells[1].n, cells[1].best) == (36.5, 12, True)
    assert cells[1].reach == pytest.approx((high - low) / 2)
    assert not cells[0].best
    texts: dict[Format, str] = {
        "markdown": f"| b_1 | **36.50** ± {cells[1].reach:.2f} |",
        "latex": rf"b\_1 & \textbf{{36.50}} $\pm$ {cells[1].reach:.2f} \\",
        "csv": f"b_1,{chr(34)}psnr, set5 x2{chr(34)},36.5,{cells[1].reach},12",
    }
    for form, line in texts.items():
        assert line in grid(["a", "b_1"], table, form).splitlines()


def test_numbers_of_another_protocol_are_left_out(tmp_path: Path) -> None:
    names = [
        run(tmp_path / "a", [30.0] * 12, protocol={"color": "y"}),
        run(tmp_path / "b", [40.0] * 12, protocol={"color": "rgb"}),
    ]
    ((_, _, cells),) = columns([load_run(name) for name in names], ALL)
    assert cells[0] is not None
    assert cells[1:] == [None]
    assert not cells[0].best
