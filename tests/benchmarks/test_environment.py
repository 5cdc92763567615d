"""What `make test-minimum`, `test-python`, `test-iqa`, `test-slow` and `coverage` write."""

from __future__ import annotations

from pathlib import Path

from benchmarks.coverage import summary
from benchmarks.environment import newer_than_bounds, outcome, requirements, versions

REPORT = """<?xml version="1.0" encoding="utf-8"?>
<testsuites><testsuite name="pytest" errors="1" failures="1" skipped="1" tests="4" time="6.6">
  <testcase classname="tests.test_a" name="test_fine" time="1"/>
  <testcase classname="tests.test_b" name="test_wrong[1]"><failure message="no"/></testcase>
  <testcase classname="tests.test_a" name="test_broken" time="1"><error message="no"/></testcase>
  <testcase classname="tests.test_a" name="test_later" time="1"><skipped message="no"/></testcase>
</testsuite></testsuites>
"""


def file(statements: int, covered: int) -> dict[str, dict[str, float]]:
    share = 100.0 * covered / statements if statements else 100.0
    counts = {"num_statements": statements, "covered_lines": covered, "percent_covered": share}
    return {"summary": counts}


def test_tests_are_counted_and_failures_named(tmp_path: Path) -> None:
    report = tmp_path / "tests.xml"
    report.write_text(REPORT)
    failed = ["tests.test_a::test_broken", "tests.test_b::test_wrong[1]"]
    assert outcome(report) == {"tests": 4, "skipped": 1, "failed": failed, "seconds": 7}


def test_versions_are_of_all_that_is_needed() -> None:
    found = versions()
    assert {"torch", "torchvision", "fsspec", "jsonargparse", "lmdb", "spandrel"} <= found.keys()
    assert all(found.values())


def test_only_the_oldest_versions_are_the_minimum() -> None:
    oldest = {}
    for asked in requirements():
        bounds = {bound.operator: bound.version for bound in asked.specifier}
        oldest[asked.name] = bounds.get(">=", bounds.get("==", ""))
    assert newer_than_bounds(oldest | {"torch": f"{oldest['torch']}.0+cu130"}) == []
    newer = oldest | {"numpy": "2.0.1", "albumentations": "2.0.9"}
    assert newer_than_bounds(newer) == ["albumentations 2.0.9", "numpy 2.0.1"]


def test_coverage_is_summed_by_folder() -> None:
    files = {"a/x.py": file(100, 95), "a/y.py": file(100, 50), "b/__init__.py": file(0, 0)}
    files["b/z.py"] = file(200, 200)
    assert summary({"files": files}) == {
        "lines, and percent that ran": {"all": [400, 86.2], "a": [200, 72.5], "b": [200, 100.0]},
        "files below 90 percent": {"a/y.py": 50.0},
    }
