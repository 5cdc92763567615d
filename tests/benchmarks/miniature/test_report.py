"""From runs of rows to JSON, page and image."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from benchmarks.miniature import measure, report, sheet
from benchmarks.miniature.jobs import Note
from benchmarks.miniature.report import collect, markdown, summary
from benchmarks.miniature.table import Claim, Plan, Row, Table, Task
from tests.benchmarks.miniature.cars import COUNT, write_run

TABLE = Table(
    {"x2": Task("x2, from 16 px", "x2.yaml", (), "metrics.yaml", "bicubic", "bicubic")},
    (),
    (
        Row("bicubic", "bicubic", "x2"),
        Row("ours", "ours", "x2", generative=True),
        Row("hidden", "hidden", "x2", shown=False),
    ),
    (Claim("half a decibel more", "ours", "psnr", "bicubic", 0.5),),
    front=("ours",),
    note="Read this.",
)


@pytest.fixture
def plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Plan:
    plan = Plan(TABLE, tmp_path, seeds=2)
    for number, row in enumerate(TABLE.rows):
        write_run(plan.run_of(row.name), 16 - 8 * number)
    monkeypatch.setattr(Plan, "jobs", lambda self: [])
    monkeypatch.setattr(measure, "HALVES", 10)
    return plan


def test_a_report(plan: Plan) -> None:
    results = collect(plan, "the tars")
    notes = {"evaluations": {"ours": Note(seconds=600, cpu_seconds=300).cost()}}
    notes["trainings"] = {"top": Note(seconds=120, cpu_seconds=60).cost()}
    found = {
        "command": "python -m benchmarks.miniature cars",
        "commit": "0123456789",
        "machine": {"cpu": "a CPU", "cores": 2},
        "results": json.loads(json.dumps({**results, **notes}, allow_nan=False)),
    }
    text = markdown(found)
    assert "1 CPU minutes of training (the longest: top 1) and 5 of evaluation" in text
    assert f"{COUNT} test images of the tars; means over 2 sampling seeds. Read this." in text
    rows = [line for line in text.splitlines() if line.startswith("| ours |")]
    assert len(rows) == 1
    assert "| 3 |" in rows[0]
    claims = [line for line in text.splitlines() if "**" in line]
    assert len(claims) == 4
    assert all("**holds**" in line for line in claims)
    assert "than | metric" in text
    assert "Of 4 claims 4 hold, 0 do not, and 0 are not decided." in summary(found)
    assert "| bicubic +0.5 | PSNR-Y | +7.50 (+7.50 to +7.50) |" in claims[0]


def test_lines_of_the_sheet(plan: Plan) -> None:
    ((title, found),) = sheet.lines(plan, ["bicubic", "ours"])
    assert title == "x2, from 16 px"
    assert [label for label, _ in found] == ["LR", "bicubic", "ours", "HR"]
    assert [path.name for path in found[1][1]][:2] == ["0000.png", "0001.png"]


def test_the_sheet_shows_pixels_as_they_are(plan: Plan, tmp_path: Path) -> None:
    whole, front = tmp_path / "whole.webp", tmp_path / "front.webp"
    sheet.draw(plan, whole, front)
    for path, line in ((whole, 3), (front, 2)):
        with Image.open(path) as paper:
            top = sheet.HEAD + line * (sheet.SIDE + sheet.GAP)
            assert paper.height == top + sheet.SIDE + sheet.GAP  # a hidden row has no line
            shown = paper.crop((sheet.LABEL, top, sheet.LABEL + sheet.SIDE, top + sheet.SIDE))
            small = shown.resize((32, 32), Image.Resampling.NEAREST)
        with Image.open(plan.run_of("ours") / "outputs/hr/cars/0000.png") as hr:
            assert small.tobytes() == hr.tobytes()


def test_no_front_image_without_all_of_its_rows(plan: Plan, tmp_path: Path) -> None:
    sheet.draw(plan._replace(only=("bicubic",)), tmp_path / "whole.webp", tmp_path / "front.webp")
    assert [path.name for path in tmp_path.glob("*.webp")] == ["whole.webp"]


def test_many_claims_that_hold_are_one_line() -> None:
    rows = {"ours": {"label": "ours"}, "bicubic": {"label": "bicubic"}}
    one = {"text": "nearer", "row": "ours", "metric": "swd", "than": "bicubic", "margin": 0}
    claims = [
        {**one, "difference": -n, "interval": [-n, -n], "verdict": measure.HOLDS}
        for n in range(1, 6)
    ]
    results = {"tasks": {"x2": {"title": "x2, from 16 px", "rows": rows}}, "claims": claims}
    line = "| nearer | all 5 | bicubic | SWD | -5.00 to -1.00 | **holds** |"
    assert report._claims(results).splitlines()[2:] == [line]
    claims[0]["verdict"] = measure.FAILS  # which must be seen
    assert len(report._claims(results).splitlines()) == 2 + 5
