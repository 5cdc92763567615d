"""README's table of IMDN is made from the JSON file alone."""

from __future__ import annotations

import json

from benchmarks.report import RESULTS, placed
from benchmarks.speed.imdn import MARKS, table
from tests.conftest import REPO


def test_the_table() -> None:
    numbers = {"imdn": {"psnr": 38.0012, "ssim": 0.96049}, "bicubic": {"psnr": 30.4, "ssim": 0.5}}
    lines = table({"set5": {"x2": numbers, "x3": numbers}}).splitlines()
    assert lines[0] == "| PSNR-Y (SSIM-Y) | Set5 x2 | x3 |"
    assert lines[2] == "| IMDN, published | 38.00 (0.9605) | 34.36 |"
    assert lines[3] == "| IMDN, measured here | 38.00 (0.9605) | 38.00 (0.9605) |"
    assert lines[4] == "| bicubic, measured here | 30.40 (0.5000) | 30.40 (0.5000) |"


def test_the_page_has_what_was_measured() -> None:
    found = json.loads((RESULTS / "imdn.json").read_text())["results"]
    page = (REPO / "docs/metrics.md").read_text()
    assert placed(page, table(found), MARKS) == page
    assert {scale["images"] for scale in found["set14"].values()} == {14}
    for name in found:
        for numbers in found[name].values():
            assert numbers["imdn"]["psnr"] > numbers["bicubic"]["psnr"] + 2
