"""What names the numbers in results: all that changes the outputs of the same weights."""

from __future__ import annotations

from functools import partial

import pytest

from callbacks.results.files import made_by
from files.weights import unlike
from lightning_modules.backbone.bitwise import BitwiseSpace
from lightning_modules.backbone.space import PixelSpace
from lightning_modules.controls.simple import RoundTrip
from lightning_modules.methods.regression import Regression
from lightning_modules.methods.resshift import ResShift
from lightning_modules.networks.feature_upsampler import Shared
from lightning_modules.networks.liif import LIIF
from lightning_modules.networks.swin_unet import SwinUNet
from tests.lightning_modules.backbone.texts import Words
from tests.lightning_modules.controls.test_direct import direct
from tests.lightning_modules.methods.test_diffusion import oracle
from tests.lightning_modules.methods.test_invsr import invsr, predictor
from tests.lightning_modules.methods.test_nsarm import estimating
from tests.lightning_modules.methods.test_resshift import SMALL
from tests.lightning_modules.methods.test_self_cascade import cascade
from tests.lightning_modules.next_scale_parts import vae
from tests.lightning_modules.tiny import save_run


def sourced(method, part, hashed):
    getattr(method, part).source = f"a {hashed * 16}"
    return method


@pytest.mark.parametrize(
    "make",
    [
        lambda n: RoundTrip(2.0, PixelSpace(), ("hr", "bicubic")[n]),
        lambda n: oracle(eta=float(n)),
        lambda n: sourced(direct(encoder=Words()), "encoder", "01"[n]),
        lambda n: sourced(invsr(), "space", "01"[n]),
    ],
)
def test_other_outputs_of_the_same_weights_have_another_label(make):
    one, other = make(0), make(1)
    one.weights_source = other.weights_source = "released.pth"
    assert made_by(one) != made_by(other)


def test_settings_that_tensors_do_not_show_are_known_of_weights():
    wide = invsr(predictor=predictor(head_width=32))
    assert unlike(invsr().trained_with, wide.trained_with) == ["predictor.head_width 16, there 32"]
    one, other = (ResShift(2, SwinUNet(**SMALL | {"size": s}), PixelSpace()) for s in (64, 16))
    assert unlike(one.trained_with, other.trained_with) == ["network.size 64, there 16"]
    one, other = estimating(), estimating(enlarge_lr=True)
    assert unlike(one.trained_with, other.trained_with) == ["enlarge_lr False, there True"]
    one.space = BitwiseSpace(vae(), [(1, 1), (2, 2), (4, 4)], 1)
    (found,) = unlike(estimating().trained_with, one.trained_with)
    assert found.endswith("[4, 4]], there [[1, 1], [2, 2], [4, 4]]")
    one, other = (Regression(2, LIIF(2, 1, 8, (8,), global_skip=each)) for each in (True, False))
    assert unlike(one.trained_with, other.trained_with) == ["network.global_skip True, there False"]
    paper, released = (
        cascade(upsampler=partial(Shared, resize=resize), pivot_features=features)
        for resize, features in (("bilinear", "cached_t0"), ("nearest", "per_step"))
    )
    assert unlike(paper.trained_with, released.trained_with) == [
        "pivot_features cached_t0, there per_step",
        "resize bilinear, there nearest-exact",
    ]


def test_parts_that_the_weights_require_are_not_in_the_label(tmp_path):
    run = sourced(invsr(), "space", "0")
    run.load_weights(path := save_run(run, tmp_path / "a.ckpt"))
    assert made_by(run) == f"{path}, timesteps 200, patch 16"
