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

import pytest
import torch
from lightning.pytorch import Callback
from skimage.data import astronaut
from torch.testing import assert_close

from datamodules.base import SRDataModule
from degradations.bicubic import Bicubic, resize
from lightning_modules.methods.regression import Regression
from tests.contracts.arguments import check_arguments
from tests.contracts.degradation_contract import global_generators_untouched
from tests.datamodules.memory import random_images, trainer
from tests.make import Convolution, noisy

METRICS = {}
SIDES = (208, 216)  # four blocks of NIQE


# ------------------------------------------------------------------------------------------- runs


@functools.cache
def images(count, height=32, width=40):
    """So many random images, made once for all runs."""
    return random_images(count, height, width)


def data():
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


def fit(root, *callbacks, ckpt_path=None, max_epochs=2, **settings):
    """Two steps an epoch, and a validation; return the trainer."""
    run = trainer(root, callbacks=list(callbacks), max_epochs=max_epochs, **settings)
    model = Regression(2, Convolution)
    torch.manual_seed(0)  # behind the model, whose initialisation draws
    run.fit(model, datamodule=data(), ckpt_path=ckpt_path, weights_only=True)
    return run


class Fails(Callback):
    """Raises in the validation of the second epoch, and keeps the model."""

    def on_validation_batch_end(self, trainer, pl_module, *_):
        self.model = pl_module
        if trainer.current_epoch == 1:
            raise RuntimeError("stopped by the test")


def weights_after_an_exception(root, *callbacks):
    fails = Fails()
    with pytest.raises(RuntimeError, match="stopped by the test"):
        fit(root, *callbacks, fails, max_epochs=3)
    return fails.model.state_dict()


@functools.cache
def weights_without_callback(fails=False):
    with tempfile.TemporaryDirectory() as folder:
        if fails:
            return weights_after_an_exception(folder)
        return fit(folder).lightning_module.state_dict()


assert_equal = functools.partial(assert_close, rtol=0, atol=0)  # trees of tensors, bit by bit


# -------------------------------------------------------------------------------------- callbacks


class Outputs(Callback):
    """Keeps what a step returned."""

    def __init__(self):
        self.sr = []

    def _keep(self, trainer, model, outputs, *_):
        if "pieces" not in outputs:  # which the writer of predict alone takes
            self.sr.append(outputs["sr"].clone())

    on_validation_batch_end = on_test_batch_end = on_predict_batch_end = _keep


class CallbackContract:
    """Subclass it and override the fixture `make`: a function that makes a new one."""

    @pytest.fixture
    def make(self):
        raise NotImplementedError("override the fixture `make`")

    def test_arguments_are_typed_and_explained(self, make):
        """Else the command line could not parse them, or `--help` would not explain them."""
        check_arguments(type(make()))

    def test_training_resumed_or_not_gives_the_weights_of_training_without_it(self, make, tmp_path):
        """A callback watches a run. Its own state must also be the same, resumed or not."""
        checkpoint = tmp_path / "first_epoch.ckpt"
        torch.manual_seed(0)  # as `fit` does, so that only the callback's draws would be seen
        with global_generators_untouched():
            uninterrupted = fit(tmp_path / "uninterrupted", make())
        first_epoch = fit(tmp_path / "resumed", make(), max_epochs=1, num_sanity_val_steps=0)
        first_epoch.save_checkpoint(checkpoint)

        resumed = fit(tmp_path / "resumed", make(), ckpt_path=checkpoint)

        states = []
        for run in (resumed, uninterrupted):
            assert_equal(run.lightning_module.state_dict(), weights_without_callback())
            run.save_checkpoint(tmp_path / "end.ckpt")
            saved = torch.load(tmp_path / "end.ckpt", weights_only=True)  # of plain types alone
            states.append(saved["callbacks"])
        assert_equal(states[0], states[1])

    @pytest.mark.parametrize("verb", ["validate", "test", "predict"])
    def test_outputs_of_the_model_are_not_changed(self, make, tmp_path, verb):
        """Else callbacks that run after it would measure or write other images."""
        before = Outputs()
        after = Outputs()
        run = trainer(tmp_path, callbacks=[before, make(), after])
        quiet = {"return_predictions": False} if verb == "predict" else {"verbose": False}

        getattr(run, verb)(Regression(2, Convolution), datamodule=data(), **quiet)

        if verb != "predict":  # there a writer may have all outputs made in pieces
            assert before.sr
        assert_equal(after.sr, before.sr)

    def test_after_an_exception_the_model_has_the_trained_weights(self, make, tmp_path):
        """A callback that evaluates with others, such as averages, must have put them back."""
        weights = weights_after_an_exception(tmp_path, make())
        assert_equal(weights, weights_without_callback(fails=True))

    def test_it_pickles(self, make):
        """Processes that are spawned get a copy."""
        pickle.loads(pickle.dumps(make()))

    def test_a_second_run_with_the_same_object_trains_the_same_weights(self, make, tmp_path):
        """Else what it kept of the first run, such as averages, would leak into the second."""
        callback = make()
        first = fit(tmp_path, callback, max_epochs=1, num_sanity_val_steps=0)
        second = fit(tmp_path, callback, max_epochs=1, num_sanity_val_steps=0)
        assert_equal(second.lightning_module.state_dict(), first.lightning_module.state_dict())


# ---------------------------------------------------------------------------------------- metrics


def skip_without(metric):
    """Skip a test of a metric whose packages are absent, and of one of clips."""
    if metric.absent():
        pytest.skip(metric.absent())
    if metric.target != "hr":
        pytest.skip("it is of clips: see test_video.py")


@functools.cache
def photographs():
    """(3, 3, H, W): parts of a photograph, since some metrics know what those look like."""
    photograph = torch.from_numpy(astronaut()).permute(2, 0, 1) / 255
    parts = [photograph[:, n : n + SIDES[0], n : n + SIDES[1]] for n in (0, 90, 180)]
    return torch.stack(parts)


class Look(Callback):
    """Keeps what is logged when the sanity check ends."""

    def __init__(self, metric):
        self.metric = metric

    def on_sanity_check_end(self, trainer, pl_module):
        self.records = list(self.metric.records)
        self.logged = dict(trainer.callback_metrics)


class MetricContract:
    """For metrics, besides: subclass it too."""

    @pytest.fixture
    def make(self):
        raise NotImplementedError("override the fixture `make`")

    @pytest.fixture
    def metric(self, make, tmp_path):
        """One for all tests of a class: none of them may leave a trace in it."""
        metric = make()
        key = type(self), type(metric)
        if key not in METRICS:
            run = trainer(tmp_path, callbacks=[metric])  # moves its networks, sets its scale
            run.test(Regression(2, Convolution), datamodule=data(), verbose=False)
            METRICS[key] = metric
        skip_without(METRICS[key])
        return METRICS[key]

    @pytest.fixture
    def hr(self):
        return photographs().clone()

    @pytest.fixture
    def sr(self, hr):
        return noisy(hr, level=0.1)

    @staticmethod
    def batch(hr):
        return {
            "key": [f"a/{number}" for number in range(len(hr))],
            "seed": torch.arange(len(hr)),
            "size": tuple(hr.shape[-2:]),
            "lr": resize(hr, (SIDES[0] // 2, SIDES[1] // 2)),
        }

    def values(self, metric, sr, hr):
        return metric.compute(sr, hr, self.batch(hr))

    def test_an_image_has_one_value_whatever_its_batch(self, metric, sr, hr):
        together = self.values(metric, sr, hr)
        assert together.shape == (3,)
        assert together.isfinite().all()
        for i in range(3):
            alone = self.values(metric, sr[i : i + 1], hr[i : i + 1])
            assert_close(alone, together[i : i + 1], rtol=1e-5, atol=1e-5)

    def test_less_noise_is_better(self, metric, hr):
        some = self.values(metric, noisy(hr, level=0.05), hr)
        more = self.values(metric, noisy(hr, level=0.3), hr)
        better = some > more if metric.higher_is_better else some < more
        assert better.all(), f"higher_is_better is {metric.higher_is_better}: {some}, {more}"

    def test_images_and_global_generators_are_left_alone(self, metric, sr, hr):
        """Else a validation would change the training after it, or the values of other metrics."""
        before = sr.clone()
        with global_generators_untouched():
            self.values(metric, sr, hr)
        assert torch.equal(hr, photographs())
        assert torch.equal(sr, before)

    # (0, 0) lies in the border that some metrics cut off, (100, 101) does not.
    @pytest.mark.parametrize(
        ("y", "x", "value"), [(0, 0, math.nan), (0, 0, math.inf), (100, 101, -math.inf)]
    )
    def test_a_pixel_that_is_not_finite_makes_its_image_nan(self, metric, sr, hr, y, x, value):
        """A diverged model must not look well, even if a metric clamps or cuts a border off."""
        before = metric.measure(sr, hr, self.batch(hr))
        sr[1, 2, y, x] = value  # in the second of three images

        after = metric.measure(sr, hr, self.batch(hr))

        assert after[1].isnan()
        assert_close(after[[0, 2]], before[[0, 2]], rtol=1e-5, atol=1e-5)

    def test_records_name_set_count_scale_and_protocol(self, metric):
        sets = [(record["dataset"], record["n"], record["scale"]) for record in metric.records]
        assert sets == [("a", 3, 2.0), ("b", 2, 2.0)]  # as data() makes them
        for record in metric.records:
            assert record["metric"] == metric.name
            assert record["protocol"].get("implementation"), "who computed it?"
            assert json.loads(json.dumps(record["protocol"])) == record["protocol"]

    def test_it_is_logged_after_the_sanity_check_only(self, make, tmp_path):
        metric = make()
        look = Look(metric)

        run = fit(tmp_path, metric, look, num_sanity_val_steps=2)

        assert look.records == []
        assert look.logged == {}
        skip_without(metric)
        assert {f"val/a/{metric.name}", f"val/b/{metric.name}"} <= set(run.callback_metrics)
