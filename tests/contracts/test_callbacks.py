"""Every callback and metric of the package, and of `--plugin`, keeps its contract."""

from __future__ import annotations

import functools

import pytest
from lightning.pytorch import Callback
from torchmetrics.image import UniversalImageQualityIndex

from callbacks import IQA, ImageMetric, Metric, Repetition, TorchMetric
from tests.contracts import discovery
from tests.contracts.arguments import build
from tests.contracts.callback_contract import CallbackContract, MetricContract

# A line for each class of ours that cannot be made without arguments: a function that makes one.
EXAMPLES: dict[type, object] = {
    IQA: lambda: IQA("musiq"),
    Repetition: lambda: Repetition(16),
    TorchMetric: lambda: TorchMetric(UniversalImageQualityIndex),
}


# What metrics override to measure otherwise; it runs within the hooks of their bases.
MEASURING = {"absent", "compute", "distance", "distances", "features", "load"}
MEASURING |= {"features_protocol", "protocol"}


@functools.cache
def first_of_each_base():
    metrics = discovery.concrete_subclasses(Metric, "callbacks")
    return {*{cls.__base__: cls for cls in reversed(metrics)}.values()}


def runs_as_its_base(cls):
    """Whether a metric is no other callback than its base, for which another metric stands."""
    if not issubclass(cls, Metric) or cls in first_of_each_base():
        return False
    base = cls.__base__
    own = {name for name, value in vars(cls).items() if callable(value)} - MEASURING
    overridden = {name for name in own if hasattr(base, name) and not name.startswith("__")}
    return overridden <= base.__abstractmethods__


def pytest_generate_tests(metafunc):
    discovery.parametrize(metafunc, "callback_class", Callback, "callbacks", slow=runs_as_its_base)
    discovery.parametrize(metafunc, "metric_class", ImageMetric, "callbacks")


def maker(cls):
    return functools.partial(build, cls, EXAMPLES, f"EXAMPLES in {__name__}")


class TestCallbacks(CallbackContract):
    @pytest.fixture
    def make(self, callback_class):
        return maker(callback_class)


class TestMetrics(MetricContract):
    @pytest.fixture
    def make(self, metric_class):
        return maker(metric_class)
