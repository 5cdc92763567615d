"""NSARM memorises four images: tokenizer, both stages, then sampling, all as they are."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch

from degradations.bicubic import resize
from lightning_modules.backbone.bitwise import BitwiseSpace
from lightning_modules.first_stage.tokenizer import Tokenizer, TokenizerLosses
from lightning_modules.methods.infinity import Bitwise
from lightning_modules.methods.nsarm import NSARM, NSARMStageOne, StageTwo
from lightning_modules.networks.autoencoders import BitwiseVAE
from lightning_modules.networks.infinity import InfinityTransformer
from lightning_modules.networks.transformation import LatentEstimate
from lightning_modules.noise import Noise
from tests.contracts import memorising
from tests.contracts.memorising import batch_of, psnr

SCALE, BITS = 4.0, 16
GRIDS = [(1, 1), (2, 2), (4, 4), (8, 8)]

learn = functools.partial(memorising.learn, batch_size=8)


def adam(rate: float) -> Any:
    return functools.partial(torch.optim.Adam, lr=rate)


def vae() -> BitwiseVAE:
    return BitwiseVAE(BITS, (16, 32, 64), 1, groups=0)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> Tokenizer:
    torch.manual_seed(0)
    weights = {"pixel_weight": 20.0, "entropy_weight": 0.1, "commitment_weight": 0.1}
    losses = TokenizerLosses(pixel_distance="l2", **weights)
    drops = {"drop_scales": 0.0, "partial_share": 0.3, "partial_least": 2}
    model = Tokenizer(1.0, vae(), GRIDS, losses, **drops, clip=1.0, optimizer=adam(2e-3))
    learn(model, 350, tmp_path_factory.mktemp("tokenizer"))
    return model


@pytest.fixture
def space(tokenizer) -> BitwiseSpace:
    found = BitwiseSpace(vae(), GRIDS, 1)
    found.vae.load_state_dict(tokenizer.vae.state_dict())
    found.source = "the tokenizer above"
    return found


@pytest.fixture(scope="module")
def ceiling(tokenizer) -> float:
    """PSNR of the tokenizer's own decoding, dB."""
    batch = batch_of(1)
    return psnr(tokenizer.test_step(batch, 0)["sr"], batch["hr"])


def mapper() -> LatentEstimate:
    return LatentEstimate(BITS, (8, 8), GRIDS[:2], (8, 8), width=32, blocks=1)


def transformer() -> InfinityTransformer:
    return InfinityTransformer(BITS, 2, 64, 2, 128, 1, drop_path=0.0)


@pytest.mark.slow
def test_tokenizer(ceiling):
    batch = batch_of(SCALE)
    bicubic = psnr(resize(batch["lr"], batch["size"]), batch["hr"])
    assert ceiling > bicubic + 6, (ceiling, bicubic)


@pytest.mark.slow
def test_both_stages(space, ceiling, tmp_path):
    torch.manual_seed(0)
    settings = {"enlarge_lr": True, "color_fix": "none"}
    first = NSARMStageOne(SCALE, space, mapper(), **settings, optimizer=adam(2e-3))
    learn(first, 150, tmp_path / "1")
    batch = batch_of(SCALE)
    codes = first.codes(batch, batch["lr"], Noise(batch["seed"]))
    own = space.coded(space.encode(batch["hr"]))
    right = [(code == o.code).float().mean().item() for code, o in zip(codes, own, strict=True)]
    assert min(right[:2]) > 0.95, right
    second = NSARM(
        *(SCALE, space, mapper(), transformer()),
        **settings,
        stage_two=StageTwo(mapper_lr=2e-5),
        bits=Bitwise(0.5),
        optimizer=adam(2e-3),
    )
    second.mapper.load_state_dict(first.mapper.state_dict())
    learn(second, 300, tmp_path / "2")
    found = psnr(second.test_step(batch, 0)["sr"], batch["hr"])
    assert found > ceiling - 0.1, (found, ceiling)
