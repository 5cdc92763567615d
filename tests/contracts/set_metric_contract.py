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
from types import SimpleNamespace

import pytest
import torch
from torch.testing import assert_close

from callbacks.metrics import fid
from tests.contracts.callback_contract import skip_without
from tests.contracts.degradation_contract import global_generators_untouched
from tests.make import noisy

FEATURES = {}


def images():
    """Four smooth images, each large enough for a crop for Inception."""
    x = torch.linspace(0, 30, fid.SIDE + 5)
    y = x.view(-1, 1)
    phase = torch.arange(4 * 3.0).view(4, 3, 1, 1)
    return 0.5 + 0.4 * torch.sin(x + 2 * y + phase)


def batch():
    return {"key": ["a/0", "a/1", "a/2", "a/3"], "seed": torch.arange(4)}


class SetMetricContract:
    """Subclass it and override the fixture `make`: a function that makes a new one."""

    @pytest.fixture
    def make(self):
        raise NotImplementedError("override the fixture `make`")

    @pytest.fixture
    def metric(self, make):
        metric = make()
        skip_without(metric)
        metric.load()
        return metric

    def features(self, metric, level):
        """Of noisy images; computed once for all tests of a metric."""
        key = type(self), type(metric), level
        if key not in FEATURES:
            FEATURES[key] = metric.features(noisy(images(), level, seed=0), batch()).double()
        return FEATURES[key].clone()

    def test_features_do_not_depend_on_the_batch(self, metric):
        together = self.features(metric, level=0.1)
        assert len(together) == 4
        close = 4e-6 * float(together.abs().max())  # float32, on several threads
        for i in (0, 3):
            one = {"key": [f"a/{i}"], "seed": torch.tensor([i])}
            alone = metric.features(noisy(images(), level=0.1, seed=0)[i : i + 1], one)
            assert_close(alone[0].double(), together[i], rtol=1e-5, atol=close)

    def test_images_and_global_generators_are_left_alone(self, metric):
        """Else a validation would change the training after it, or the values of other metrics."""
        sr = noisy(images())
        before = sr.clone()
        with global_generators_untouched():
            features = metric.features(sr, batch()).double()
            metric.distance(features, features)
        assert torch.equal(sr, before)

    def test_a_pixel_that_is_not_finite_makes_the_value_of_the_set_nan(self, metric):
        """A diverged model must not look well, even if a metric clamps its inputs."""
        sr = noisy(images())
        for image, value in enumerate((math.nan, math.inf, -math.inf)):
            sr[image, 1, 0, 0] = value

        features = metric.measure(sr, images(), batch())

        finite = features.flatten(1).isfinite().all(1)
        assert finite.tolist() == [False, False, False, True]
        # What `summarise` reads of a data set.
        dataset = SimpleNamespace(name="a", scale=2.0, keys=batch()["key"])
        values = dict(zip(dataset.keys, features.numpy(), strict=True))
        records = metric.summarise(dataset, values)
        assert records
        assert all(math.isnan(record["value"]) for record in records)

    def test_much_noise_is_worse(self, metric):
        """Than little noise, and than none; four images are too few to tell these two apart."""
        hr = self.features(metric, level=0.0)
        without = metric.distance(hr, hr)
        little = metric.distance(self.features(metric, level=0.02), hr)
        much = metric.distance(self.features(metric, level=0.3), hr)
        if metric.higher_is_better:
            assert much < min(without, little)
        else:
            assert much > max(without, little)

    def test_the_order_of_images_does_not_matter(self, metric):
        hr = self.features(metric, level=0.0)
        sr = self.features(metric, level=0.1)
        reversed_order = metric.distances(sr.flip(0), hr.flip(0))
        assert reversed_order == pytest.approx(metric.distances(sr, hr), rel=1e-6)

    def test_the_protocol_is_json_and_names_the_implementation(self, make):
        """It is stored beside the number, and `features_protocol` beside features that are kept."""
        protocol = make().protocol()
        of_features = make().features_protocol()
        assert protocol.get("implementation")
        assert json.loads(json.dumps(protocol)) == protocol
        assert json.loads(json.dumps(of_features)) == of_features
