"""Direct inference, ScaleCrafter, Attn-SF: all steps at the target's size, on a frozen base."""

from __future__ import annotations

import json
import math

import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0
from torch import nn
from torch.nn import functional
from torch.testing import assert_close

from lightning_modules import Diffusion, Direct, KLSpace, PixelSpace, Schedule, UNet2D
from lightning_modules.backbone.condition import Condition
from lightning_modules.backbone.library import Flags
from lightning_modules.controls.direct import AttnSF, self_attention, temperature
from lightning_modules.controls.scalecrafter import (
    FreeU,
    ScaleCrafter,
    Step,
    convolutions,
    redilated,
)
from lightning_modules.noise import Noise
from lightning_modules.sampling.solvers import Sampler
from tests import make
from tests.lightning_modules.backbone.texts import Words
from tests.lightning_modules.backbone.unets import bare, base, inputs, noted, small_kl, wrapped

TWICE = Step(number=0, count=50, size=(16, 16), trained=(8, 8))


def direct(**settings):
    """A method of x2; its timesteps are 750, 500, 250 and 0, plus 1."""
    torch.manual_seed(0)
    settings = {"denoiser": base(), "sampler": Sampler(steps=4)} | settings
    return Direct(2.0, **settings).eval()


def generated(method):
    batch = make.batch(2, (16, 16), hr=(3, 16, 16)) | {"text": ["a", "aa"]}
    return method.generate(batch, Noise(batch["seed"]))


# ------------------------------------------------------------------------------- direct inference


@pytest.mark.parametrize("variance", ["preserving", "exploding"])
@torch.no_grad()
def test_all_steps_are_at_the_outputs_size_from_normal_noise(variance):
    """With either variance the network gets the first noise with a deviation of 1."""
    method = direct(schedule=Schedule(variance=variance))
    calls = noted(method)

    generated(method)

    assert_close(calls[0].z, Noise(torch.arange(2)).normal((2, 3, 16, 16)))
    assert {call.z.shape for call in calls} == {(2, 3, 16, 16)}
    assert [int(call.t[0]) for call in calls] == [751, 501, 251, 1]


def test_results_of_direct_inference_name_the_bases_weights():
    denoiser = base()
    assert direct(denoiser=denoiser).weights_source == denoiser.source


def test_an_untrained_base_is_refused():
    method = direct()
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
EXPLODING = Schedule(variance="exploding")


@pytest.mark.parametrize(("trained", "ours"), [(COSINE, COSINE), (Schedule(), EXPLODING)])
def test_a_base_is_accepted_with_the_process_of_its_run(trained, ours, tmp_path):
    """That is, `setup` raises nothing. An exploding variance is the same process, scaled."""
    set_up(tmp_path, diffusion(schedule=trained), schedule=ours)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"schedule": COSINE}, "there squared.*; prediction epsilon, there v_pred"),
        ({"schedule": Schedule(beta_end=0.02)}, r"beta_end 0\.012, there 0\.02\): set"),
        ({"space": PixelSpace(deviation=[0.5])}, r"deviation \[1\.0\], there \[0\.5\]\): set"),
        ({"timesteps": (0, 300)}, r"timesteps 0 to 299, counted from 0, and 751 to 1 are"),
        ({"timesteps": (100, 1000)}, r"timesteps 100 to 999, .* 751 to 1 are used"),
    ],
    ids=["schedule", "last beta", "space", "without the first steps", "without the last steps"],
)
def test_a_base_of_another_process_is_refused(settings, message, tmp_path):
    """Its outputs would be noise, without an error."""
    with pytest.raises(ValueError, match=message):
        set_up(tmp_path, diffusion(**settings))


def autoencoder(source):
    space = KLSpace(small_kl())
    space.source = source
    return space


def test_a_base_is_accepted_with_the_fingerprint_of_its_autoencoder_alone(tmp_path):
    """The same weights may have another name."""
    channels = {"in_channels": 4, "out_channels": 4}  # of small_kl
    trained = Diffusion(
        1.0, wrapped(null="learned", **channels), space=autoencoder("autoencoder 0123456789abcdef")
    )
    ours = {"denoiser": base(**channels), "space": autoencoder("renamed 0123456789abcdef")}
    set_up(tmp_path, trained, **ours)

    ours["space"].source = "autoencoder fedcba9876543210"
    with pytest.raises(ValueError, match=r"there autoencoder 0123"):
        set_up(tmp_path, trained, **ours)


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


def test_a_base_whose_folder_has_our_scheduler_is_accepted(with_scheduler):
    with_scheduler(prediction_type="epsilon").setup("test")


def test_a_base_whose_folder_has_another_prediction_is_refused(with_scheduler):
    """As of Stable Diffusion 2.1 of 768 px, which predicts v: outputs would be noise."""
    method = with_scheduler(prediction_type="v_prediction")
    with pytest.raises(ValueError, match="there v_prediction"):
        method.setup("test")
    with pytest.raises(ValueError, match="there v_prediction"):
        Diffusion(1.0, method.denoiser).setup("test")


def test_a_base_whose_folder_has_a_zero_terminal_snr_is_refused(with_scheduler):
    method = with_scheduler(rescale_betas_zero_snr=True)
    with pytest.raises(ValueError, match="rescale_betas_zero_snr False, there True"):
        method.setup("test")


# ------------------------------------------------------------------------------------ ScaleCrafter

DEEP = {"down_blocks": 2.0, "mid_block": 2.0}


@pytest.mark.parametrize("factor", [2, 3])
@torch.no_grad()
def test_a_dilated_convolution_is_the_convolution_of_every_nth_pixel(factor):
    conv = make.fill(nn.Conv2d(2, 3, 3, padding=1))
    x = make.normal(1, 2, 12, 18)

    with redilated(conv, factor):
        output = conv(x)

    for i in range(factor):
        for j in range(factor):
            assert_close(output[..., i::factor, j::factor], conv(x[..., i::factor, j::factor]))


@torch.no_grad()
def test_a_fractional_dilation_is_a_whole_one_of_the_enlarged_input():
    """By 1.5: dilated by 2, of an input enlarged by 2 / 1.5."""
    conv = make.fill(nn.Conv2d(2, 3, 3, padding=1))
    x = make.normal(1, 2, 12, 18)

    with redilated(conv, 1.5):
        output = conv(x)

    larger = functional.interpolate(x, (16, 24), mode="bilinear")
    dilated = functional.conv2d(larger, conv.weight, conv.bias, padding=2, dilation=2)
    assert_close(output, functional.interpolate(dilated, (12, 18), mode="bilinear"))


@pytest.mark.parametrize("factor", [1.5, 4])
@pytest.mark.parametrize("stride", [1, 2])
def test_a_redilated_convolution_keeps_its_outputs_size(factor, stride):
    conv = nn.Conv2d(2, 3, 3, stride, padding=1)
    x = make.normal(1, 2, 8, 9)
    size = conv(x).shape
    with redilated(conv, factor):
        assert conv(x).shape == size


@pytest.mark.parametrize("factor", [1.5, 4])
def test_redilation_ends_with_its_context_even_after_an_error(factor):
    conv = nn.Conv2d(2, 3, 3, padding=1)
    x = make.normal(1, 2, 8, 9)
    before = conv(x)

    with pytest.raises(RuntimeError), redilated(conv, factor):
        conv(x[:, :1])  # one channel of two

    assert torch.equal(conv(x), before)


def test_progressive_factors_of_dilation_fall_to_2_and_are_1_from_tau_on():
    """max(ceil(4 (37 - i) / 37), 2) at step i."""
    patch = ScaleCrafter(DEEP, tau=37, progressive=True)
    assert [patch.factor_at(i, 4) for i in (0, 9, 10, 18, 19, 36, 37)] == [4, 4, 3, 3, 2, 2, 1]


def test_the_factor_of_dilation_is_the_same_up_to_tau():
    patch = ScaleCrafter(DEEP, tau=20)
    assert [patch.factor_at(i, 2.5) for i in (0, 19, 20)] == [2.5, 2.5, 1]


def dilations(denoiser):
    return {name: layer.dilation[0] for name, layer in convolutions(denoiser.unet).items()}


def test_a_layer_has_the_factor_of_the_longest_name_that_it_begins_with():
    denoiser = base()
    patch = ScaleCrafter({"down_blocks": 2.0, "down_blocks.0.resnets": 3.0})

    with patch.applied(denoiser, TWICE):
        of_layers = dilations(denoiser)

    assert of_layers["down_blocks.0.resnets.0.conv1"] == 3
    assert of_layers["down_blocks.1.resnets.0.conv1"] == 2
    assert of_layers["mid_block.resnets.0.conv1"] == 1


def test_only_3x3_convolutions_between_the_first_and_the_last_layer_can_be_dilated():
    names = convolutions(base().unet)
    assert "conv_in" not in names
    assert not any("shortcut" in name for name in names)  # those are 1x1


@torch.no_grad()
def test_damped_steps_have_a_further_call_with_some_layers_undilated():
    """Noise-damped guidance: there a less dilated network predicts without the caption."""
    patch = ScaleCrafter(DEEP, tau=4, damped_steps=2, damped_without=("down_blocks",))
    sampler = Sampler(steps=4, guidance=3.0)
    method = direct(patch=patch, sampler=sampler, encoder=Words())
    calls = []
    denoise = method.denoiser.forward

    def forward(z, *more):
        of_layers = dilations(method.denoiser)
        down = of_layers["down_blocks.0.resnets.0.conv1"]
        middle = of_layers["mid_block.resnets.0.conv1"]
        calls.append((len(z), down, middle))
        return denoise(z, *more)

    method.denoiser.forward = forward
    generated(method)

    further = (2, 1, 2)  # two images without captions; the way down is not dilated
    guidance = (4, 2, 2)  # the two images without and with captions
    assert calls == [further, guidance, further, guidance, guidance, guidance]


def test_damped_guidance_adds_the_captions_difference_in_the_dilated_network():
    """less dilated (without) + guidance * (dilated (with) - dilated (without the caption))."""
    denoiser = base()
    patch = ScaleCrafter(DEEP, tau=4, damped_steps=2, damped_without=("down_blocks",))
    text = Condition(text=torch.full((1, 1, 1), 5.0))
    nothing = Condition(text=torch.full((1, 1, 1), 3.0))

    def predict(z, t, condition):
        """The text times the dilation of a layer, 1 or 2."""
        return condition.text[:, 0] * dilations(denoiser)["down_blocks.0.resnets.0.conv1"]

    z = t = torch.zeros(1, 1)
    raw = patch.guided(denoiser, TWICE, predict, z, t, (text, nothing), guidance=7.0)

    assert raw.item() == 1 * 3 + 7 * (2 * 5 - 2 * 3)


@torch.no_grad()
def test_freeu_scales_half_of_the_backbone_and_the_lowest_frequencies_of_the_skip():
    """By b1 and s1 where the backbone has most channels, 16, and by b2 and s2 where it has 8.

    A layer's input has first the backbone's channels, then as many as the skip connection has.
    """
    denoiser = base()
    z, t, text = inputs()
    layers = [layer for block in denoiser.unet.up_blocks for layer in block.resnets]
    before = []
    after = []
    for layer in layers:
        layer.register_forward_pre_hook(lambda _, args: before.append(args[0]))
    freeu = FreeU(b1=1.1, s1=0.9, b2=1.2, s2=0.2)

    with ScaleCrafter({}, freeu=freeu).applied(denoiser, TWICE):
        for layer in layers:  # these hooks run behind those of the patch
            layer.register_forward_pre_hook(lambda _, args: after.append(args[0]))
        denoiser(z, t, Condition(text=text))

    wide = (16, freeu.b1, freeu.s1)
    narrow = (8, freeu.b2, freeu.s2)
    for number, (width, b, s) in enumerate([wide, wide, wide, narrow]):
        expected = before[number].clone()
        expected[:, : width // 2] *= b
        spectrum = torch.fft.fftshift(torch.fft.fft2(expected[:, width:]), (2, 3))
        h, w = spectrum.shape[-2:]  # the lowest frequencies are those around the middle
        spectrum[..., h // 2 - 1 : h // 2 + 1, w // 2 - 1 : w // 2 + 1] *= s
        expected[:, width:] = torch.fft.ifft2(torch.fft.ifftshift(spectrum, (2, 3))).real
        assert_close(after[number], expected, rtol=1e-4, atol=1e-5)


# ----------------------------------------------------------------------------------------- Attn-SF


def test_temperatures_of_attention_are_those_of_the_paper():
    """sqrt(log N / log T), of N positions where the base was trained for T.

    By level, each of half the side, for latents of 128 and of 256, and a base of 64.
    """
    to_128 = [temperature((128 >> n) ** 2, (64 >> n) ** 2) for n in range(4)]
    to_256 = [temperature((256 >> n) ** 2, (64 >> n) ** 2) for n in range(4)]
    assert to_128 == pytest.approx([1.0801, 1.0954, 1.1180, 1.1547], abs=5e-5)
    assert to_256 == pytest.approx([1.1547, 1.1832, 1.2247, 1.2910], abs=5e-5)


@pytest.mark.parametrize("processor", [AttnProcessor, AttnProcessor2_0])
@torch.no_grad()
def test_self_attention_is_scaled_by_the_temperature(processor):
    """sqrt(log 64 / log 16): of 64 positions here, and of 16 at the base's own size."""
    denoiser = base()
    layer = next(iter(self_attention(denoiser.unet).values()))
    layer.set_processor(processor())
    x = make.normal(2, 64, layer.to_q.in_features)

    with AttnSF().applied(denoiser, TWICE):
        output = layer(x)

    q = layer.to_q(x).unflatten(-1, (layer.heads, -1)).transpose(1, 2)
    k = layer.to_k(x).unflatten(-1, (layer.heads, -1)).transpose(1, 2)
    v = layer.to_v(x).unflatten(-1, (layer.heads, -1)).transpose(1, 2)
    scale = math.sqrt(math.log(64) / math.log(16)) / math.sqrt(q.shape[-1])
    mixed = (q @ k.mT * scale).softmax(-1) @ v
    expected = layer.to_out[0](mixed.transpose(1, 2).flatten(2))
    assert_close(output, expected, rtol=1e-4, atol=1e-5)
    assert isinstance(layer.processor, processor)
