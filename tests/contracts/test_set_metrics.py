"""Every metric of sets of the package, and of `--plugin`, keeps its contract."""

from __future__ import annotations

import functools

import pytest

from callbacks import Metric, Repetition, SetMetric
from tests.callbacks.random_inception import inception, inception_file, small_inception
from tests.contracts import discovery
from tests.contracts.arguments import build
from tests.contracts.set_metric_contract import SetMetricContract

__all__ = ["inception", "inception_file", "small_inception"]

# A line for each class of ours that cannot be made without arguments: a function that makes one.
EXAMPLES: dict[type, object] = {
    Repetition: lambda: Repetition(base=40),  # at which the contract's images do not repeat
}


def pytest_generate_tests(metafunc):
    discovery.parametrize(metafunc, "set_metric_class", SetMetric, "callbacks")


@pytest.mark.usefixtures("small_inception")
class TestSetMetrics(SetMetricContract):
    @pytest.fixture
    def make(self, set_metric_class):
        return functools.partial(build, set_metric_class, EXAMPLES, f"EXAMPLES in {__name__}")


def test_names_of_all_metrics_differ():
    """Two in one run would log under one name."""
    names = [cls.name for cls in discovery.concrete_subclasses(Metric, "callbacks")]
    assert len(set(names)) == len(names)
