"""The table of IMDN in docs/metrics.md is made from the JSON file alone."""

from __future__ import annotations

import json

from benchmarks.report import RESULTS, placed
from benchmarks.speed.imdn import MARKS, table
from tests.conftest import REPO

MEASURED = json.loads((RESULTS / "imdn.json").read_text())["results"]


def test_the_page_of_metrics_has_the_table_that_the_results_of_imdn_give():
    page = (REPO / "docs/metrics.md").read_text()

    assert placed(page, table(MEASURED), MARKS) == page


def test_measured_imdn_is_more_than_2_db_better_than_bicubic():
    """Published, its smallest lead is that on Set14 at x4: 28.58 dB, and bicubic has 26.1."""
    for scales in MEASURED.values():
        for numbers in scales.values():
            assert numbers["imdn"]["psnr"] > numbers["bicubic"]["psnr"] + 2  # dB


def test_imdn_was_measured_on_all_14_images_of_set14():
    for numbers in MEASURED["set14"].values():
        assert numbers["images"] == 14
