"""Denoisers: diffusers' networks, neither more nor less, behind one contract."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from files.weights import fingerprint
from lightning_modules.backbone.condition import Condition
from lightning_modules.backbone.denoiser import UNet2D
from lightning_modules.backbone.library import Flags
from lightning_modules.networks.attachments import Residuals, skip_shapes
from tests import make
from tests.lightning_modules.backbone.unets import SDXL, WRAPPERS, bare, inputs, wrapped
from tests.make import assert_near

KINDS = pytest.mark.parametrize("kind", WRAPPERS)


# ------------------------------------------------------------------------------------ the network


@KINDS
@torch.no_grad()
def test_a_network_from_a_folder_is_that_of_diffusers(kind, tmp_path):
    z, t, text = inputs(kind)
    network = bare(kind)
    network.save_pretrained(tmp_path / "unet")

    denoiser = WRAPPERS[kind](str(tmp_path), flags=Flags(frozen=True))

    assert torch.equal(denoiser(z, t, Condition(text=text)), network(z, t, text).sample)
    assert denoiser.source == f"{tmp_path} {fingerprint(network.state_dict())}"
    with pytest.raises(ValueError, match="no null text"):
        denoiser(z, t)


@torch.no_grad()
def test_sizes_and_a_pooled_text_as_of_sdxl():
    z, t, text = inputs()
    sizes = torch.tensor([[64.0, 32, 0, 0, 64, 32], [16, 8, 0, 0, 16, 8]])
    pooled = make.normal(2, 5)

    output = wrapped(**SDXL)(z, t, Condition(text=text, sizes=sizes, pooled=pooled))

    added = {"text_embeds": pooled, "time_ids": sizes}
    assert torch.equal(output, bare(**SDXL)(z, t, text, added_cond_kwargs=added).sample)


@torch.no_grad()
def test_the_null_text_is_zeros_or_learned():
    z, t, _ = inputs()
    zero = wrapped(null="zero")
    assert torch.equal(zero(z, t), bare()(z, t, torch.zeros(2, 1, 6)).sample)
    assert "null" not in zero.state_dict()

    learned = wrapped(null="learned")
    learned.null.copy_(make.normal(1, 1, 6))
    assert torch.equal(learned(z, t), bare()(z, t, learned.null.expand(2, -1, -1)).sample)
    assert_close(learned(z, t, Condition(text=learned.null_text(2, 5))), learned(z, t))


# --------------------------------------------------------------------------- features, residuals


@KINDS
@torch.no_grad()
def test_features_are_what_the_way_up_gets(kind):
    z, t, text = inputs(kind)
    denoiser = wrapped(kind)
    features = denoiser.features(z, t, Condition(text=text), middle=True)
    assert denoiser.features(z, t, Condition(text=text)).middle is None
    skips = []
    starts = []

    def note(_, args, kwargs):
        skips.insert(0, kwargs["res_hidden_states_tuple"])
        starts.append(kwargs["hidden_states"])

    for block in denoiser.unet.up_blocks:
        block.register_forward_pre_hook(note, with_kwargs=True)
    denoiser(z, t, Condition(text=text))

    expected = [skip for of_block in skips for skip in of_block]
    assert len(expected) == len(skip_shapes(denoiser.unet))
    assert_close(list(features.skips), expected, rtol=0, atol=0)
    assert torch.equal(features.middle, starts[0])


@KINDS
@torch.no_grad()
def test_residuals_are_added_and_missing_ones_are_zero(kind):
    z, t, text = inputs(kind)
    condition = Condition(text=text)
    denoiser = wrapped(kind)
    features = denoiser.features(z, t, condition, middle=True)
    skips = [torch.randn_like(skip) for skip in features.skips]
    middle = torch.randn_like(features.middle)

    def by_diffusers(skips, middle):
        residuals = {
            "down_block_additional_residuals": tuple(skips),
            "mid_block_additional_residual": middle,
        }
        return bare(kind)(z, t, text, **residuals).sample

    output = denoiser(z, t, condition, Residuals(dict(enumerate(skips)), middle))
    assert torch.equal(output, by_diffusers(skips, middle))

    output = denoiser(z, t, condition, Residuals({2: skips[2]}))
    zeros = [torch.zeros_like(skip) for skip in skips]
    zeros[2] = skips[2]
    assert torch.equal(output, by_diffusers(zeros, torch.zeros_like(middle)))


# ------------------------------------------------------------------------------------------ flags


@torch.no_grad()
def test_a_frozen_network_in_bfloat16():
    z, t, text = inputs()
    expected = wrapped()(z, t, Condition(text=text))
    denoiser = wrapped(flags=Flags(frozen=True, dtype="bfloat16"))

    output = denoiser(z, t, Condition(text=text), Residuals({0: torch.zeros(())}))

    assert output.dtype == torch.float32
    assert {parameter.dtype for parameter in denoiser.unet.parameters()} == {torch.bfloat16}
    assert 0 < (output - expected).abs().mean() < 0.05 * expected.abs().mean()
    with pytest.raises(ValueError, match=r"trains.*trainer\.precision"):
        Flags(dtype="bfloat16")


@KINDS
@pytest.mark.parametrize("frozen", [False, True])
def test_gradient_checkpointing_runs_blocks_twice_and_gives_the_same_gradients(kind, frozen):
    """Of videos by our code, for diffusers has none."""
    gradients = []
    calls = []
    for checkpointing in (False, True):
        denoiser = wrapped(kind, flags=Flags(frozen, gradient_checkpointing=checkpointing)).train()
        block = denoiser.unet.down_blocks[1].resnets[0]
        block.register_forward_pre_hook(lambda *_: calls.append(checkpointing))  # noqa: B023
        z, t, text = inputs(kind)
        z.requires_grad_()
        torch.manual_seed(0)  # diffusers drops out a tenth of what is between frames

        denoiser(z, t, Condition(text=text)).square().sum().backward()

        gradients.append([p.grad for p in (z, *denoiser.parameters()) if p.grad is not None])
    assert calls == [False, True, True]
    assert (len(gradients[0]) == 1) == frozen  # of z alone
    assert_close(gradients[0], gradients[1])


@pytest.mark.parametrize(
    "device",
    [pytest.param("cpu", marks=pytest.mark.slow), pytest.param("cuda", marks=pytest.mark.gpu)],
)
@torch.inference_mode()
def test_outputs_of_a_graph_stay_when_it_is_replayed(device):
    graph = wrapped(flags=Flags(frozen=True, compile="graphs")).to(device)
    plain = wrapped().to(device)
    z, t, text = (x.to(device) for x in inputs())
    condition = Condition(text=text)

    outputs = {factor: graph(factor * z, t, condition) for factor in (1, 2, 3, 4)}

    for factor, output in outputs.items():
        assert_near(output, plain(factor * z, t, condition), 1e-4)


# -------------------------------------------------------------------------------------- its files


def test_a_folder_that_is_missing_unlike_its_configuration_or_damaged_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="hf download no/such-model"):
        UNet2D("no/such-model")

    bare(in_channels=4).save_pretrained(tmp_path / "unet")
    bare().save_config(tmp_path / "unet")
    with pytest.raises(ValueError, match=r"1 of another shape \(conv_in\.weight"):
        UNet2D(str(tmp_path))

    (file,) = (tmp_path / "unet").glob("*.safetensors")
    file.with_name(f"{file.name}.sha256").write_text("0" * 64)
    with pytest.raises(ValueError, match=f"{file.name} is damaged"):
        UNet2D(str(tmp_path))


@pytest.mark.parametrize("prefix", ["", "denoiser.unet."])
def test_weights_come_from_a_file_of_the_network_or_of_a_run(prefix, tmp_path):
    state = bare(seed=3).state_dict()
    tensors = {prefix + name: tensor for name, tensor in state.items()}
    torch.save({"state_dict": tensors}, tmp_path / "trained.ckpt")
    denoiser = wrapped(flags=Flags(frozen=True))

    denoiser.load(tmp_path / "trained.ckpt")

    assert_close(denoiser.unet.state_dict(), state, rtol=0, atol=0)
    assert denoiser.source.startswith(f"{tmp_path / 'trained.ckpt'} ")
