"""What names the numbers in results: all that changes the outputs of the same weights."""

from __future__ import annotations

import pytest
import torch

from callbacks.results.files import made_by
from lightning_modules.backbone.space import PixelSpace
from lightning_modules.controls.simple import RoundTrip
from tests.lightning_modules.controls.test_direct import direct
from tests.lightning_modules.test_diffusion import Words, oracle
from tests.lightning_modules.test_invsr import invsr


def encoded(source):
    encoder = Words()
    encoder.source = source
    return direct(encoder=encoder)


def in_space(source):
    method = invsr()
    method.space.source = source
    return method


LABELS = {
    "of": (lambda of: RoundTrip(2.0, PixelSpace(), of), "hr", "bicubic"),
    "eta": (lambda eta: oracle(eta=eta), 0.0, 1.0),
    "encoder": (encoded, "clip 0123456789abcdef", "clip fedcba9876543210"),
    "space": (in_space, "vae 0123456789abcdef", "vae fedcba9876543210"),
}


@pytest.mark.parametrize("name", LABELS)
def test_other_outputs_of_the_same_weights_have_another_label(name):
    make, *values = LABELS[name]
    methods = [make(value) for value in values]
    for method in methods:
        method.weights_source = "released.pth"
    assert made_by(methods[0]) != made_by(methods[1])


def test_parts_that_the_weights_require_are_not_in_the_label(tmp_path):
    run, path = in_space("vae 0123456789abcdef"), tmp_path / "a.ckpt"
    stored = {"state_dict": run.state_dict()}
    run.on_save_checkpoint(stored)
    torch.save(stored, path)
    run.load_weights(path)
    assert made_by(run) == f"{path}, timesteps 200, patch 16"
