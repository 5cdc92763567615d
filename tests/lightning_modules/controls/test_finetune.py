"""Fine-tuning at a larger size: the whole base, and low-rank updates beside it."""

from __future__ import annotations

import re

import pytest
import torch
from torch.testing import assert_close

from lightning_modules import Diffusion, Direct, FineTune, LoRA, Schedule
from lightning_modules.controls.finetune import add_layers, targets
from lightning_modules.noise import Noise
from lightning_modules.sampling.solvers import Sampler
from tests import make
from tests.lightning_modules.backbone.texts import Words
from tests.lightning_modules.backbone.unets import base, noted, wrapped


def images():
    return make.batch(2, (16, 16), hr=(3, 16, 16))


def fine_tuned(**settings):
    denoiser = wrapped(null="learned")
    denoiser.initial_source = "base.ckpt"
    return make.quiet(FineTune(2.0, denoiser=denoiser, **settings)).eval()


def lora():
    torch.manual_seed(0)
    method = make.quiet(LoRA(2.0, denoiser=base(), sampler=Sampler(steps=4))).eval()
    method.load_parts(lambda *_: pytest.fail("no part has a file"))
    return method


# ---------------------------------------------------------------------------------------- layers


@pytest.mark.slow
@pytest.mark.parametrize("rank", [4, 32])
def test_low_rank_layers_of_stable_diffusion_2_1_have_480448_parameters_a_rank(rank):
    """The sum of inputs and outputs of all layers.

    With the ranks 4 and 32 that is 1.9 M and 15 M, as in Self-Cascade's paper, which does not say
    what layers these are: with others the baseline would be another.
    """
    diffusers = pytest.importorskip("diffusers")
    with torch.device("meta"):
        unet = diffusers.UNet2DConditionModel(  # as in its config.json
            attention_head_dim=[5, 10, 20, 20],
            cross_attention_dim=1024,
            use_linear_projection=True,
            sample_size=64,
        )
        unet.requires_grad_(False)
        add_layers(unet, rank)
    added = [parameter.numel() for parameter in unet.parameters() if parameter.requires_grad]
    assert sum(added) == rank * 480_448


def test_low_rank_layers_are_those_of_attention_feed_forward_and_time():
    """By name, with N for the numbers of blocks and layers."""
    names = {re.sub(r"\d+", "N", name) for name in targets(base().unet)}
    attention = {"attnN.to_q", "attnN.to_k", "attnN.to_v", "attnN.to_out.N"}
    for layer in attention | {"ff.net.N.proj", "ff.net.N"}:
        assert f"down_blocks.N.attentions.N.transformer_blocks.N.{layer}" in names
    assert "down_blocks.N.resnets.N.time_emb_proj" in names
    assert not any("conv" in name or "time_embedding" in name for name in names)


# -------------------------------------------------------------------------------------- training


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_the_loss_is_the_bases_own(prediction):
    schedule = Schedule(prediction=prediction)
    method = fine_tuned(schedule=schedule)
    batch = images()
    torch.manual_seed(3)
    loss = method.training_step(batch, 0)

    # The mean squared error of the prediction at a random timestep, of the same random numbers.
    torch.manual_seed(3)
    z = batch["hr"] * 2 - 1
    t = torch.randint(1000, (2,))
    eps = torch.randn_like(z)
    raw = method.denoiser(schedule.add_noise(z, eps, t), t)
    expected = (raw - schedule.target(z, eps, t)).square().mean()
    assert_close(loss, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dropout", [0.0, 1.0], ids=["none dropped", "all dropped"])
def test_a_dropped_caption_is_the_null_text_in_training(dropout):
    """Guidance in sampling needs predictions without a caption."""
    method = fine_tuned(encoder=Words(), caption_dropout=dropout)
    calls = noted(method)
    captions = ["a", "aa"]

    method.training_step(images() | {"text": captions}, 0)

    text = Words()(captions)
    expected = method.denoiser.null_text(*text.shape[:2]) if dropout else text
    assert torch.equal(calls[0].condition.text, expected)


@pytest.fixture
def adapter():
    """A trained one."""
    method = lora()
    for name, parameter in method.named_parameters():
        if "lora_" in name:
            parameter.data += 0.1 * torch.randn_like(parameter)
    return method


def checkpoint_of(method):
    checkpoint = {"state_dict": method.state_dict()}
    method.on_save_checkpoint(checkpoint)
    return checkpoint


def generated(method):
    return method.generate(images(), Noise(torch.arange(2)))


def test_an_untrained_adapter_gives_the_bits_of_direct_inference():
    direct = Direct(2.0, denoiser=base(), sampler=Sampler(steps=4)).eval()
    assert torch.equal(generated(lora()), generated(direct))


def test_an_adapter_is_resumed_from_its_low_rank_layers_alone(adapter):
    checkpoint = checkpoint_of(adapter)
    assert all("lora_" in name for name in checkpoint["state_dict"])
    resumed = lora()

    resumed.on_load_checkpoint(checkpoint)
    resumed.load_state_dict(checkpoint["state_dict"])

    assert torch.equal(generated(resumed), generated(adapter))
    assert not torch.equal(generated(lora()), generated(adapter))


def test_an_adapter_of_another_base_is_refused(adapter):
    on_another_base = lora()
    on_another_base.denoiser.source = "other.ckpt ffffffffffffffff"
    with pytest.raises(ValueError, match=r"trained with denoiser from base\.ckpt"):
        on_another_base.on_load_checkpoint(checkpoint_of(adapter))


V = Schedule(prediction="v_prediction")


@pytest.fixture
def file_of_base(tmp_path):
    """A run that predicts epsilon."""
    return make.save_run(Diffusion(1.0, wrapped(null="learned")), tmp_path / "base.ckpt")


def test_a_base_that_trains_may_get_another_schedule_with_a_warning(file_of_base, caplog):
    """It adapts, as to a zero terminal SNR."""
    method = fine_tuned(denoiser_weights="base", schedule=V)
    method.load_parts(lambda *_: file_of_base)
    method.setup("fit")
    assert "prediction v_prediction, there epsilon" in caplog.text


def test_a_frozen_base_of_an_adapter_may_not_get_another_schedule(file_of_base):
    """It predicts epsilon, which would be read as v: before training, outputs would be noise."""
    method = LoRA(2.0, denoiser=base(), denoiser_weights="base", schedule=V)
    method.load_parts(lambda *_: file_of_base)
    with pytest.raises(ValueError, match="there epsilon"):
        method.setup("fit")
