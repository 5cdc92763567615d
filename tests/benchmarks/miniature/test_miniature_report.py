"""The page is made of the numbers alone: cells, marks, verdicts, the gate."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.miniature.__main__ import MARKS
from benchmarks.miniature.report import WEAK, gate_of, markdown
from benchmarks.miniature.rows import METHODS, kind_of
from benchmarks.miniature.spec import Gate
from benchmarks.report import placed
from tests.conftest import REPO

LOST = {"metric": "psnr", "scale": 4.0, "n": 6, "difference": -1.2, "interval": [-1.5, -1.0]}
TIME = {"seconds": 60.0, "commit": "c"}
REPORT: dict[str, Any] = {
    "command": "python -m benchmarks.miniature casarbi",
    "commit": "c",
    "machine": {"cpu": "a processor", "cores": 2},
    "seed": 0,
    "results": {
        "seeds": [0, 1, 2],
        "steps": None,
        "images": {"x4": ["a", "b"], "x8": ["a", "b"]},
        "note": "A note.",
        "trainings": {"base": {"seconds": 300.0, "commit": "c"}},
        "evaluations": {"bicubic": TIME, "cascade": TIME},
        "gate": {"open": True, "what": "base", "reached": 36.0, "bicubic": 33.5, "margin": 2.0},
        "rows": {
            "bicubic": {
                **{
                    "label": "bicubic",
                    "control": "bicubic",
                    "against_control": [],
                    "self_ssim": {},
                },
                "sets": {"all": {"x4": {"psnr": 26.111, "swd": 3.1}, "x8": {"psnr": 23.0}}},
                "options": [],
            },
            "cascade": {
                **{"label": "CasArbi", "control": "bicubic"},
                "against_control": [{**LOST, "verdict": "does not hold"}],
                "sets": {
                    "all": {"x4": {"psnr": 24.9, "psnr_std": 0.021, "swd": 1.2}},
                    "set14": {"x4": {"seconds": 1.2, "calls": 30.0}},
                    "kodak": {"x4": {"seconds": 1.4, "calls": 30.0}},
                },
                "self_ssim": {"x4_from_x8": 0.8, "x8_from_x4": 0.7},
                "options": [],
            },
        },
        "claims": [
            {
                **{"claim": "it wins", "better": "cascade", "than": "bicubic"},
                "judged": [
                    {**LOST, "verdict": "does not hold"},
                    {
                        **{"metric": "swd", "scale": 4.0, "n": 6, "difference": -1.9},
                        **{"interval": [-2.0, -1.8], "verdict": "holds"},
                    },
                ],
            }
        ],
    },
}


def lines(text: str, start: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith(start)]


def test_cells_marks_and_verdicts() -> None:
    text = markdown(REPORT, "casarbi")
    assert lines(text, "| CasArbi (bicubic)")[0] == "| CasArbi (bicubic) | 24.90 ± 0.02 ▼ | - |"
    assert lines(text, "| bicubic")[0] == "| bicubic | 26.11 | 23.00 |"
    assert "| CasArbi | 30 / 1.30 | - |" in text  # cost: the mean over the sets
    assert "| CasArbi | 0.7500 |" in text
    psnr, swd = lines(text, "| it wins (CasArbi - bicubic)")
    assert psnr.endswith("PSNR-Y | -1.20 (-1.50 to -1.00): **does not hold** | - |")
    assert swd.endswith("SWD | -1.900 (-2.000 to -1.800): **holds** | - |")
    assert "5 minutes of training (base 5) and 2 of evaluation, summed over" in text
    assert "+2.50; needed +2.0: passed." in text


def test_behind_a_closed_gate_nothing_is_compared() -> None:
    report = copy.deepcopy(REPORT)
    report["results"]["gate"] |= {"open": False, "reached": 34.0}
    text = markdown(report, "casarbi")
    assert f"+0.50; needed +2.0: not passed. {WEAK}" in text
    assert "holds" not in text
    assert text.count(WEAK) == 2


@pytest.mark.parametrize(("reached", "opens"), [(35.6, True), (35.5, True), (35.4, False)])
def test_the_gate(reached: float, opens: bool) -> None:
    def result(checkpoint: str | None, value: float, metric: str = "psnr") -> dict[str, Any]:
        return {
            **{"dataset": "set5", "scale": 2.0, "metric": metric},
            **{"checkpoint": checkpoint, "value": value},
        }

    results = [result("a.ckpt", reached), result("bicubic", 33.5), result("a.ckpt", 1.0, "ssim")]
    gate = gate_of(Gate("base", "", "set5", 2.0, 2.0), results)
    assert gate["open"] is opens
    assert gate["reached"] == reached


def test_only_what_lies_between_the_marks_is_replaced() -> None:
    page = f"# A\n\n{MARKS[0]}\nold\n{MARKS[1]}\n\nend\n"
    assert placed(page, "new\n", MARKS) == f"# A\n\n{MARKS[0]}\n\nnew\n\n{MARKS[1]}\n\nend\n"
    assert placed(placed(page, "new\n", MARKS), "new\n", MARKS) == placed(page, "new\n", MARKS)
    with pytest.raises(ValueError, match="has no <!-- miniature -->"):
        placed("# A\n", "new", MARKS)


@pytest.mark.parametrize("name", METHODS)
def test_the_page_says_what_the_numbers_say(name: str) -> None:
    """Nobody typed a result by hand, and nobody forgot to print it after measuring again."""
    path = REPO / "benchmarks" / "results" / f"{name}_miniature.json"
    if not path.is_file():
        pytest.skip("not measured yet")
    content = json.loads(path.read_text())
    if "benchmarks.miniature " not in content["command"]:
        pytest.skip("measured by other means")
    text = kind_of(METHODS[name]).markdown(content, name)
    assert text in Path(REPO, "docs", "methods", f"{name}.md").read_text()


def test_further_tables_and_rows_that_are_for_them_alone() -> None:
    report = copy.deepcopy(REPORT)
    hidden = copy.deepcopy(report["results"]["rows"]["cascade"])
    hidden |= {"label": "another", "listed": False}
    hidden["sets"]["all"]["x16"] = {"niqe": 4.0}
    report["results"]["rows"]["hidden"] = hidden
    report["results"] |= {"side": 64, "tables": {"Gaps": {"one": {"a": 1.5}, "two": {"b": 2.0}}}}
    text = markdown(report, "casarbi")
    assert "2 crops of 64 pixels at each scale" in text
    assert "**Gaps**\n\n|  | a | b |" in text
    assert lines(text, "| one")[0] == "| one | 1.5 | - |"
    assert "another" not in text
    assert "x16" not in text
    assert "NIQE**" not in text
