"""What every callback and every metric keeps, as test classes to run on yours.

A callback watches a run: it changes neither what is learnt nor what is measured. The classes of
this repository and of `pytest tests/contracts --plugin my_sr.callbacks` are found by
test_callbacks.py. A class that cannot be made without arguments is tested by a file of your own
(run it with the repository on PYTHONPATH):

    from tests.contracts.callback_contract import CallbackContract, MetricContract

    class TestGMSD(CallbackContract, MetricContract):
        @pytest.fixture
        def make(self):
            return lambda: GMSD(block=8)
"""

from __future__ import annotations

import functools
import json
import math
import pickle
import tempfile
from collections.abc import Callable
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from skimage.data import astronaut
from torch import Tensor

from callbacks.metrics.base import ImageMetric, Metric
from datamodules.base import SRDataModule
from degradations.bicubic import Bicubic, resize
from lightning_modules.methods.regression import Regression
from tests.contracts.arguments import check_arguments
from tests.contracts.degradation_contract import global_generators_untouched
from tests.datamodules.memory import Memory, random_images, trainer
from tests.make import Convolution

METRICS: dict[tuple[type, type], ImageMetric] = {}
SIDES = (208, 216)  # four blocks of NIQE


@functools.cache
def images(count: int, height: int = 32, width: int = 40) -> Memory:
    return random_images(count, height, width)


def data() -> SRDataModule:
    """Two sets to evaluate on, of images that are large enough for every metric's window."""
    sets = {"a": images(3, *SIDES), "b": images(2, SIDES[1], SIDES[1])}
    return SRDataModule(
        2,
        train=images(8),
        val=sets,
        test=sets,
        predict=images(2),
        batch_size=4,
        crop_size=16,
        workers=0,
        degradation=Bicubic(2),
    )


class Before(Callback):
    """Comes first, and keeps what a step returned."""

    def __init__(self) -> None:
        self.sr: list[Tensor] = []

    def _keep(self, trainer: Any, model: Any, outputs: Any, *_: Any) -> None:
        if "pieces" not in outputs:  # which the writer of predict alone takes
            self.sr.append(outputs["sr"].clone())

    on_validation_batch_end = on_test_batch_end = on_predict_batch_end = _keep


class After(Before):
    """Comes last."""


class Fails(Callback):
    """Raises in the validation of the second epoch."""

    def on_validation_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if trainer.current_epoch == 1:
            raise RuntimeError("stopped by the test")


def fit(root: Any, *callbacks: Callback, ckpt_path: Any = None, **settings: Any) -> Any:
    """Two epochs of two steps, each with a validation."""
    run = trainer(root, callbacks=list(callbacks), **{"max_epochs": 2} | settings)
    model = Regression(2, Convolution)
    torch.manual_seed(0)
    run.fit(model, datamodule=data(), ckpt_path=ckpt_path, weights_only=True)
    return run, model


def failed(root: Any, *callbacks: Callback) -> Regression:
    """The model of a fit that ends with an exception in its second epoch."""
    run = trainer(root, callbacks=[*callbacks, Fails()], max_epochs=3)
    model = Regression(2, Convolution)
    with pytest.raises(RuntimeError, match="stopped by the test"):
        run.fit(model, datamodule=data())
    return model


@functools.cache
def without_callback(fails: bool = False) -> Regression:
    """The model of the same fit without a callback."""
    with tempfile.TemporaryDirectory() as folder:
        return failed(folder) if fails else fit(folder)[1]


def assert_equal_weights(model: Regression, other: Regression) -> None:
    for (name, a), b in zip(model.named_parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b), f"{name} was learnt otherwise"


class CallbackContract:
    """Subclass it and override the fixture `make`: a function that makes a new one."""

    @pytest.fixture
    def make(self) -> Callable[[], Callback]:
        raise NotImplementedError("override the fixture `make`")

    def test_arguments_are_typed_and_explained(self, make):
        check_arguments(type(make()))

    def test_training_goes_on_as_without_it_and_resumes(self, make, tmp_path):
        """Its checkpoint holds plain types, and a resumed run ends as one that was not stopped."""
        plain = without_callback()
        torch.manual_seed(0)  # as `fit` does
        with global_generators_untouched():
            whole, model = fit(tmp_path / "whole", make())
        assert_equal_weights(model, plain)
        half, _ = fit(tmp_path / "half", make(), max_epochs=1, num_sanity_val_steps=0)
        half.save_checkpoint(tmp_path / "half.ckpt")
        resumed, other = fit(tmp_path / "half", make(), ckpt_path=tmp_path / "half.ckpt")
        assert_equal_weights(other, plain)
        whole.save_checkpoint(tmp_path / "whole.ckpt")
        resumed.save_checkpoint(tmp_path / "resumed.ckpt")
        expected = torch.load(tmp_path / "whole.ckpt", weights_only=True)["callbacks"]
        found = torch.load(tmp_path / "resumed.ckpt", weights_only=True)["callbacks"]
        torch.testing.assert_close(found, expected, rtol=0, atol=0)

    def test_outputs_are_left_as_they_are(self, make, tmp_path):
        callback = make()
        for verb in ("validate", "test", "predict"):
            before = Before()
            after = After()
            run = trainer(tmp_path, callbacks=[before, callback, after])
            quiet = {"return_predictions": False} if verb == "predict" else {"verbose": False}
            getattr(run, verb)(Regression(2, Convolution), datamodule=data(), **quiet)
            assert len(before.sr) == len(after.sr)
            assert before.sr or verb == "predict"
            assert all(map(torch.equal, before.sr, after.sr)), f"changed in {verb}"

    def test_after_an_exception_the_weights_are_those_that_were_trained(self, make, tmp_path):
        assert_equal_weights(failed(tmp_path, make()), without_callback(fails=True))

    def test_it_pickles(self, make):
        """Processes that are spawned get a copy."""
        pickle.loads(pickle.dumps(make()))

    def test_it_can_be_used_again(self, make, tmp_path):
        callback = make()
        for _ in range(2):
            run = trainer(tmp_path, callbacks=[callback], max_epochs=1, num_sanity_val_steps=0)
            run.fit(Regression(2, Convolution), datamodule=data())


def skip_without(metric: Metric) -> None:
    """Skip a test of a metric whose packages are absent, and of one of clips."""
    if metric.absent():
        pytest.skip(metric.absent())
    if metric.target != "hr":
        pytest.skip("it is of clips: see test_video.py")


def noisy(images: Tensor, level: float) -> Tensor:
    """Return images with the same noise each time, of this level."""
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    return (images + level * noise).clamp(0, 1)


class MetricContract:
    """For metrics, besides: subclass it too."""

    @pytest.fixture
    def make(self) -> Callable[[], ImageMetric]:
        raise NotImplementedError("override the fixture `make`")

    @pytest.fixture
    def metric(self, make, tmp_path) -> ImageMetric:
        """One for all tests of a class: none of them may leave a trace in it."""
        metric = make()
        key = type(self), type(metric)
        if key not in METRICS:
            run = trainer(tmp_path, callbacks=[metric])  # moves its networks, sets its scale
            run.test(Regression(2, Convolution), datamodule=data(), verbose=False)
            METRICS[key] = metric
        metric = METRICS[key]
        skip_without(metric)
        return metric

    @staticmethod
    def images(count: int = 3) -> Tensor:
        """(count, 3, H, W): parts of a photograph, since some metrics know what those look like."""
        photograph = torch.from_numpy(astronaut()).permute(2, 0, 1) / 255
        parts = [photograph[:, n : n + SIDES[0], n : n + SIDES[1]] for n in range(0, 296, 90)]
        return torch.stack(parts[:count])

    @staticmethod
    def batch(hr: Tensor) -> Any:
        lr = resize(hr, (SIDES[0] // 2, SIDES[1] // 2))
        keys = [f"a/{number}" for number in range(len(hr))]
        return {"key": keys, "seed": torch.arange(len(hr)), "size": tuple(hr.shape[-2:]), "lr": lr}

    def values(self, metric: ImageMetric, sr: Tensor, hr: Tensor) -> Tensor:
        return metric.compute(sr, hr, self.batch(hr))

    def noisy(self, level: float = 0.1) -> Tensor:
        return noisy(self.images(), level)

    def test_one_value_an_image(self, metric):
        values = self.values(metric, self.noisy(), self.images())
        assert values.shape == (3,)
        assert values.isfinite().all()

    def test_an_image_does_not_depend_on_its_batch(self, metric):
        hr = self.images()
        sr = self.noisy()
        whole = self.values(metric, sr, hr)
        for i in range(3):
            part = slice(i, i + 1)
            one = self.values(metric, sr[part], hr[part])
            torch.testing.assert_close(one, whole[part], rtol=1e-5, atol=1e-5)

    def test_less_noise_is_better(self, metric):
        hr = self.images()
        some = self.values(metric, self.noisy(0.05), hr)
        more = self.values(metric, self.noisy(0.3), hr)
        better = some > more if metric.higher_is_better else some < more
        assert better.all(), f"higher_is_better is {metric.higher_is_better}: {some}, {more}"

    def test_images_and_generators_are_left_alone(self, metric):
        hr = self.images()
        sr = self.noisy()
        with global_generators_untouched():
            self.values(metric, sr, hr)
        assert torch.equal(hr, self.images())
        assert torch.equal(sr, self.noisy())

    @pytest.mark.parametrize(
        ("place", "value"),
        [((0, 0), math.nan), ((0, 0), math.inf), ((100, 101), -math.inf)],
    )
    def test_a_pixel_that_is_not_finite_spoils_its_image_alone(self, metric, value, place):
        """Also in the border that is cut off: the image is broken."""
        hr = self.images()
        sr = self.noisy()
        sound = metric.measure(sr, hr, self.batch(hr))
        sr[(1, 2, *place)] = value
        found = metric.measure(sr, hr, self.batch(hr))
        assert found[1].isnan()
        others = [0, 2]
        torch.testing.assert_close(found[others], sound[others], rtol=1e-5, atol=1e-5)

    def test_the_protocol_is_beside_each_number(self, metric):
        records = metric.records
        sets = [(record["dataset"], record["n"], record["scale"]) for record in records]
        assert sets == [("a", 3, 2.0), ("b", 2, 2.0)]
        for record in records:
            assert record["metric"] == metric.name
            assert record["protocol"].get("implementation"), "who computed it?"
            assert json.loads(json.dumps(record["protocol"])) == record["protocol"]

    def test_it_is_logged_after_the_sanity_check_only(self, make, tmp_path):
        metric = make()
        seen = []

        class Look(Callback):
            def on_sanity_check_end(self, trainer: Trainer, *_: Any) -> None:
                seen.append((list(metric.records), dict(trainer.callback_metrics)))

        run, _ = fit(tmp_path, metric, Look(), num_sanity_val_steps=2)
        assert seen == [([], {})]
        skip_without(metric)
        assert {f"val/a/{metric.name}", f"val/b/{metric.name}"} <= set(run.callback_metrics)
