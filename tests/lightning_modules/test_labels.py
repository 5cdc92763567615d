"""What names the numbers in results: all that changes the outputs of the same weights."""

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


def from_source(method, part, digit):
    """The method, whose part comes from a file of this fingerprint."""
    getattr(method, part).source = f"a {digit * 16}"
    return method


OTHERS = {
    "setting": lambda n: lm.RoundTrip(2.0, lm.PixelSpace(), ("hr", "bicubic")[n]),
    "sampler": lambda n: lm.Diffusion(1.0, wrapped(), sampler=Sampler(3, eta=float(n))),
    "encoder": lambda n: from_source(
        lm.Direct(2.0, denoiser=base(), encoder=Words()), "encoder", "01"[n]
    ),
    "space": lambda n: from_source(invsr(), "space", "01"[n]),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_other_outputs_of_the_same_weights_have_another_label(kind):
    one = OTHERS[kind](0)
    other = OTHERS[kind](1)
    one.weights_source = other.weights_source = "released.pth"
    assert made_by(one) != made_by(other)


def liif(skip):
    return lm.Regression(2, lm.LIIF(2, 1, 8, (8,), global_skip=skip))


def self_cascade(resize, pivot_features):
    tuning = Tuning(partial(lm.Shared, resize=resize), pivot_features=pivot_features)
    return lm.SelfCascade(2.0, denoiser=base(), tuning=tuning)


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        (invsr, lambda: invsr(predictor=predictor(32)), ["predictor.head_width 16, there 32"]),
        (
            lambda: lm.ResShift(2, lm.SwinUNet(**SMALL), lm.PixelSpace()),
            lambda: lm.ResShift(2, lm.SwinUNet(**(SMALL | {"size": 64})), lm.PixelSpace()),
            ["network.size 16, there 64"],
        ),
        (
            lambda: stage_one(estimate((2, 2))),
            lambda: stage_one(estimate((4, 4)), enlarge_lr=True),
            ["enlarge_lr False, there True"],
        ),
        (
            lambda: lm.CasArbi(2.0, process=lm.ResidualShift(kappa=4)),
            lambda: lm.CasArbi(2.0, domain="image"),
            ["process.kappa 4, there 2.0", "domain residual, there image"],
        ),
        (lambda: liif(True), lambda: liif(False), ["network.global_skip True, there False"]),
        (
            lambda: self_cascade("bilinear", "cached_t0"),
            lambda: self_cascade("nearest", "per_step"),
            ["pivot_features cached_t0, there per_step", "resize bilinear, there nearest-exact"],
        ),
    ],
)
def test_settings_that_no_tensor_shows_are_known_of_weights(one, other, expected):
    assert unlike(one().trained_with, other().trained_with) == expected


def test_parts_that_the_weights_require_are_not_in_the_label(tmp_path):
    run = from_source(invsr(), "space", "0")
    path = make.save_run(run, tmp_path / "a.ckpt")
    run.load_weights(path)
    assert made_by(run) == f"{path}, timesteps 200, patch 16"
