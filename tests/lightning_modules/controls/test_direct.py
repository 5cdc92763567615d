"""Direct inference, ScaleCrafter, Attn-SF: all steps at the target's size, on a frozen base."""

from __future__ import annotations

import json
import math

import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0
from torch import nn
from torch.testing import assert_close

from lightning_modules import Diffusion, Direct, KLSpace, PixelSpace, Schedule, UNet2D
from lightning_modules.backbone.library import Flags
from lightning_modules.controls.direct import AttnSF, self_attention, temperature
from lightning_modules.controls.scalecrafter import ScaleCrafter, Step, convolutions, redilated
from lightning_modules.noise import Noise
from lightning_modules.sampling.solvers import Sampler
from tests import make
from tests.lightning_modules.backbone.texts import Words
from tests.lightning_modules.backbone.unets import bare, base, noted, small_kl, wrapped

TWICE = Step(0, 50, (16, 16), (8, 8))  # the first of 50 steps at twice the base's sides


def direct(**settings):
    torch.manual_seed(0)
    sampler = Sampler(steps=4)  # timesteps 750, 500, 250 and 0, plus 1
    settings = {"denoiser": base(), "sampler": sampler} | settings
    return Direct(2.0, **settings).eval()


def generated(method):
    batch = make.batch(2, (16, 16), hr=(3, 16, 16)) | {"text": ["a", "aa"]}
    return method.generate(batch, Noise(batch["seed"]))


# ------------------------------------------------------------------------------- direct inference


@torch.no_grad()
def test_all_steps_are_at_the_outputs_size():
    method = direct(sampler=Sampler())
    calls = noted(method)

    generated(method)

    assert {call.z.shape for call in calls} == {(2, 3, 16, 16)}
    # By default 50 of 1000 timesteps: 980, 960, ... 0, plus 1 as in Stable Diffusion.
    assert [int(call.t[0]) for call in calls] == list(range(981, 0, -20))


def test_nothing_is_trained_and_an_untrained_base_is_refused():
    method = direct()
    assert not any(parameter.requires_grad for parameter in method.parameters())
    assert method.weights_source == "base.ckpt 0123456789abcdef"
    method.setup("test")

    method.denoiser.source = ""
    with pytest.raises(ValueError, match=r"a trained base is required"):
        method.setup("test")


def set_up(folder, trained, **settings):
    """Set a method up with a run of this base."""
    file = make.save_run(trained, folder / "base.ckpt")
    method = direct(denoiser_weights="runs/base", **settings)
    method.load_parts(lambda *_: file)
    method.setup("test")


def diffusion(**settings):
    return Diffusion(1.0, wrapped(null="learned"), **settings)


COSINE = Schedule(betas="squaredcos_cap_v2", prediction="v_prediction")


def test_a_base_is_accepted_with_the_process_of_its_run(tmp_path):
    set_up(tmp_path, diffusion())
    set_up(tmp_path, diffusion(schedule=COSINE), schedule=COSINE)
    set_up(tmp_path, diffusion(), schedule=Schedule(variance="exploding"))  # the same process


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"schedule": COSINE}, "there squared.*; prediction epsilon, there v_pred"),
        ({"schedule": Schedule(beta_end=0.02)}, r"beta_end 0\.012, there 0\.02\): set"),
        ({"space": PixelSpace(deviation=[0.5])}, r"deviation \[1\.0\], there \[0\.5\]\): set"),
        ({"timesteps": (0, 300)}, r"timesteps 0 to 299, counted from 0, and 751 to 1 are"),
        ({"timesteps": (100, 1000)}, r"timesteps 100 to 999, .* 751 to 1 are used"),
    ],
)
def test_a_base_of_another_process_is_refused(settings, message, tmp_path):
    """It would make noise without a word."""
    with pytest.raises(ValueError, match=message):
        set_up(tmp_path, diffusion(**settings))


def test_a_base_of_other_latents_is_refused(tmp_path):
    """The same weights may have another name."""
    theirs = KLSpace(small_kl())
    theirs.source = "autoencoder 0123456789abcdef"
    denoiser = wrapped(null="learned", in_channels=4, out_channels=4)
    trained = Diffusion(1.0, denoiser, space=theirs)
    four = base(in_channels=4, out_channels=4)
    ours = KLSpace(small_kl())
    ours.source = "one 0123456789abcdef"
    set_up(tmp_path, trained, denoiser=four, space=ours)

    ours.source = "two fedcba9876543210"
    with pytest.raises(ValueError, match=r"there autoencoder 0123"):
        set_up(tmp_path, trained, denoiser=four, space=ours)


@pytest.fixture
def with_scheduler(tmp_path):
    """Make a method whose base is a folder of diffusers with this scheduler."""

    def make_method(**settings):
        bare().save_pretrained(tmp_path / "unet")
        sd = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
        (tmp_path / "scheduler").mkdir(exist_ok=True)
        config = tmp_path / "scheduler" / "scheduler_config.json"
        config.write_text(json.dumps(sd | settings))
        return direct(denoiser=UNet2D(str(tmp_path), null_token="zero", flags=Flags(frozen=True)))

    return make_method


def test_the_scheduler_beside_a_base_is_compared(with_scheduler):
    """As of Stable Diffusion 2.1 of 768 px, which predicts v: its images would be noise."""
    with_scheduler(prediction_type="epsilon").setup("test")

    method = with_scheduler(prediction_type="v_prediction")
    with pytest.raises(ValueError, match="there v_prediction"):
        method.setup("test")
    with pytest.raises(ValueError, match="there v_prediction"):
        Diffusion(1.0, method.denoiser).setup("test")

    method = with_scheduler(rescale_betas_zero_snr=True)
    with pytest.raises(ValueError, match="rescale_betas_zero_snr False, there True"):
        method.setup("test")


# ------------------------------------------------------------------------------------ ScaleCrafter

DEEP = {"down_blocks": 2.0, "mid_block": 2.0}


@pytest.mark.parametrize("factor", [2, 3])
@torch.no_grad()
def test_dilation_is_a_convolution_of_each_phase(factor):
    conv = make.fill(nn.Conv2d(2, 3, 3, padding=1))
    x = make.normal(1, 2, 12, 18)

    with redilated(conv, factor):
        output = conv(x)

    for i in range(factor):
        for j in range(factor):
            assert_close(output[..., i::factor, j::factor], conv(x[..., i::factor, j::factor]))


@pytest.mark.parametrize("factor", [1.5, 4])
@pytest.mark.parametrize("stride", [1, 2])
def test_a_layer_is_as_before_afterwards_also_after_an_error(factor, stride):
    conv = nn.Conv2d(2, 3, 3, stride, padding=1)
    x = make.normal(1, 2, 8, 9)
    before = conv(x)

    with redilated(conv, factor):
        assert conv(x).shape == before.shape
    with pytest.raises(RuntimeError), redilated(conv, factor):
        conv(x[:, :1])

    assert torch.equal(conv(x), before)


def test_factors_fall_step_by_step_or_stay_and_are_1_from_tau_on():
    """Progressive ones are max(ceil(4 (37 - i) / 37), 2) at step i."""
    falling = ScaleCrafter(DEEP, tau=37, progressive=True)
    assert [falling.factor_at(i, 4) for i in (0, 9, 10, 18, 19, 36, 37)] == [4, 4, 3, 3, 2, 2, 1]
    same = ScaleCrafter(DEEP, tau=20)
    assert [same.factor_at(i, 2.5) for i in (0, 19, 20)] == [2.5, 2.5, 1]


def dilations(denoiser):
    return {name: layer.dilation[0] for name, layer in convolutions(denoiser.unet).items()}


def test_of_several_names_the_longest_counts():
    denoiser = base()
    patch = ScaleCrafter({"down_blocks": 2.0, "down_blocks.0.resnets": 3.0})

    with patch.applied(denoiser, TWICE):
        of_layers = dilations(denoiser)

    assert of_layers["down_blocks.0.resnets.0.conv1"] == 3
    assert of_layers["down_blocks.1.resnets.0.conv1"] == 2
    assert of_layers["mid_block.resnets.0.conv1"] == 1
    assert "conv_in" not in of_layers
    assert not any("shortcut" in name for name in of_layers)  # those are 1x1


@torch.no_grad()
def test_damped_guidance_runs_some_layers_undilated_in_a_call_more():
    patch = ScaleCrafter(DEEP, 4, damped_steps=2, damped_without=("down_blocks",))
    sampler = Sampler(steps=4, guidance=3.0)
    method = direct(patch=patch, sampler=sampler, encoder=Words())
    calls = []
    denoise = method.denoiser.forward

    def forward(z, *more):
        calls.append((len(z), dilations(method.denoiser)))
        return denoise(z, *more)

    method.denoiser.forward = forward
    generated(method)

    # Two images, with and without a text: 4; in each damped step first 2 without a text.
    assert [count for count, _ in calls] == [2, 4, 2, 4, 4, 4]
    _, damped = calls[0]
    _, others = calls[1]
    assert damped["down_blocks.0.resnets.0.conv1"] == 1
    assert others["down_blocks.0.resnets.0.conv1"] == 2
    assert damped["mid_block.resnets.0.conv1"] == 2
    assert others["mid_block.resnets.0.conv1"] == 2


# ----------------------------------------------------------------------------------------- Attn-SF


def test_temperatures_are_those_of_the_paper():
    """By level, for latents of 64 to 128 and to 256: of areas, not of sides."""
    to_128 = [temperature((128 >> n) ** 2, (64 >> n) ** 2) for n in range(4)]
    to_256 = [temperature((256 >> n) ** 2, (64 >> n) ** 2) for n in range(4)]
    assert to_128 == pytest.approx([1.0801, 1.0954, 1.1180, 1.1547], abs=5e-5)
    assert to_256 == pytest.approx([1.1547, 1.1832, 1.2247, 1.2910], abs=5e-5)


@pytest.mark.parametrize("processor", [AttnProcessor, AttnProcessor2_0])
@torch.no_grad()
def test_self_attention_has_the_temperature(processor):
    denoiser = base()
    layer = next(iter(self_attention(denoiser.unet).values()))
    layer.set_processor(processor())
    x = make.normal(2, 64, layer.to_q.in_features)

    with AttnSF().applied(denoiser, TWICE):
        output = layer(x)

    q = layer.to_q(x).unflatten(-1, (layer.heads, -1)).transpose(1, 2)
    k = layer.to_k(x).unflatten(-1, (layer.heads, -1)).transpose(1, 2)
    v = layer.to_v(x).unflatten(-1, (layer.heads, -1)).transpose(1, 2)
    # 64 positions, where the base has 16 at its own size.
    scale = math.sqrt(math.log(64) / math.log(16)) / math.sqrt(q.shape[-1])
    mixed = (q @ k.mT * scale).softmax(-1) @ v
    expected = layer.to_out[0](mixed.transpose(1, 2).flatten(2))
    assert_close(output, expected, rtol=1e-4, atol=1e-5)
    assert isinstance(layer.processor, processor)
