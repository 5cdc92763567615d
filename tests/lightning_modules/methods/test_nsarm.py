"""NSARM: both stages, their choices, and the weights from which they start."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch.nn import functional
from torch.testing import assert_close

from degradations.bicubic import resize
from lightning_modules import NSARM, Infinity, LatentEstimate, NSARMStageOne, Transformation
from lightning_modules.methods.infinity import Bitwise
from lightning_modules.methods.nsarm import StageTwo
from lightning_modules.networks.bsq import quantized, scales_of
from lightning_modules.networks.infinity import Text
from lightning_modules.networks.transformation import Branch
from lightning_modules.noise import Noise
from tests import make
from tests.lightning_modules.networks.test_next_scale import released_mapper
from tests.lightning_modules.next_scale_parts import BITS, GRIDS, mapper, space, transformer
from tests.reference.infinity_official import random_weights


def stage_one(network=None, scale=2, **settings):
    return make.quiet(NSARMStageOne(scale, space(), network or mapper(), **settings))


def stage_two(network=None, **settings):
    return make.quiet(NSARM(2, space(), network or mapper(), transformer(), **settings))


def estimate(size=(2, 2)):
    """A mapper of ours, which corrects its own codes."""
    torch.manual_seed(0)
    return LatentEstimate(BITS, size, grids=GRIDS[:2], full=(4, 4), width=8, blocks=1)


@pytest.fixture
def batch():
    """LR with latents of 2x2, HR with latents of 4x4."""
    return make.pairs(lr=(16, 16), scale=2)


def enlarged(x):
    """To the size of the last scale."""
    return functional.interpolate(x, (4, 4), mode="bilinear")


def tokens(x):
    """The tokens (B, h w, C) of a map (B, C, h, w)."""
    return x.flatten(2).mT


# ------------------------------------------------------------------------------------- stage one


def test_stage_one_learns_the_residuals_before_they_are_quantised(batch):
    model = stage_one()

    loss = model.training_step(batch, 0)

    latent = model.space.encode(batch["hr"])
    first = functional.interpolate(latent, GRIDS[0], mode="area")
    second = functional.interpolate(latent - enlarged(quantized(first)), GRIDS[1], mode="area")
    outputs = model.mapper(model.space.encode(batch["lr"]))
    of_first = (outputs[0] - first).square()
    of_second = (outputs[1] - second).square()
    assert_close(loss, torch.cat([of_first.flatten(), of_second.flatten()]).mean())
    assert model.logged["train/mse_scale_2"] == pytest.approx(of_second.mean().item())


def test_the_output_of_stage_one_is_decoded_from_the_first_scales(batch):
    model = stage_one(color_fix="none").eval()

    sr = model.enlarge(batch)["sr"]

    first, second = model.mapper(model.space.encode(batch["lr"]))
    total = enlarged(quantized(first)) + enlarged(quantized(second))
    assert_close(sr, model.space.vae.decode(total).clamp(0, 1))


# ------------------------------------------------------------------------------------- stage two


def logits_of(model, sums):
    """Logits of all tokens, given the sums of codes that the scales 2, 3 and 4 get as inputs."""
    inputs = []
    for total, grid in zip(sums, GRIDS[1:], strict=True):
        inputs.append(tokens(functional.interpolate(total, grid, mode="bilinear")))
    network = model.transformer
    no_text = Text(network.no_text[:1].expand(2, 1, -1), torch.ones(2))
    return network(torch.cat(inputs, 1), model.scales, network.encode_text(no_text))


AFTER_MAPPER = slice(1 * 1 + 2 * 2, None)  # tokens after the mapper's scales, 1x1 and 2x2


def test_the_loss_of_stage_two_is_the_cross_entropy_of_the_bits_after_the_mappers_scales(batch):
    """The bits of 3x3 and 4x4 tokens, which code what the mapper's codes leave of HR's latent."""
    model = stage_two()

    loss = model.training_step(batch, 0)

    latent = model.space.encode(batch["hr"])
    first, second = map(quantized, model.mapper(model.space.encode(batch["lr"])))
    mapped = enlarged(first) + enlarged(second)
    third, fourth = scales_of(latent - mapped, GRIDS[2:])
    bits = torch.cat([tokens(third.bits), tokens(fourth.bits)], 1)
    logits = logits_of(model, [enlarged(first), mapped, mapped + third.total])[:, AFTER_MAPPER]
    losses = functional.cross_entropy(logits.movedim(-1, 1), bits.long(), reduction="none").mean(-1)
    weights = torch.tensor([1 / 3] * (3 * 3) + [1 / 4] * (4 * 4))  # one over the scale's side
    assert_close(loss, (losses * weights).sum(1).mean() / weights.sum())
    assert model.logged.keys() >= {"train/loss_scale_3", "train/loss_scale_4"}
    assert "train/loss_scale_2" not in model.logged


@torch.no_grad()
def test_stage_two_keeps_the_mappers_codes_and_draws_the_others(batch):
    """At temperature 0 the transformer's likelier bits, given the sum of all codes before."""
    model = stage_two(bits=Bitwise(tau=0)).eval()

    first, second, third, fourth = model.codes(batch, batch["lr"], Noise(batch["seed"]))

    of_mapper = model.mapper(model.space.encode(batch["lr"]))
    assert torch.equal(first, quantized(of_mapper[0]))
    assert torch.equal(second, quantized(of_mapper[1]))
    mapped = enlarged(first) + enlarged(second)
    logits = logits_of(model, [enlarged(first), mapped, mapped + enlarged(third)])
    likelier = logits.argmax(-1)[:, AFTER_MAPPER]
    drawn = torch.cat([tokens(third > 0), tokens(fourth > 0)], 1)
    assert torch.equal(drawn.long(), likelier)


def test_a_mapper_that_is_not_trained_has_no_dropout(batch):
    """Else stage two would learn from the codes of a network that no one samples with."""
    branches = [Branch(width=16, layers=1, heads=2)] * 2
    dropping = Transformation(BITS, (2, 2), GRIDS[:2], branches, dropout=0.9)
    model = stage_two(dropping, stage_two=StageTwo(train_mapper=False))

    loss = model.training_step(batch, 0)

    assert torch.equal(loss, model.training_step(batch, 0))


def test_a_mapper_that_is_not_trained_is_in_no_checkpoint():
    model = stage_two(stage_two=StageTwo(train_mapper=False))
    assert not any(parameter.requires_grad for parameter in model.mapper.parameters())
    assert not any(name.startswith("mapper") for name in model.checkpoint_keys())


# -------------------------------------------------------------- choices that are not the paper's


def test_a_latent_estimate_learns_its_error_at_each_scale(batch):
    """Of each scale: (estimate - codes) - (latent - codes), in which the same codes cancel."""
    model = stage_one(estimate())

    loss = model.training_step(batch, 0)

    error = model.mapper.estimate(model.space.encode(batch["lr"])) - model.space.encode(batch["hr"])
    first = functional.interpolate(error, GRIDS[0], mode="area")
    second = functional.interpolate(error, GRIDS[1], mode="area")
    assert_close(loss, torch.cat([first.flatten(), second.flatten()]).square().mean())


def test_with_enlarge_lr_lr_is_enlarged_before_it_is_encoded(batch):
    model = stage_one(estimate(size=(4, 4)), enlarge_lr=True)

    _, y = model.latents(batch)

    large = functional.interpolate(batch["lr"], (32, 32), mode="bicubic")
    assert_close(y, model.space.encode(large))


def test_latents_of_lr_that_were_written_without_enlarge_lr_are_refused(batch):
    model = stage_one(estimate(size=(4, 4)), enlarge_lr=True)
    batch["lr_latent"] = model.space.encode(batch["lr"])
    with pytest.raises(ValueError, match=r"LR are 2x2, and .* reads 4x4: set .*enlarge_lr"):
        model.latents(batch)


def test_small_images_are_cut_back_exactly_at_a_fractional_scale():
    """The mapper reads 20x20, so 15 rows get 5 mirrored ones, all below.

    Half of them above, 2, would be 3.2 rows of the output at x1.6, which no crop removes.
    """
    model = stage_one(estimate(size=(4, 4)), scale=1.6, enlarge_lr=True, color_fix="none")
    # Instead of mapper and decoder: bicubic, so that the output shows where its pixels are from.
    model.codes = lambda batch, lr, noise: [resize(lr, (32, 32))]
    model.space.images = lambda total: total
    batch = make.batch(2, (24, 32), lr=(3, 15, 20))

    sr = model.enlarge(batch)["sr"]

    rows = slice(0, 18)  # of 24: the last ones are interpolated with mirrored rows
    expected = resize(batch["lr"], (24, 32))
    assert_close(sr[..., rows, :], expected[..., rows, :])


def test_the_mapper_may_have_a_rate_of_its_own():
    adam = partial(torch.optim.AdamW, lr=1e-3)
    model = stage_two(stage_two=StageTwo(mapper_lr=1e-7), optimizer=adam)

    rates = {}
    for group in model.configure_optimizers().param_groups:
        rates |= dict.fromkeys(group["params"], group["lr"])

    assert all(rates[parameter] == 1e-7 for parameter in model.mapper.parameters())
    assert all(rates[parameter] == 1e-3 for parameter in model.transformer.parameters())


# --------------------------------------------------------------------------------------- weights


@pytest.fixture
def released(tmp_path):
    """A file of the release, which holds the transformer and the mapper."""
    sizes = {"bits": BITS, "depth": 2, "width": 64, "text_width": 128, "text_length": 8}
    of_transformer = random_weights(**sizes, chunks=1)  # of the sizes of transformer()
    torch.save(of_transformer | released_mapper(mapper()), tmp_path / "NSARM.pth")
    return tmp_path / "NSARM.pth"


def test_the_released_file_fills_both_stages(released):
    official = torch.load(released)
    model = stage_two()

    tensors = model.import_official(official)

    assert tensors.keys() == model.state_dict().keys()
    assert torch.equal(tensors["transformer.head.weight"], official["head.weight"])
    bias = mapper().state_dict()["branches.1.out.3.bias"]
    assert torch.equal(tensors["mapper.branches.1.out.3.bias"], bias)
    of_stage_one = stage_one().import_official(official)
    assert of_stage_one.keys() == stage_one().state_dict().keys()
    assert torch.equal(of_stage_one["mapper.branches.1.out.3.bias"], bias)


def test_infinity_refuses_the_released_file_of_nsarm(released):
    """Its transformer continues the scales of its mapper, which Infinity lacks."""
    with pytest.raises(ValueError, match=r"NSARM: set model\.class_path"):
        Infinity(1, space(), transformer()).load_weights(released)
