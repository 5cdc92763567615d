"""Denoisers: diffusers' networks, neither more nor less, behind one contract."""

from __future__ import annotations

import pytest
import torch

from files.weights import fingerprint
from lightning_modules.backbone.condition import Condition
from lightning_modules.backbone.denoiser import UNet2D
from lightning_modules.backbone.library import Flags
from lightning_modules.networks.attachments import Residuals, skip_shapes
from tests.lightning_modules.backbone.unets import WRAPPERS, bare, inputs, wrapped

KINDS = pytest.mark.parametrize("kind", WRAPPERS)


# ------------------------------------------------------------------------------------- the network


@KINDS
@torch.no_grad()
def test_it_is_diffusers_network(kind):
    z, t, text = inputs(kind)
    expected = bare(kind)(z, t, text).sample
    assert torch.equal(wrapped(kind)(z, t, Condition(text=text)), expected)


@torch.no_grad()
def test_what_is_known_besides():
    """Sizes and a pooled text as of SDXL."""
    z, t, text = inputs()
    added = {
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 4,
        "projection_class_embeddings_input_dim": 2 * 4 + 5,
    }
    sizes, pooled = torch.tensor([[64.0, 32], [16, 8]]), torch.randn(2, 5)
    got = {"text_embeds": pooled, "time_ids": sizes}
    expected = bare(**added)(z, t, text, added_cond_kwargs=got).sample
    condition = Condition(text=text, sizes=sizes, pooled=pooled)
    assert torch.equal(wrapped(**added)(z, t, condition), expected)


@torch.no_grad()
def test_the_null_text():
    z, t, _ = inputs()
    zero = wrapped(null="zero")
    assert torch.equal(zero(z, t), bare()(z, t, torch.zeros(2, 1, 6)).sample)
    assert "null" not in zero.state_dict()
    learned = wrapped(null="learned")
    learned.null.copy_(torch.randn(1, 1, 6))
    assert torch.equal(learned(z, t), bare()(z, t, learned.null.expand(2, -1, -1)).sample)
    several = learned(z, t, Condition(text=learned.null_text(2, 5)))
    torch.testing.assert_close(several, learned(z, t))


@pytest.mark.parametrize(
    "device",
    [pytest.param("cpu", marks=pytest.mark.slow), pytest.param("cuda", marks=pytest.mark.gpu)],
)
@torch.inference_mode()
def test_outputs_of_a_graph_stay_when_it_is_replayed(device):
    graph = wrapped(flags=Flags(frozen=True, compile="graphs")).to(device)
    plain = wrapped().to(device)
    z, t, text = (x.to(device) for x in inputs())
    batches = [z * factor for factor in (1, 2, 3, 4)]
    found = [graph(batch, t, Condition(text=text)) for batch in batches]
    for batch, output in zip(batches, found, strict=True):
        torch.testing.assert_close(output, plain(batch, t, Condition(text=text)), rtol=0, atol=1e-4)


# ---------------------------------------------------------------------------- features, residuals


@KINDS
@pytest.mark.parametrize("middle", [False, True])
@torch.no_grad()
def test_features_are_what_the_way_up_is_given(kind, middle):
    z, t, text = inputs(kind)
    denoiser, given, ends = wrapped(kind), [], []

    def keep(_, args, kwargs):
        given.insert(0, kwargs["res_hidden_states_tuple"])
        ends.append(kwargs["hidden_states"])

    hooks = [
        block.register_forward_pre_hook(keep, with_kwargs=True) for block in denoiser.unet.up_blocks
    ]
    denoiser(z, t, Condition(text=text))
    for hook in hooks:
        hook.remove()
    features = denoiser.features(z, t, Condition(text=text), middle)
    expected = [skip for part in given for skip in part]
    assert len(features.skips) == len(skip_shapes(denoiser.unet)) == len(expected) == 4
    assert all(map(torch.equal, features.skips, expected))
    assert torch.equal(features.middle, ends[0]) if middle else features.middle is None
    assert not any(module._forward_hooks for module in denoiser.modules())


@KINDS
@torch.no_grad()
def test_residuals_are_added(kind):
    z, t, text = inputs(kind)
    condition = Condition(text=text)
    denoiser = wrapped(kind)
    features = denoiser.features(z, t, condition, middle=True)
    skips = tuple(torch.randn_like(skip) for skip in features.skips)
    middle = torch.randn_like(features.middle)
    expected = bare(kind)(
        *(z, t, text),
        down_block_additional_residuals=skips,
        mid_block_additional_residual=middle,
    ).sample
    found = denoiser(z, t, condition, Residuals(dict(enumerate(skips)), middle))
    assert torch.equal(found, expected)

    zeros = [torch.zeros_like(skip) for skip in skips]
    expected = bare(kind)(
        *(z, t, text),
        down_block_additional_residuals=(*zeros[:2], skips[2], *zeros[3:]),
        mid_block_additional_residual=torch.zeros_like(middle),
    ).sample
    found = denoiser(z, t, condition, Residuals({2: skips[2]}))
    assert torch.equal(found, expected)
    assert torch.equal(denoiser(z, t, condition, Residuals()), denoiser(z, t, condition))


# ------------------------------------------------------------------------------------------- flags


@KINDS
@torch.no_grad()
def test_another_number_type(kind):
    z, t, text = inputs(kind)
    expected = wrapped(kind)(z, t, Condition(text=text))
    denoiser = wrapped(kind, flags=Flags(frozen=True, dtype="bfloat16"))
    found = denoiser(z, t, Condition(text=text), Residuals({0: torch.zeros(())}))
    assert found.dtype == torch.float32
    assert {p.dtype for p in denoiser.unet.parameters()} == {torch.bfloat16}
    assert 0 < (found - expected).abs().mean() < 0.05 * expected.abs().mean()
    with pytest.raises(ValueError, match=r"trains.*trainer\.precision"):
        Flags(dtype="bfloat16")


@KINDS
@pytest.mark.parametrize("frozen", [False, True])
def test_gradient_checkpointing_gives_the_same_gradients(kind, frozen):
    """Blocks run twice; of videos by our code, for diffusers has none."""
    gradients, calls = [], []
    for checkpointing in (False, True):
        flags = Flags(frozen, gradient_checkpointing=checkpointing)
        denoiser = wrapped(kind, flags=flags).train()
        calls.append([])
        first = denoiser.unet.down_blocks[1].resnets[0]
        first.register_forward_pre_hook(lambda *_, counted=calls[-1]: counted.append(1))
        z, t, text = inputs(kind)
        torch.manual_seed(0)  # diffusers drops out a tenth of what is between frames
        denoiser(z.requires_grad_(), t, Condition(text=text)).square().sum().backward()
        gradients.append([z.grad, *(p.grad for p in denoiser.parameters() if p.grad is not None)])
    assert (len(gradients[0]) == 1) == frozen
    torch.testing.assert_close(*gradients)
    assert [len(counted) for counted in calls] == [1, 2]


# --------------------------------------------------------------------------------------- its files


@KINDS
@torch.no_grad()
def test_from_pretrained(kind, tmp_path):
    z, t, text = inputs(kind)
    bare(kind).save_pretrained(tmp_path / "unet")
    denoiser = WRAPPERS[kind](str(tmp_path), flags=Flags(frozen=True))
    assert torch.equal(denoiser(z, t, Condition(text=text)), bare(kind)(z, t, text).sample)
    assert denoiser.source == f"{tmp_path} {fingerprint(bare(kind).state_dict())}"
    with pytest.raises(ValueError, match="no null text"):
        denoiser(z, t)
    with pytest.raises(FileNotFoundError, match="cannot load"):
        UNet2D(str(tmp_path), subfolder="other")
    with pytest.raises(FileNotFoundError, match="hf download no/such-model"):
        UNet2D("no/such-model")
    bare(kind, in_channels=4).save_pretrained(tmp_path / "unet")
    bare(kind).save_config(tmp_path / "unet")
    with pytest.raises(ValueError, match=r"1 of another shape \(conv_in\.weight"):
        WRAPPERS[kind](str(tmp_path))
    (file,) = (tmp_path / "unet").glob("*.safetensors")
    file.with_name(f"{file.name}.sha256").write_text("0" * 64)
    with pytest.raises(ValueError, match=f"{file.name} is damaged"):
        WRAPPERS[kind](str(tmp_path))


@pytest.mark.parametrize("prefix", ["", "denoiser.unet."])
def test_a_file_of_its_weights(prefix, tmp_path):
    state = bare(seed=3).state_dict()
    file = {prefix + name: tensor for name, tensor in state.items()}
    torch.save({"state_dict": file}, tmp_path / "trained.ckpt")
    denoiser = wrapped(flags=Flags(frozen=True))
    denoiser.load(tmp_path / "trained.ckpt")
    assert all(torch.equal(denoiser.unet.state_dict()[k], v) for k, v in state.items())
    assert denoiser.source.startswith(f"{tmp_path / 'trained.ckpt'} ")


@pytest.mark.parametrize(
    ("name", "own", "there"),
    [("attention_head_dim", 2, 4), ("flip_sin_to_cos", True, False), ("norm_eps", 1e-5, 0.1)],
)
def test_a_run_of_other_settings_is_refused(name, own, there, tmp_path):
    """They are in the shape of no tensor."""
    state = {f"denoiser.{name}": tensor for name, tensor in wrapped().state_dict().items()}
    settings = {"denoiser": {name: there}}
    run = {"model": "lightning_modules.Diffusion", "state_dict": state, "trained_with": settings}
    torch.save(run, tmp_path / "trained.ckpt")
    wrapped(**{name: there}).load(tmp_path / "trained.ckpt")
    with pytest.raises(ValueError, match=rf"of its denoiser \({name} {own}, there {there}\)"):
        wrapped().load(tmp_path / "trained.ckpt")
