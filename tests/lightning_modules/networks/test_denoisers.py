"""Networks of ResShift, CasArbi, InvSR and Self-Cascade, against their equations and releases."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.testing import assert_close

from lightning_modules import NoisePredictor, SFTUNet, Shared, SwinUNet
from lightning_modules.networks.feature_upsampler import TIME_WIDTH, Full, Places
from lightning_modules.networks.sft_unet import Modulation, coordinates, fourier
from lightning_modules.networks.swin_unet import (
    SwinBlock,
    WindowAttention,
    from_official,
    released_mask,
    to_windows,
    wrap_mask,
)
from tests import make
from tests.make import assert_near

# ------------------------------------------------------------------------------ ResShift's SwinUNet

SWIN = {"width": 32, "multipliers": (1, 2), "size": 32, "swin_width": 48, "heads": 3}
WINDOWS = {"window": 8, "shift": 4}  # the default of SwinUNet


def official(network, mask_of):
    """The tensors of a network by the names of a released file, with its tables and masks."""
    tensors = dict(network.state_dict())
    tensors.pop("released_mask", None)  # which is ours
    for name, module in network.named_modules():
        if isinstance(module, SwinBlock):
            tensors[f"{name}.attn.relative_position_index"] = torch.zeros(64, 64).long()  # unused
            if module.shift:  # the file shows the mask by that of a latent of some size
                tensors[f"{name}.attn_mask"] = mask_of(h=16, w=16, **WINDOWS)
    return tensors


@pytest.mark.parametrize(("mask", "mask_of"), [("released", released_mask), ("correct", wrap_mask)])
@pytest.mark.parametrize("file", ["released", "ours"])
@torch.no_grad()
def test_weights_are_loaded_with_the_mask_that_they_were_trained_with(mask, mask_of, file):
    """ResShift's code masks the wrong pairs of pixels; weights that learnt so need the same mask.

    Released files contain the mask itself, and ours a mark for the released one.
    """
    trained = make.fill(SwinUNet(**SWIN)).eval()
    trained.set_mask(mask)
    tensors = trained.state_dict()
    if file == "released":
        tensors = from_official(official(trained, mask_of))
    network = SwinUNet(**SWIN).eval()

    network.load_state_dict(tensors)

    assert {block.mask for block in network.modules() if isinstance(block, SwinBlock)} == {mask}
    x = make.normal(1, 3, 32, 32)
    t = torch.tensor([3])
    assert_close(network(x, t, x), trained(x, t, x))


def test_window_attention_is_the_softmax_of_products_bias_and_mask():
    """Of each of 3 heads of 4 channels: softmax(q k / sqrt(4) + bias + mask) v, pixel by pixel."""
    torch.manual_seed(0)
    attention = WindowAttention(width=12, heads=3, window=4)
    x = torch.randn(2, 2, 16, 12)  # images, windows, pixels, channels
    mask = -100 * (torch.rand(2, 16, 16) < 0.3).float()
    mask.diagonal(dim1=1, dim2=2).zero_()

    output = attention(x, mask)[1, 1]  # the second window of the second image

    q, k, v = attention.qkv(x[1, 1]).view(16, 3, 3, 4).permute(1, 2, 0, 3)
    table = attention.relative_position_bias_table
    expected = torch.zeros(16, 12)
    for head in range(3):
        for i in range(16):
            logits = q[head, i] @ k[head].T / math.sqrt(4) + mask[1, i]
            for j in range(16):
                row = i // 4 - j // 4 + 3  # offsets are -3 to 3
                column = i % 4 - j % 4 + 3
                logits[j] = logits[j] + table[row * 7 + column, head]
            expected[i, 4 * head : 4 * head + 4] = logits.softmax(0) @ v[head]
    assert_close(output, attention.proj(expected), rtol=1e-4, atol=1e-5)


def test_windows_are_shifted_and_their_outputs_shifted_back():
    """Those of 8 pixels begin at 4: a pixel in the second changes the pixels from 4 to 11."""
    block = make.fill(SwinBlock(width=12, heads=3, **WINDOWS))
    block.norm1 = block.norm2 = nn.Identity()  # else a change is seen everywhere
    x = make.normal(1, 12, 16, 16)
    with_another_pixel = x.clone()
    with_another_pixel[..., 5, 6] += 1

    is_changed = (block(with_another_pixel) != block(x)).any(1)[0]

    expected = torch.zeros(16, 16, dtype=torch.bool)
    expected[4:12, 4:12] = True
    assert torch.equal(is_changed, expected)


@pytest.mark.parametrize(("h", "w"), [(16, 16), (24, 16)])
def test_the_correct_mask_separates_pixels_that_only_wrapping_made_neighbours(h, w):
    """Pixels of a window see each other if they are less than a window apart in the image, too."""
    places = torch.stack(torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij"))
    rolled = places[None].float().roll((-4, -4), (2, 3))  # by the shift
    windows = to_windows(rolled, 8)[0]  # (windows, pixels, 2)
    distances = (windows[:, :, None] - windows[:, None]).abs().amax(-1)
    assert torch.equal(wrap_mask(h, w, **WINDOWS) == 0, distances < 8)


def test_the_released_mask_separates_columns_of_the_last_row_of_windows_alone():
    """A fault of ResShift's code, which released weights were trained with.

    Rows that only wrapping made neighbours still see each other, as do all pixels of other windows.
    """
    mask = released_mask(h=64, w=128, **WINDOWS)  # 8 x 16 windows of 8 x 8 pixels
    is_masked = (mask != 0).flatten(1).any(1).view(8, 16)
    assert is_masked[-1].all()
    assert not is_masked[:-1].any()
    last = mask[-1].view(8, 8, 8, 8)  # row and column of a pixel, and of one that it may see
    assert last[0, 3, 7, 0] == 0  # a row from the other side of the image
    assert last[0, 3, 0, 4] == -100  # a column from there; added to a logit: no attention


def test_with_a_patch_of_2_sides_of_latents_must_be_multiples_of_twice_as_much():
    assert SwinUNet(**SWIN, patch=2).divisor == 2 * SwinUNet(**SWIN).divisor


def test_with_a_patch_of_2_a_change_of_one_pixel_is_seen_in_the_whole_output():
    """Squares of 2 x 2 pixels become channels; norms over whole maps spread what changes in one."""
    model = make.fill(SwinUNet(**SWIN, patch=2, condition_factor=0.5)).eval()
    x = make.normal(1, 3, 32, 64)
    t = torch.tensor([3])
    lr = make.uniform(1, 3, 16, 32)
    with_another_pixel = x.clone()
    with_another_pixel[..., 5, 6] += 1

    output = model(x, t, lr)

    assert output.shape == x.shape
    is_changed = (model(with_another_pixel, t, lr) != output).any(1)
    assert is_changed.all()


# ------------------------------------------------------------------------------ CasArbi's SFTUNet


def test_the_default_sft_unet_has_four_levels_of_64_to_512_channels():
    """Ours, as CasArbi's sizes are not public."""
    with torch.device("meta"):
        model = SFTUNet()
    assert model.first.in_channels == 3 + 3 + 16  # two images, and the reduced features
    assert [layer.gamma.out_channels for layer in model.modulate_down] == [64, 128, 256, 512]
    assert [layer.gamma.out_channels for layer in model.modulate_up] == [512, 256, 128, 64]


def test_what_a_modulation_adds_does_not_grow_with_the_features():
    """Else the levels of a U-Net multiply them, in training without bound."""
    modulation = make.fill(Modulation(width=8, channels=16))
    place = make.normal(1, 8, 6, 6)
    features = make.normal(1, 16, 6, 6).double()
    modulation.double()

    added = modulation(features, place.double()) - features
    large = 1000 * features
    added_to_large = modulation(large, place.double()) - large

    assert added.abs().max() > 0.1  # the weights are not zero, as before training
    assert_near(added_to_large, added, 1e-4)  # not equal, by the norm's epsilon


def test_with_a_patch_of_4_a_square_of_pixels_gets_the_lr_features_at_its_middle():
    """Also if the last square reaches beyond the image: 85 rows are 22 squares of 4 rows.

    Stretched to the 88 rows of the squares, features would lie beside the pixels they describe.
    """
    settings = {"features": 8, "width": 8, "multipliers": (1, 2, 4), "blocks": 1}
    model = make.fill(SFTUNet(**settings, patch=4)).eval()
    inputs = []  # the last 16 channels of the first layer's, the reduced features
    model.first.register_forward_pre_hook(lambda _, args: inputs.append(args[0][:, -16:]))
    features = make.normal(2, 8, 21, 22)  # LR has 21 rows, and a column for each square
    x = make.normal(2, 3, 85, 88)

    model(x, torch.tensor([1, 9]), x, features, lr_size=(21, 22))

    middles = [4 * square + 2 for square in range(22)]  # in rows of the image
    lr_rows = [min(int(middle * 21 / 85), 20) for middle in middles]
    assert torch.equal(inputs[0], model.reduce(features)[:, :, lr_rows])


# At x1.5 every third centre is halfway between two LR rows, and either could be used.
@pytest.mark.parametrize(("lr_rows", "rows"), [(8, 12), (64, 85)], ids=["x1.5", "x1.33"])
def test_coordinates_are_offsets_from_the_lr_row_whose_features_are_used(lr_rows, rows):
    """In half LR pixels, so from -1 to 1. Features are those of the nearest row."""
    numbers = torch.arange(float(lr_rows)).view(1, 1, lr_rows)
    nearest = functional.interpolate(numbers, rows, mode="nearest-exact")[0, 0]
    centres = (torch.arange(rows) + 0.5) * (lr_rows / rows) - 0.5  # in LR rows

    box = ((0.0, lr_rows), (0.0, 2.0))  # all rows and columns of LR
    offsets = coordinates((lr_rows, 2), (rows, 2), [box], torch.device("cpu"))[0, 0, :, 0]

    assert_near(offsets, 2 * (centres - nearest), 1e-4)


def test_fourier_features_are_offsets_and_cell_and_then_waves_of_the_offsets():
    """Of two frequencies: sin and cos of pi d and of 2 pi d."""
    place = torch.tensor([0.25, -0.5, 1.0, 2.0])  # two offsets, then two sides of the cell
    angles = math.pi * place[:2]
    waves = [angles.sin(), angles.cos(), (2 * angles).sin(), (2 * angles).cos()]
    assert_near(fourier(place.view(1, 4, 1, 1), 2).flatten(), torch.cat([place, *waves]), 1e-6)


# ------------------------------------------------------------------------- InvSR's noise predictor


def small_predictor(layers=1):
    torch.manual_seed(0)
    return NoisePredictor(widths=(32, 64), layers=layers, head_width=16).eval()


def by_hand(weights, lr, t):
    """The paper's figure for two levels of 32 and 64 channels and heads of 16, from the weights."""

    def of(name):
        return weights[f"encoder.{name}.weight"], weights[f"encoder.{name}.bias"]

    def linear(name, x):
        return functional.linear(x, *of(name))

    def conv(name, x, stride=1, padding=1):
        return functional.conv2d(x, *of(name), stride, padding)

    def norm(name, x):
        return functional.group_norm(x, 32, *of(name), 1e-6)

    def residual(name, x):
        y = conv(f"{name}.conv1", functional.silu(norm(f"{name}.norm1", x)))
        y = y + linear(f"{name}.time_emb_proj", time)[:, :, None, None]
        y = conv(f"{name}.conv2", functional.silu(norm(f"{name}.norm2", y)))
        if x.shape[1] != y.shape[1]:
            x = conv(f"{name}.conv_shortcut", x, padding=0)
        return x + y

    def heads(name, pixels):
        return linear(name, pixels).unflatten(2, (-1, 16)).transpose(1, 2)

    def attention(name, x):
        pixels = norm(f"{name}.group_norm", x).flatten(2).mT
        q = heads(f"{name}.to_q", pixels)
        k = heads(f"{name}.to_k", pixels)
        v = heads(f"{name}.to_v", pixels)
        mixed = (q @ k.mT / math.sqrt(16)).softmax(3) @ v
        y = linear(f"{name}.to_out.0", mixed.transpose(1, 2).flatten(2))
        return x + y.mT.reshape(x.shape)

    angles = t[:, None] * torch.exp(-math.log(10_000) * torch.arange(16) / 16)
    waves = torch.cat([angles.cos(), angles.sin()], 1)
    hidden = functional.silu(linear("time_embedding.linear_1", waves))
    time = functional.silu(linear("time_embedding.linear_2", hidden))
    x = conv("conv_in", 2 * lr - 1)
    for level in range(2):
        for number in range(2):
            x = residual(f"down_blocks.{level}.resnets.{number}", x)
            x = attention(f"down_blocks.{level}.attentions.{number}", x)
        if level == 0:  # zeros on the right and below alone
            x = functional.pad(x, (0, 1, 0, 1))
            x = conv("down_blocks.0.downsamplers.0.conv", x, stride=2, padding=0)
    x = residual("mid_block.resnets.0", x)
    x = attention("mid_block.attentions.0", x)
    x = residual("mid_block.resnets.1", x)
    return conv("conv_out", functional.silu(norm("conv_norm_out", x)))


def test_the_noise_predictor_computes_the_papers_figure():
    model = small_predictor(layers=2)
    lr = make.uniform(2, 3, 6, 4)
    t = torch.tensor([249.0, 99.5])

    mean, logvar = model(lr, t)

    expected = by_hand(model.state_dict(), lr, t)
    assert_close(mean, expected[:, :4], rtol=1e-4, atol=1e-5)
    assert_close(logvar, expected[:, 4:], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("scale", "first_level"), [(8, 8), (4, 16), (2, 16), (1, 16)])
def test_levels_of_a_noise_predictor_are_as_small_at_x1_and_x2_as_at_x4(scale, first_level):
    """LR is larger there: pixels are folded into channels first, as attention would be slow.

    At x8, LR itself is smaller.
    """
    model = small_predictor()
    model.fit_to(scale, factor=8)
    sides = []
    attention = model.encoder.down_blocks[0].attentions[0]
    attention.register_forward_pre_hook(lambda _, args: sides.append(args[0].shape[-1]))

    lr = torch.rand(1, 3, 64 // scale, 64 // scale)  # of an output of 64 px and a latent of 8
    noise = model.eval()(lr, t=100)

    assert noise.mean.shape == (1, 4, 8, 8)
    assert sides == [first_level]
    assert model.divisor == 8 // scale


def test_a_frozen_noise_predictor_stays_frozen_when_it_is_fitted_to_another_scale():
    """Fitting builds new layers, and new layers are trainable by default."""
    model = small_predictor().requires_grad_(False)
    model.fit_to(scale=2, factor=8)
    assert not any(weight.requires_grad for weight in model.parameters())


def test_a_noise_predictor_folds_squares_of_4x4_lr_pixels_into_channels_at_scale_1():
    """From LR to a latent of 1/8 sides halve three times: twice by folding, once in the levels."""
    model = small_predictor()
    model.fit_to(scale=1, factor=8)
    folded = []
    model.encoder.conv_in.register_forward_pre_hook(lambda _, args: folded.append(args[0]))
    lr = torch.rand(1, 3, 16, 16)

    model(lr, t=100)

    assert torch.equal(folded[0], functional.pixel_unshuffle(2 * lr - 1, 4))


def test_the_log_variance_of_the_noise_is_clamped_to_between_minus_30_and_20():
    """The bounds of diffusers' DiagonalGaussianDistribution; beyond, a deviation may overflow."""
    model = small_predictor()
    # Of the eight channels the first four are the mean, and the others the log variance.
    model.encoder.conv_out.bias.data[4:6] = torch.tensor([1000.0, -1000.0])
    logvar = model(torch.rand(1, 3, 4, 4), t=100).logvar
    assert (logvar[:, 0] == 20).all()
    assert (logvar[:, 1] == -30).all()


# ---------------------------------------------------------------- Self-Cascade's feature upsamplers

PLACES = Places({"1": 6, "middle": 8}, 16)
SIZES = {"1": (11, 8), "middle": (6, 4)}
FEATURES = {"1": make.normal(2, 6, 5, 4), "middle": make.normal(2, 8, 3, 2)}


def sinusoid(t, width):
    """Sines, then cosines, of wavelengths from 2 pi."""
    frequencies = torch.exp(-math.log(10_000) / (width // 2) * torch.arange(width // 2))
    angles = t[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], 1)


T = torch.tensor([5, 600])


def added_by(upsampler):
    """What it adds at the timesteps T: `Shared` gets T itself, `Full` the U-Net's embedding."""
    time = sinusoid(T, PLACES.embedding) if upsampler.from_network else T
    return upsampler(FEATURES, SIZES, time)


def test_an_untrained_shared_upsampler_adds_zero_but_has_gradients():
    """So training starts from the base's own outputs; zeros must not stop it there."""
    upsampler = Shared(PLACES)
    added = added_by(upsampler)
    assert not added["1"].any()
    assert not added["middle"].any()

    (added["1"].sum() + added["middle"].sum()).backward()
    assert any(parameter.grad.any() for parameter in upsampler.parameters())


@pytest.mark.parametrize(
    ("mode", "in_torch"), [("bilinear", "bilinear"), ("nearest", "nearest-exact")]
)
def test_untrained_released_upsamplers_add_the_enlarged_features(mode, in_torch):
    """Their last convolutions begin as zeros. Torch's `nearest` shifts by up to half a pixel."""
    added = added_by(Full(PLACES, resize=mode))
    for name, feature in FEATURES.items():
        assert torch.equal(added[name], functional.interpolate(feature, SIZES[name], mode=in_torch))


@torch.no_grad()
def test_released_upsamplers_are_two_residual_blocks_of_which_the_first_enlarges():
    """x + conv2(SiLU(norm2(conv1(SiLU(norm1(x))) + W SiLU(time))))."""
    upsampler = make.fill(Full(PLACES, resize="bilinear"))
    time = functional.silu(sinusoid(T, PLACES.embedding))

    added = added_by(upsampler)["middle"]

    x = functional.interpolate(FEATURES["middle"], SIZES["middle"], mode="bilinear")
    first, second = upsampler.places["middle"].blocks
    inner = functional.silu(first.norm1(FEATURES["middle"]))
    inner = first.conv1(functional.interpolate(inner, SIZES["middle"], mode="bilinear"))
    inner = inner + first.time(time)[:, :, None, None]
    x = x + first.conv2(functional.silu(first.norm2(inner)))
    inner = second.conv1(functional.silu(second.norm1(x))) + second.time(time)[:, :, None, None]
    expected = x + second.conv2(functional.silu(second.norm2(inner)))
    assert_close(added, expected, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_shared_blocks_process_each_channel_as_an_image_of_its_own():
    """Two blocks x + conv2(SiLU(conv1(x) + W time)), then the learned factor alpha."""
    upsampler = make.fill(Shared(PLACES))
    time = sinusoid(T, TIME_WIDTH)
    place = upsampler.places["1"]

    added = added_by(upsampler)["1"]

    x = functional.interpolate(FEATURES["1"], SIZES["1"], mode="bilinear")
    for block in place.blocks:
        inner = block.conv1(x.flatten(0, 1)[:, None])
        inner = inner.unflatten(0, (2, 6))  # images, channels
        inner = inner + block.time(time)[:, None, :, None, None]
        x = x + block.conv2(functional.silu(inner).flatten(0, 1)).view_as(x)
    assert_close(added, place.alpha * x, rtol=1e-4, atol=1e-4)
