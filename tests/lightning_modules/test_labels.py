"""Labels of results: all that changes the outputs of the same weights."""

from __future__ import annotations

from functools import partial

import pytest

import lightning_modules as lm
from callbacks.results.files import made_by
from files.weights import unlike
from lightning_modules.methods.self_cascade import Tuning
from lightning_modules.sampling.solvers import Sampler
from tests import make
from tests.lightning_modules.backbone.texts import Words
from tests.lightning_modules.backbone.unets import base, wrapped
from tests.lightning_modules.methods.test_invsr import invsr, predictor
from tests.lightning_modules.methods.test_nsarm import estimate, stage_one
from tests.lightning_modules.methods.test_resshift import SMALL


def label(method):
    method.weights_source = "released.pth"
    return made_by(method)


def test_settings_and_samplers_are_in_the_label():
    """Results of one label are taken for those of the same outputs."""
    round_trip = lm.RoundTrip(2.0, lm.PixelSpace(), "bicubic")
    diffusion = lm.Diffusion(1.0, wrapped(), sampler=Sampler(steps=3, eta=1.0))
    assert label(round_trip) == "released.pth, of bicubic"
    assert label(diffusion) == "released.pth, steps 3, eta 1.0"


@pytest.mark.parametrize(
    ("make_method", "part"),
    [(lambda: lm.Direct(2.0, denoiser=base(), encoder=Words()), "encoder"), (invsr, "space")],
    ids=["text encoder", "autoencoder"],
)
def test_the_hash_of_a_frozen_parts_file_is_in_the_label(make_method, part):
    """With another encoder or autoencoder, the method's own weights make other images."""
    method = make_method()
    getattr(method, part).source = "a 0123456789abcdef"
    assert f", {part} 0123456789abcdef, " in label(method)


def resshift(side):
    return lm.ResShift(2, lm.SwinUNet(**SMALL | {"size": side}), lm.PixelSpace())


def liif(skip):
    return lm.Regression(2, lm.LIIF(2, blocks=1, channels=8, hidden=(8,), global_skip=skip))


def self_cascade(resize, pivot_features):
    tuning = Tuning(partial(lm.Shared, resize=resize), pivot_features=pivot_features)
    return lm.SelfCascade(2.0, denoiser=base(), tuning=tuning)


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        (
            lambda: invsr(predictor=predictor(head_width=16)),
            lambda: invsr(predictor=predictor(head_width=32)),
            ["predictor.head_width 16, there 32"],
        ),
        (lambda: resshift(16), lambda: resshift(64), ["network.size 16, there 64"]),
        (
            lambda: stage_one(estimate((2, 2))),
            lambda: stage_one(estimate((4, 4)), enlarge_lr=True),
            ["enlarge_lr False, there True"],
        ),
        (
            lambda: lm.CasArbi(2.0, process=lm.ResidualShift(kappa=4), domain="residual"),
            lambda: lm.CasArbi(2.0, process=lm.ResidualShift(kappa=2), domain="image"),
            ["process.kappa 4, there 2", "domain residual, there image"],
        ),
        (lambda: liif(True), lambda: liif(False), ["network.global_skip True, there False"]),
        (
            lambda: self_cascade("bilinear", "cached_t0"),
            lambda: self_cascade("nearest", "per_step"),  # torch's exact one
            ["pivot_features cached_t0, there per_step", "resize bilinear, there nearest-exact"],
        ),
    ],
    ids=["InvSR", "ResShift", "NSARM", "CasArbi", "LIIF", "Self-Cascade"],
)
def test_weights_are_kept_with_the_settings_that_no_tensors_shape_shows(one, other, expected):
    """Weights of another one would be loaded without a word, and make other images."""
    assert unlike(one().trained_with, other().trained_with) == expected


def test_the_hash_of_a_frozen_part_is_not_in_the_label_of_a_run_that_was_trained_with_it(tmp_path):
    """The run's weights load with this part alone, so naming the run is enough."""
    run = invsr(patch=16)
    run.space.source = "a 0000000000000000"
    path = make.save_run(run, tmp_path / "a.ckpt")
    run.load_weights(path)
    assert made_by(run) == f"{path}, timesteps 200, patch 16"  # InvSR's default of one step
