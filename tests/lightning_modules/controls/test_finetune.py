"""Fine-tuning at a larger size: the whole base, and low-rank updates beside it."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch.nn import functional

from lightning_modules.backbone.schedule import Schedule
from lightning_modules.controls.finetune import FineTune, LoRA, add_layers, targets
from lightning_modules.methods.diffusion import Diffusion
from lightning_modules.noise import Noise
from tests.lightning_modules.backbone.unets import wrapped
from tests.lightning_modules.methods.test_self_cascade import (
    base,
    batch,
    sampled,
)
from tests.lightning_modules.tiny import save_run

SD21 = {  # stable-diffusion-2-1-base's own config.json
    **{"attention_head_dim": [5, 10, 20, 20], "cross_attention_dim": 1024},
    **{"use_linear_projection": True, "sample_size": 64},
}


def made(kind: Any, **settings: Any) -> Any:
    torch.manual_seed(0)
    method = kind(2.0, **sampled(settings))
    method.log = lambda *_, **__: None
    return method.eval()


def whole(**settings: Any) -> Any:
    denoiser = wrapped(null="learned")
    denoiser.initial_source = "base.ckpt"
    return made(FineTune, denoiser=denoiser, **settings)


def lora(**settings: Any) -> Any:
    method = made(LoRA, denoiser=base(), **settings)
    method.load_parts(lambda *_: pytest.fail("no part has a file"))
    return method


def learned(method: Any) -> Any:
    """With updates that are not 0."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, parameter in method.named_parameters():
            if "lora_B" in name:
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return method


@pytest.mark.slow
@pytest.mark.parametrize(("rank", "expected"), [(4, 1_921_792), (32, 15_374_336)])
def test_parameters_on_stable_diffusion_2_1(rank, expected):
    import diffusers

    with torch.device("meta"):
        unet = diffusers.UNet2DConditionModel(**SD21)
        assert sum(parameter.numel() for parameter in unet.parameters()) == 865_910_724
        unet.requires_grad_(False)
        add_layers(unet, rank)
    assert sum(p.numel() for p in unet.parameters() if p.requires_grad) == expected


def test_layers():
    names = {
        re.sub(r"\d+", "N", name).rpartition("transformer_blocks.N.")[2]
        for name in targets(base().unet)
    }
    inner = {f"attn{n}.{part}" for n in (1, 2) for part in ("to_q", "to_k", "to_v", "to_out.N")}
    inner = {name.replace("attn1", "attnN").replace("attn2", "attnN") for name in inner}
    assert inner | {"ff.net.N.proj", "ff.net.N"} <= names
    assert any(name.endswith("time_emb_proj") for name in names)
    assert not any("conv" in name or "time_embedding" in name for name in names)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_the_loss_is_the_bases_own(prediction):
    method, given = whole(schedule=Schedule(prediction=prediction)), batch()
    torch.manual_seed(3)
    loss = method.training_step(given, 0)
    torch.manual_seed(3)
    z = given["hr"] * 2 - 1
    t, eps = torch.randint(1000, (2,)), torch.randn_like(z)
    levels = torch.tensor([method.schedule.level(int(step)) for step in t])
    alpha, sigma = (part.view(-1, 1, 1, 1) for part in levels.unbind(1))
    z_t, velocity = alpha * z + sigma * eps, alpha * eps - sigma * z
    target = eps if prediction == "epsilon" else velocity
    expected = functional.mse_loss(method.denoiser(z_t, t), target)
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-6)


def test_what_is_trained_and_kept():
    method = lora()
    method.training_step(batch(), 0).backward()
    moved = {name for name, p in method.named_parameters() if p.grad is not None}
    kept = set(method.checkpoint_keys())
    assert moved == kept
    assert all("lora_" in name for name in moved)
    everything = whole()
    assert set(everything.checkpoint_keys()) == {n for n, _ in everything.named_parameters()}


def test_a_checkpoint_goes_on_and_knows_its_base():
    method = learned(lora())
    saved: dict[str, Any] = {"state_dict": method.state_dict()}
    method.on_save_checkpoint(saved)
    again = lora()
    again.on_load_checkpoint(saved)
    again.load_state_dict(saved["state_dict"])
    given = batch()
    outputs = [m.generate(given, Noise(given["seed"])) for m in (method, again)]
    assert torch.equal(*outputs)
    method.on_save_checkpoint(saved)
    other = lora()
    other.denoiser.source = "other.ckpt ffffffffffffffff"
    with pytest.raises(ValueError, match=r"trained with denoiser from base\.ckpt"):
        other.on_load_checkpoint(saved)


V: Any = {"schedule": Schedule(prediction="v_prediction")}


def test_a_base_that_is_trained_further_may_get_another_schedule(tmp_path, caplog):
    """As for zero terminal SNR; an adapter of a frozen base may not."""
    save_run(Diffusion(1.0, wrapped(null="learned")), tmp_path / "base.ckpt")
    method = whole(denoiser_weights="base", **V)
    method.load_parts(lambda *_: tmp_path / "base.ckpt")
    method.setup("fit")
    assert "prediction v_prediction, there epsilon" in caplog.text
    frozen = made(LoRA, denoiser=base(), denoiser_weights="base", **V)
    frozen.load_parts(lambda *_: tmp_path / "base.ckpt")
    with pytest.raises(ValueError, match="there epsilon"):
        frozen.setup("fit")
