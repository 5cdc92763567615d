"""What every metric of whole sets keeps, as a test class to run on yours.

The classes of this repository and of `pytest tests/contracts --plugin my_sr.callbacks` are found by
test_set_metrics.py. A class that cannot be made without arguments is tested by a file of your own:

    from tests.contracts.set_metric_contract import SetMetricContract

    class TestPrecision(SetMetricContract):
        @pytest.fixture
        def make(self):
            return lambda: Precision(neighbours=3)
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from callbacks.metrics import fid
from callbacks.metrics.sets import SetMetric
from tests.contracts.callback_contract import noisy, skip_without
from tests.contracts.degradation_contract import global_generators_untouched

FEATURES: dict[tuple[type, type, float], Tensor] = {}


class SetMetricContract:
    """Subclass it and override the fixture `make`: a function that makes a new one."""

    @pytest.fixture
    def make(self) -> Callable[[], SetMetric]:
        raise NotImplementedError("override the fixture `make`")

    @pytest.fixture
    def metric(self, make) -> SetMetric:
        metric = make()
        skip_without(metric)
        metric.load()
        return metric

    @staticmethod
    def images(count: int = 4) -> Tensor:
        x = torch.linspace(0, 30, fid.SIDE + 5)  # a crop of Inception's fits
        y = x.view(-1, 1)
        phase = torch.arange(count * 3.0).view(count, 3, 1, 1)
        return 0.5 + 0.4 * torch.sin(x + 2 * y + phase)

    @staticmethod
    def batch(count: int = 4) -> Any:
        return {"key": [f"a/{i}" for i in range(count)], "seed": torch.arange(count)}

    def noisy(self, level: float = 0.1) -> Tensor:
        return noisy(self.images(), level)

    def features(self, metric, level: float) -> Tensor:
        """Of noisy images; computed once for all tests of a metric."""
        key = type(self), type(metric), level
        if key not in FEATURES:
            FEATURES[key] = metric.features(self.noisy(level), self.batch()).double()
        return FEATURES[key].clone()

    def test_features_do_not_depend_on_the_batch(self, metric):
        images = self.noisy()
        batch = self.batch()
        whole = self.features(metric, 0.1)
        assert len(whole) == 4
        for i in (0, 3):
            one = {"key": batch["key"][i : i + 1], "seed": batch["seed"][i : i + 1]}
            alone = metric.features(images[i : i + 1].clone(), one)
            close = 4e-6 * float(whole.abs().max())  # float32, on several threads
            torch.testing.assert_close(alone[0].double(), whole[i], rtol=1e-5, atol=close)

    def test_images_and_generators_are_left_alone(self, metric):
        images = self.noisy()
        before = images.clone()
        with global_generators_untouched():
            features = metric.features(images, self.batch()).double()
            metric.distance(features, features)
        assert torch.equal(images, before)

    def test_a_pixel_that_is_not_finite_spoils_the_number(self, metric):
        sr = self.noisy()
        hr = self.images()
        for image, value in enumerate((math.nan, math.inf, -math.inf)):
            sr[image, 1, 0, 0] = value
        found = metric.measure(sr, hr, self.batch())
        sound = found.flatten(1).isfinite().all(1)
        assert sound.tolist() == [False, False, False, True]
        dataset = SimpleNamespace(name="a", scale=2.0, keys=self.batch()["key"])
        values = dict(zip(dataset.keys, found.numpy(), strict=True))
        numbers = [record["value"] for record in metric.summarise(dataset, values)]
        assert numbers
        assert all(map(math.isnan, numbers))

    def test_more_noise_is_farther(self, metric):
        sign = -1 if metric.higher_is_better else 1
        hr = self.features(metric, 0.0)
        none = sign * metric.distance(hr, hr)
        some = sign * metric.distance(self.features(metric, 0.02), hr)
        more = sign * metric.distance(self.features(metric, 0.3), hr)
        assert max(none, some) < more

    def test_the_order_of_images_does_not_matter(self, metric):
        hr = self.features(metric, 0.0)
        sr = self.features(metric, 0.1)
        for name, value in metric.distances(sr, hr).items():
            turned = metric.distances(sr.flip(0), hr.flip(0))[name]
            assert turned == pytest.approx(value, rel=1e-6)

    def test_the_protocol_is_plain_and_says_who_computed(self, make):
        protocol = make().protocol()
        assert protocol.get("implementation")
        assert json.loads(json.dumps(protocol)) == protocol
        wanted = make().features_protocol()
        assert json.loads(json.dumps(wanted)) == wanted
