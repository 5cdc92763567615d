"""README's table of IMDN is made from the JSON file alone."""

from __future__ import annotations

import json

from benchmarks.report import RESULTS, placed
from benchmarks.speed.imdn import MARKS, table
from tests.conftest import REPO


def test_the_page_has_what_was_measured() -> None:
    found = json.loads((RESULTS / "imdn.json").read_text())["results"]
    page = (REPO / "docs/metrics.md").read_text()
    assert placed(page, table(found), MARKS) == page
    assert {scale["images"] for scale in found["set14"].values()} == {14}
    for name in found:
        for numbers in found[name].values():
            assert numbers["imdn"]["psnr"] > numbers["bicubic"]["psnr"] + 2
