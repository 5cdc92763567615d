"""Denoisers: diffusers' networks, neither more nor less, behind one contract."""

from __future__ import annotations

from unittest.mock import patch

import pytest
import torch
from torch.testing import assert_close

from files.weights import fingerprint
from lightning_modules.backbone.condition import Condition
from lightning_modules.backbone.denoiser import UNet2D
from lightning_modules.backbone.library import Flags
from lightning_modules.networks.attachments import Residuals, skip_shapes
from tests import make
from tests.lightning_modules.backbone.unets import FLAT, SDXL, WRAPPERS, bare, inputs, wrapped
from tests.make import assert_near

KINDS = pytest.mark.parametrize("kind", WRAPPERS)
WIDTH = FLAT["cross_attention_dim"]  # of a token


# ------------------------------------------------------------------------------------ the network


@KINDS
@torch.no_grad()
def test_a_network_from_a_folder_is_that_of_diffusers(kind, tmp_path):
    """Same outputs; frozen, it names the folder and the hash of its weights as their source."""
    z, t, text = inputs(kind)
    network = bare(kind)
    network.save_pretrained(tmp_path / "unet")

    denoiser = WRAPPERS[kind](str(tmp_path), flags=Flags(frozen=True))

    assert torch.equal(denoiser(z, t, Condition(text=text)), network(z, t, text).sample)
    assert denoiser.source == f"{tmp_path} {fingerprint(network.state_dict())}"


def test_without_a_text_a_network_that_has_no_null_text_is_refused():
    z, t, _ = inputs()
    with pytest.raises(ValueError, match="no null text"):
        wrapped(null="none")(z, t)


@torch.no_grad()
def test_sizes_and_pooled_text_are_sdxls_added_conditions():
    z, t, text = inputs()
    # Of the original, of its cut corner, and of the image: height and width each.
    sizes = torch.tensor([[64.0, 32, 0, 0, 64, 32], [16, 8, 0, 0, 16, 8]])
    pooled = make.normal(2, 5)

    output = wrapped(**SDXL)(z, t, Condition(text=text, sizes=sizes, pooled=pooled))

    added = {"text_embeds": pooled, "time_ids": sizes}
    assert torch.equal(output, bare(**SDXL)(z, t, text, added_cond_kwargs=added).sample)


@torch.no_grad()
def test_without_a_text_a_null_of_zeros_is_a_token_of_zeros():
    z, t, _ = inputs()
    denoiser = wrapped(null="zero")
    token = torch.zeros(2, 1, WIDTH)
    assert torch.equal(denoiser(z, t), bare()(z, t, token).sample)
    assert "null" not in denoiser.state_dict()


@torch.no_grad()
def test_without_a_text_a_learned_null_is_a_token_in_any_number():
    """Attention gives the same for equal tokens as for one."""
    z, t, _ = inputs()
    denoiser = wrapped(null="learned")
    denoiser.null.copy_(make.normal(1, 1, WIDTH))
    token = denoiser.null.expand(2, -1, -1)
    assert torch.equal(denoiser(z, t), bare()(z, t, token).sample)
    assert_close(denoiser(z, t, Condition(text=denoiser.null_text(2, 5))), denoiser(z, t))


# --------------------------------------------------------------------------- features, residuals


@KINDS
@torch.no_grad()
def test_features_are_what_the_up_blocks_get_as_skip_connections_and_from_the_middle(kind):
    z, t, text = inputs(kind)
    condition = Condition(text=text)
    denoiser = wrapped(kind)

    features = denoiser.features(z, t, condition, middle=True)
    without_middle = denoiser.features(z, t, condition)

    calls = []  # arguments of each block of the way up
    for block in denoiser.unet.up_blocks:
        block.register_forward_pre_hook(
            lambda _, args, named: calls.append(named), with_kwargs=True
        )
    denoiser(z, t, condition)
    skips = []
    for named in reversed(calls):  # the first block takes the last skips
        skips += named["res_hidden_states_tuple"]
    assert len(skips) == len(skip_shapes(denoiser.unet))
    assert_close(list(features.skips), skips, rtol=0, atol=0)
    assert torch.equal(features.middle, calls[0]["hidden_states"])
    assert without_middle.middle is None


@KINDS
@pytest.mark.parametrize("given", ["all", "one"])
@torch.no_grad()
def test_residuals_are_added_and_missing_ones_are_zero(kind, given):
    z, t, text = inputs(kind)
    condition = Condition(text=text)
    denoiser = wrapped(kind)
    features = denoiser.features(z, t, condition, middle=True)
    skips = [torch.randn_like(skip) for skip in features.skips]
    middle = torch.randn_like(features.middle)
    residuals = Residuals(dict(enumerate(skips)), middle)
    if given == "one":
        residuals = Residuals({2: skips[2]})
        skips = [skip if number == 2 else 0 * skip for number, skip in enumerate(skips)]
        middle = 0 * middle

    output = denoiser(z, t, condition, residuals)

    added = {"mid_block_additional_residual": middle}
    added["down_block_additional_residuals"] = tuple(skips)
    assert torch.equal(output, bare(kind)(z, t, text, **added).sample)


# ------------------------------------------------------------------------------------------ flags


@torch.no_grad()
def test_a_frozen_network_in_bfloat16_takes_and_gives_float32():
    """Also with residuals, here of 0. Each layer rounds by up to 2^-9; 0.05 is for all layers."""
    z, t, text = inputs()
    expected = wrapped()(z, t, Condition(text=text))
    denoiser = wrapped(flags=Flags(frozen=True, dtype="bfloat16"))

    output = denoiser(z, t, Condition(text=text), Residuals({0: torch.zeros(())}))

    assert output.dtype == torch.float32
    assert {parameter.dtype for parameter in denoiser.unet.parameters()} == {torch.bfloat16}
    assert 0 < (output - expected).abs().mean() < 0.05 * expected.abs().mean()


def test_bfloat16_of_a_network_that_trains_is_refused():
    """Its weights stay in float32, as bfloat16 rounds small steps away."""
    with pytest.raises(ValueError, match=r"trains.*trainer\.precision"):
        Flags(frozen=False, dtype="bfloat16")


@KINDS
@pytest.mark.parametrize("frozen", [False, True])
def test_gradient_checkpointing_runs_blocks_twice_and_gives_the_same_gradients(kind, frozen):
    """The backward pass runs blocks again, instead of keeping their activations in memory.

    For images diffusers does it, for videos our own code, as diffusers has none.
    """
    gradients = {}
    calls = {False: 0, True: 0}
    for checkpointing in calls:
        denoiser = wrapped(kind, flags=Flags(frozen, gradient_checkpointing=checkpointing)).train()
        block = denoiser.unet.down_blocks[1].resnets[0]
        z, t, text = inputs(kind)
        z.requires_grad_()
        torch.manual_seed(0)  # diffusers drops out a tenth of what is between frames

        with patch.object(block, "forward", wraps=block.forward) as forward:
            denoiser(z, t, Condition(text=text)).square().sum().backward()

        calls[checkpointing] = forward.call_count
        gradients[checkpointing] = [p.grad for p in (z, *denoiser.parameters())]
    assert calls == {False: 1, True: 2}
    assert all(gradient is None for gradient in gradients[True][1:]) == frozen  # of the weights
    assert_close(gradients[True], gradients[False])


@pytest.mark.parametrize(
    "device",
    [pytest.param("cpu", marks=pytest.mark.slow), pytest.param("cuda", marks=pytest.mark.gpu)],
)
@torch.inference_mode()
def test_outputs_of_a_graph_stay_when_it_is_replayed(device):
    """It writes to the same memory each time, so that later calls would change earlier outputs."""
    graph = wrapped(flags=Flags(frozen=True, compile="graphs")).to(device)
    plain = wrapped().to(device)
    z, t, text = (x.to(device) for x in inputs())
    condition = Condition(text=text)

    outputs = {factor: graph(factor * z, t, condition) for factor in (1, 2, 3, 4)}

    for factor, output in outputs.items():
        assert_near(output, plain(factor * z, t, condition), 1e-4)


# -------------------------------------------------------------------------------------- its files


def test_without_its_folder_a_network_names_the_command_that_downloads_it():
    with pytest.raises(FileNotFoundError, match="hf download no/such-model"):
        UNet2D("no/such-model")


def test_weights_that_do_not_fit_their_folders_configuration_are_refused(tmp_path):
    bare(in_channels=4).save_pretrained(tmp_path / "unet")
    bare(in_channels=3).save_config(tmp_path / "unet")
    with pytest.raises(ValueError, match=r"1 of another shape \(conv_in\.weight"):
        UNet2D(str(tmp_path))


def test_weights_with_another_checksum_than_the_one_beside_them_are_refused(tmp_path):
    bare().save_pretrained(tmp_path / "unet")
    (file,) = (tmp_path / "unet").glob("*.safetensors")
    file.with_name(f"{file.name}.sha256").write_text("0" * 64)
    with pytest.raises(ValueError, match=f"{file.name} is damaged"):
        UNet2D(str(tmp_path))


@pytest.mark.parametrize("prefix", ["", "denoiser.unet."], ids=["of a network", "of a run"])
def test_weights_come_from_a_file_of_the_network_or_of_a_run(prefix, tmp_path):
    state = bare(seed=3).state_dict()
    tensors = {prefix + name: tensor for name, tensor in state.items()}
    torch.save({"state_dict": tensors}, tmp_path / "trained.ckpt")
    denoiser = wrapped(flags=Flags(frozen=True))

    denoiser.load(tmp_path / "trained.ckpt")

    assert_close(denoiser.unet.state_dict(), state, rtol=0, atol=0)
    assert denoiser.source.startswith(f"{tmp_path / 'trained.ckpt'} ")
