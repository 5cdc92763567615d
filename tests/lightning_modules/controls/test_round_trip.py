"""Round trips through an autoencoder: of what they say, at any size."""

from __future__ import annotations

import torch

from degradations.bicubic import resize
from lightning_modules.backbone.space import PixelSpace, Taef2Space
from lightning_modules.controls.simple import RoundTrip
from lightning_modules.noise import Noise
from tests.lightning_modules.tiny import random_batch


def batch():
    return random_batch(1, (16, 20), lr=(3, 8, 10), hr=(3, 16, 20))


def test_of_what_goes_through_it():
    given = batch()
    images = {"hr": given["hr"], "bicubic": resize(given["lr"], (16, 20))}
    for of, expected in images.items():
        found = RoundTrip(2.0, PixelSpace(), of).restore(given, Noise(given["seed"]))
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_a_size_that_is_no_multiple_is_padded_and_cut():
    given, space = batch(), Taef2Space()
    wide = torch.cat([given["hr"], given["hr"][..., -1:].expand(-1, -1, -1, 4)], -1)
    found = RoundTrip(2.0, space, "hr").restore(given, Noise(given["seed"]))
    torch.testing.assert_close(found, space.decode(space.encode(wide))[..., :20])
