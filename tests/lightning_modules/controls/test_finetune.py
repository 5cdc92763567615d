"""Fine-tuning at a larger size: the whole base, and low-rank updates beside it."""

from __future__ import annotations

import re

import pytest
import torch
from torch.testing import assert_close

from lightning_modules import Diffusion, FineTune, LoRA, Schedule
from lightning_modules.controls.finetune import add_layers, targets
from lightning_modules.noise import Noise
from lightning_modules.sampling.solvers import Sampler
from tests import make
from tests.lightning_modules.backbone.unets import base, wrapped


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
@pytest.mark.parametrize(("rank", "expected"), [(4, 1_921_792), (32, 15_374_336)])
def test_low_rank_layers_add_so_many_parameters_to_stable_diffusion_2_1(rank, expected):
    """The rank times inputs and outputs of all layers, 480,448."""
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
    assert sum(added) == expected


def test_low_rank_layers_are_those_of_attention_feed_forward_and_time():
    names = {re.sub(r"\d+", "N", name) for name in targets(base().unet)}
    inner = {name.rpartition("transformer_blocks.N.")[2] for name in names}
    attention = {"attnN.to_q", "attnN.to_k", "attnN.to_v", "attnN.to_out.N"}
    assert inner >= attention | {"ff.net.N.proj", "ff.net.N"}
    assert any(name.endswith("time_emb_proj") for name in names)
    assert not any("conv" in name or "time_embedding" in name for name in names)


# -------------------------------------------------------------------------------------- training


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_the_loss_is_the_bases_own(prediction):
    schedule = Schedule(prediction=prediction)
    method = fine_tuned(schedule=schedule)
    batch = images()
    torch.manual_seed(3)
    loss = method.training_step(batch, 0)

    torch.manual_seed(3)
    z = batch["hr"] * 2 - 1
    t = torch.randint(1000, (2,))
    eps = torch.randn_like(z)
    raw = method.denoiser(schedule.add_noise(z, eps, t), t)
    expected = (raw - schedule.target(z, eps, t)).square().mean()
    assert_close(loss, expected, rtol=1e-5, atol=1e-6)


def test_a_checkpoint_goes_on_with_its_base_alone():
    method = lora()
    for name, parameter in method.named_parameters():
        if "lora_B" in name:
            parameter.data += 0.1 * torch.randn_like(parameter)
    checkpoint = {"state_dict": method.state_dict()}
    method.on_save_checkpoint(checkpoint)
    assert all("lora_" in name for name in checkpoint["state_dict"])

    again = lora()
    again.on_load_checkpoint(checkpoint)
    again.load_state_dict(checkpoint["state_dict"])

    expected = method.generate(images(), Noise(torch.arange(2)))
    assert torch.equal(again.generate(images(), Noise(torch.arange(2))), expected)
    assert not torch.equal(lora().generate(images(), Noise(torch.arange(2))), expected)
    again.denoiser.source = "other.ckpt ffffffffffffffff"
    with pytest.raises(ValueError, match=r"trained with denoiser from base\.ckpt"):
        again.on_load_checkpoint(checkpoint)


def test_a_base_that_is_trained_further_may_get_another_schedule(tmp_path, caplog):
    """As for zero terminal SNR; an adapter of a frozen base may not."""
    file = make.save_run(Diffusion(1.0, wrapped(null="learned")), tmp_path / "base.ckpt")
    v = Schedule(prediction="v_prediction")
    method = fine_tuned(denoiser_weights="base", schedule=v)
    method.load_parts(lambda *_: file)
    method.setup("fit")
    assert "prediction v_prediction, there epsilon" in caplog.text

    adapter = LoRA(2.0, denoiser=base(), denoiser_weights="base", schedule=v)
    adapter.load_parts(lambda *_: file)
    with pytest.raises(ValueError, match="there epsilon"):
        adapter.setup("fit")
