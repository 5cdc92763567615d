"""Every callback and metric of the package, and of `--plugin`, keeps its contract."""

from __future__ import annotations

import functools

import pytest
from lightning.pytorch import Callback
from torchmetrics.image import UniversalImageQualityIndex

from callbacks import IQA, ImageMetric, Repetition, TorchMetric
from tests.contracts import discovery
from tests.contracts.arguments import build
from tests.contracts.callback_contract import CallbackContract, MetricContract

# A line for each class of ours that cannot be made without arguments: a function that makes one.
EXAMPLES = {
    IQA: lambda: IQA("musiq"),
    Repetition: lambda: Repetition(base=16),
    TorchMetric: lambda: TorchMetric(UniversalImageQualityIndex),
}

# Metrics whose hooks are those of another one: as callbacks left to `make test-nightly`.
ALIKE = {"KID", "KIDThumb", "PatchKID", "NIQE", "DISTS", "LPIPS", "SSIM", "SWD", "Flicker", "KVD"}


def pytest_generate_tests(metafunc):
    discovery.parametrize(metafunc, "callback_class", Callback, "callbacks", slow=ALIKE)
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
