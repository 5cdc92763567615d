"""Markers that change how a test is run."""

from __future__ import annotations

import pytest


@pytest.mark.timing
def test_what_hangs_on_the_clock_is_run_again(request: pytest.FixtureRequest) -> None:
    pytest.importorskip("pytest_rerunfailures")
    again = request.node.get_closest_marker("flaky")
    assert again.kwargs == {"reruns": 2}


def test_nothing_else_is_run_again(request: pytest.FixtureRequest) -> None:
    assert request.node.get_closest_marker("flaky") is None
    assert not request.config.getoption("reruns")
