"""README's table of IMDN is made from the JSON file alone."""

from __future__ import annotations

import json

from benchmarks.report import RESULTS, placed
from benchmarks.speed.imdn import MARKS, table
from tests.conftest import REPO


def test_the_page_of_metrics_has_the_measured_table_of_imdn():
    results = json.loads((RESULTS / "imdn.json").read_text())["results"]
    page = (REPO / "docs/metrics.md").read_text()

    assert placed(page, table(results), MARKS) == page
    for of_set in results.values():
        for numbers in of_set.values():
            assert numbers["imdn"]["psnr"] > numbers["bicubic"]["psnr"] + 2  # dB
    for numbers in results["set14"].values():  # of each scale
        assert numbers["images"] == 14
