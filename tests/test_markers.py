"""Markers that change how a test is run."""

from __future__ import annotations

import ast

import pytest

from tests.conftest import REPO


@pytest.mark.timing
def test_what_hangs_on_the_clock_is_run_again(request: pytest.FixtureRequest) -> None:
    pytest.importorskip("pytest_rerunfailures")
    again = request.node.get_closest_marker("flaky")
    assert again.kwargs == {"reruns": 2}


def test_nothing_else_is_run_again(request: pytest.FixtureRequest) -> None:
    assert request.node.get_closest_marker("flaky") is None
    assert not request.config.getoption("reruns")


def test_no_quick_case_is_slow_because_its_whole_test_is() -> None:
    for path in (REPO / "tests").rglob("test_*.py"):
        text = path.read_text()
        if "quick(" not in text and "marks=pytest.mark.slow" not in text:
            continue
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                words = [ast.unparse(decorator) for decorator in node.decorator_list]
                some = [w for w in words if "quick(" in w or "marks=pytest.mark.slow" in w]
                assert not (some and "pytest.mark.slow" in words), f"{path}: {node.name}"
