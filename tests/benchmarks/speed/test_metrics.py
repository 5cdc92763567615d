"""The part of validation in a training run, as benchmarks/speed/metrics.py measures it."""

from __future__ import annotations

import pytest

from benchmarks.speed.metrics import share


@pytest.mark.slow
def test_validations_are_timed_within_the_run() -> None:
    found = share(2)
    assert (found["steps"], found["validations"]) == (2, 1)
    assert 0 < found["seconds_a_validation"] < found["seconds"]
