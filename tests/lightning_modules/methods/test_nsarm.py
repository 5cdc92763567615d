"""NSARM: both stages, their choices, and the weights from which they start."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch.nn import functional
from torch.testing import assert_close

from degradations.bicubic import resize
from lightning_modules import NSARM, Infinity, LatentEstimate, NSARMStageOne, Transformation
from lightning_modules.methods.nsarm import StageTwo
from lightning_modules.networks.bsq import quantized, scales_of
from lightning_modules.networks.infinity import Text
from lightning_modules.networks.transformation import Branch
from tests import make
from tests.lightning_modules.networks.test_next_scale import released_mapper
from tests.lightning_modules.next_scale_parts import BITS, GRIDS, mapper, space, transformer
from tests.reference.infinity_official import random_weights


def stage_one(network=None, scale=2, **settings):
    return make.quiet(NSARMStageOne(scale, space(), network or mapper(), **settings))


def stage_two(stage=None, network=None, **settings):
    stage = stage or StageTwo()
    return make.quiet(NSARM(2, space(), network or mapper(), transformer(), stage, **settings))


def estimate(size=(2, 2)):
    """A mapper of ours, which corrects its own codes."""
    torch.manual_seed(0)
    return LatentEstimate(BITS, size, GRIDS[:2], (4, 4), width=8, blocks=1)


def enlarged(x):
    """To the size of the last scale."""
    return functional.interpolate(x, (4, 4), mode="bilinear")


def rows(x):
    """The tokens (B, h w, C) of a map (B, C, h, w)."""
    return x.flatten(2).mT


# ------------------------------------------------------------------------------------- stage one


def test_stage_one_learns_the_residuals_before_they_are_quantised():
    model = stage_one()
    batch = make.pairs((16, 16), 2)

    loss = model.training_step(batch, 0)

    f = model.space.encode(batch["hr"])
    first = functional.interpolate(f, (1, 1), mode="area")
    second = functional.interpolate(f - enlarged(quantized(first)), (2, 2), mode="area")
    outputs = model.mapper(model.space.encode(batch["lr"]))
    of_first = (outputs[0] - first).square()
    of_second = (outputs[1] - second).square()
    assert_close(loss, torch.cat([of_first.flatten(), of_second.flatten()]).mean())
    assert model.logged["train/mse_scale_2"] == pytest.approx(of_second.mean().item())


def test_stage_one_restores_the_first_scales():
    model = stage_one(color_fix="none").eval()
    batch = make.pairs((16, 16), 2)

    sr = model.enlarge(batch)["sr"]

    first, second = model.mapper(model.space.encode(batch["lr"]))
    total = enlarged(quantized(first)) + enlarged(quantized(second))
    assert_close(sr, model.space.vae.decode(total).clamp(0, 1))


# ------------------------------------------------------------------------------------- stage two


def test_stage_two_learns_what_the_first_scales_left_out():
    model = stage_two()
    batch = make.pairs((16, 16), 2)

    loss = model.training_step(batch, 0)

    f = model.space.encode(batch["hr"])
    codes = [quantized(output) for output in model.mapper(model.space.encode(batch["lr"]))]
    total = enlarged(codes[0]) + enlarged(codes[1])
    third, fourth = scales_of(f - total, GRIDS[2:])
    bits = torch.cat([rows(third.bits), rows(fourth.bits)], 1)
    said = [enlarged(codes[0]), total, total + third.total]  # before scales 2, 3 and 4
    inputs = []
    for before, grid in zip(said, GRIDS[1:], strict=True):
        inputs.append(rows(functional.interpolate(before, grid, mode="bilinear")))
    network = model.transformer
    no_text = Text(network.no_text[:1].expand(2, 1, -1), torch.ones(2))
    odds = network(torch.cat(inputs, 1), model.scales, network.encode_text(no_text))
    odds = odds[:, 5:]  # behind 1 + 4 tokens of the first scales
    losses = functional.cross_entropy(odds.movedim(-1, 1), bits.long(), reduction="none").mean(-1)
    weighed = losses[:, :9].sum(1) / 3 + losses[:, 9:].sum(1) / 4  # by the scales' sides
    assert_close(loss, weighed.mean() / 7)  # the weights' sum, 9 / 3 + 16 / 4
    assert model.logged.keys() >= {"train/loss_scale_3", "train/loss_scale_4"}
    assert "train/loss_scale_2" not in model.logged


def test_a_mapper_that_is_not_trained_has_no_dropout_and_is_in_no_checkpoint():
    """Without `train()`, which Lightning does not call either."""
    branches = [Branch(16, 1, 2)] * 2
    dropping = Transformation(BITS, (2, 2), GRIDS[:2], branches, dropout=0.9)
    model = stage_two(StageTwo(train_mapper=False), dropping)
    batch = make.pairs((16, 16), 2)

    loss = model.training_step(batch, 0)

    assert torch.equal(loss, model.training_step(batch, 0))
    assert not any(parameter.requires_grad for parameter in model.mapper.parameters())
    assert not any(name.startswith("mapper") for name in model.checkpoint_keys())


# -------------------------------------------------------------- choices that are not the paper's


def test_a_mapper_that_corrects_its_own_codes_has_targets_of_its_own():
    model = stage_one(estimate())
    batch = make.pairs((16, 16), 2)

    loss = model.training_step(batch, 0)

    error = model.mapper.estimate(model.space.encode(batch["lr"])) - model.space.encode(batch["hr"])
    first = functional.interpolate(error, (1, 1), mode="area")
    second = functional.interpolate(error, (2, 2), mode="area")
    assert_close(loss, torch.cat([first.flatten(), second.flatten()]).square().mean())


def test_lr_is_enlarged_before_it_is_encoded():
    model = stage_one(estimate((4, 4)), enlarge_lr=True)
    batch = make.pairs((16, 16), 2)

    _, y = model.latents(batch)

    large = functional.interpolate(batch["lr"], (32, 32), mode="bicubic")
    assert_close(y, model.space.encode(large))
    batch |= {"lr_latent": model.space.encode(batch["lr"])}  # as written without enlarge_lr
    with pytest.raises(ValueError, match=r"LR are 2x2, and .* reads 4x4: set .*enlarge_lr"):
        model.latents(batch)


def test_small_images_are_cut_back_exactly_at_a_fractional_scale():
    """Half of the 5 rows of padding would be no whole number of output pixels."""
    model = stage_one(estimate((4, 4)), scale=1.6, enlarge_lr=True, color_fix="none")
    model.codes = lambda batch, lr, noise: [resize(lr, (32, 32))]
    model.space.images = lambda total: total
    batch = make.batch(2, (24, 32), lr=(3, 15, 20))

    sr = model.enlarge(batch)["sr"]

    expected = resize(batch["lr"], (24, 32))
    assert_close(sr[..., :-6, :], expected[..., :-6, :])  # the last rows see the mirrored ones


def test_the_mapper_may_have_a_rate_of_its_own():
    adam = partial(torch.optim.AdamW, lr=1e-3)
    model = stage_two(StageTwo(mapper_lr=1e-7), optimizer=adam)

    rates = {}
    for group in model.configure_optimizers().param_groups:
        rates |= dict.fromkeys(group["params"], group["lr"])

    assert all(rates[parameter] == 1e-7 for parameter in model.mapper.parameters())
    assert all(rates[parameter] == 1e-3 for parameter in model.transformer.parameters())


# --------------------------------------------------------------------------------------- weights


@pytest.fixture
def released(tmp_path):
    """A file of the release, which holds the transformer and the mapper."""
    tensors = random_weights(64, 2, 1, BITS, 128, 8) | released_mapper(mapper())
    torch.save(tensors, tmp_path / "NSARM.pth")
    return tmp_path / "NSARM.pth"


def test_the_released_file_has_all_of_both_stages(released):
    official = torch.load(released)
    model = stage_two()

    tensors = model.import_official(official)

    assert tensors.keys() == model.state_dict().keys()
    assert torch.equal(tensors["transformer.head.weight"], official["head.weight"])
    bias = mapper().state_dict()["branches.1.out.3.bias"]
    assert torch.equal(tensors["mapper.branches.1.out.3.bias"], bias)
    assert stage_one().import_official(official).keys() == stage_one().state_dict().keys()
    # Its transformer continues the scales of its mapper, which Infinity lacks.
    with pytest.raises(ValueError, match=r"NSARM: set model\.class_path"):
        Infinity(1, space(), transformer()).load_weights(released)
