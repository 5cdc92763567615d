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
            tensors[f"{name}.attn.relative_position_index"] = torch.zeros(64, 64).long()
            if module.shift:
                tensors[f"{name}.attn_mask"] = mask_of(16, 16, **WINDOWS)
    return tensors


@pytest.mark.parametrize(("mask", "mask_of"), [("released", released_mask), ("correct", wrap_mask)])
@pytest.mark.parametrize("file", ["released", "ours"])
@torch.no_grad()
def test_weights_are_loaded_with_the_mask_that_they_were_trained_with(mask, mask_of, file):
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
    mask = released_mask(64, 128, **WINDOWS)  # 8 x 16 windows of 8 x 8 pixels
    is_masked = (mask != 0).flatten(1).any(1).view(8, 16)
    assert is_masked[-1].all()
    assert not is_masked[:-1].any()
    last = mask[-1].view(8, 8, 8, 8)  # row and column of a pixel, and of one that it may see
    assert last[0, 3, 7, 0] == 0  # another row
    assert last[0, 3, 0, 4] == -100  # a column from the other side


def test_with_a_patch_of_2_sides_are_twice_the_multiples_and_all_pixels_are_seen():
    model = make.fill(SwinUNet(**SWIN, patch=2, condition_factor=0.5)).eval()
    assert model.divisor == 2 * SwinUNet(**SWIN).divisor
    x = make.normal(1, 3, 32, 64)
    t = torch.tensor([3])
    lr = make.uniform(1, 3, 16, 32)
    with_another_pixel = x.clone()
    with_another_pixel[..., 5, 6] += 1

    output = model(x, t, lr)

    assert output.shape == x.shape
    difference = (model(with_another_pixel, t, lr) - output).abs().amax((0, 1))
    assert (difference > 0).float().mean() > 0.9  # of the pixels


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


def test_a_position_of_several_pixels_has_the_features_at_its_middle():
    """Also where the last one reaches beyond the image, as at 85 rows, of 22 positions of 4 px."""
    settings = {"features": 8, "width": 8, "multipliers": (1, 2, 4), "blocks": 1}
    model = make.fill(SFTUNet(**settings, patch=4)).eval()
    inputs = []  # the last 16 channels of the first layer's, the reduced features
    model.first.register_forward_pre_hook(lambda _, args: inputs.append(args[0][:, -16:]))
    features = make.normal(2, 8, 22, 22)
    x = make.normal(2, 3, 85, 88)

    model(x, torch.tensor([1, 9]), x, features, (22, 22))

    # The row of the 22 of features at the middle, 4 * position + 2, of the 85 of the image.
    rows = [min(int((4 * position + 2) * 22 / 85), 21) for position in range(22)]
    assert rows[15] == 16  # 15 if the features were stretched to the 88 rows of the positions
    assert torch.equal(inputs[0], model.reduce(features)[:, :, rows])


# At x1.5 a third of the pixels lie in the middle of two of LR: ties, to be decided alike.
@pytest.mark.parametrize(("n", "m"), [pytest.param(8, 12, id="x1.5"), (64, 85)])
def test_coordinates_are_offsets_from_the_pixel_whose_features_are_there(n, m):
    """Of m rows, of an image of n rows."""
    numbers = torch.arange(n).float().view(1, 1, n, 1).expand(1, 1, n, 2)
    nearest = functional.interpolate(numbers, (m, 2), mode="nearest-exact")[0, 0, :, 0]
    centres = (torch.arange(m) + 0.5) * (n / m) - 0.5

    box = ((0.0, n), (0.0, 2.0))
    offsets = coordinates((n, 2), (m, 2), [box], torch.device("cpu"))[0, 0, :, 0]

    assert_near(offsets, 2 * (centres - nearest), 1e-4)  # in half pixels: from -1 to 1


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


# From LR of 64 / scale to latents of 64 / 8.
@pytest.mark.parametrize(("scale", "halvings"), [(8, 0), (4, 1), (2, 2), (1, 3)])
def test_fitted_to_a_scale_the_levels_see_as_many_pixels_as_at_scale_4(scale, halvings):
    model = small_predictor().requires_grad_(False)
    model.fit_to(scale, factor=8)
    sides = []
    first = model.encoder.down_blocks[0].attentions[0]
    first.register_forward_pre_hook(lambda _, args: sides.append(args[0].shape[-1]))

    noise = model.eval()(torch.rand(1, 3, 64 // scale, 64 // scale), 100)

    assert noise.mean.shape == (1, 4, 8, 8)
    assert sides == [8 if scale == 8 else 16]  # at scale 8, LR is as small as the latent
    assert model.divisor == 2**halvings
    assert model.fold == 2 ** max(halvings - 1, 0)  # the levels halve once themselves
    assert not any(weight.requires_grad for weight in model.parameters())  # it stays frozen


def test_folding_keeps_every_pixel_in_its_place():
    """A change of one LR pixel changes the folded pixel that holds it."""
    model = small_predictor()
    model.fit_to(1, factor=8)
    assert model.fold == 4
    folded = []
    model.encoder.conv_in.register_forward_pre_hook(lambda _, args: folded.append(args[0]))
    lr = torch.rand(1, 3, 16, 16)
    with_another_pixel = lr.clone()
    with_another_pixel[0, 1, 6, 9] += 0.5  # green, at row 6 and column 9

    model(lr, 100)
    model(with_another_pixel, 100)

    before, after = folded
    green = 4 * 4  # after the channels of red
    channel = green + 4 * (6 % 4) + 9 % 4
    assert (after - before).nonzero().tolist() == [[0, channel, 6 // 4, 9 // 4]]
    assert torch.equal(before.flatten().sort().values, (lr * 2 - 1).flatten().sort().values)


def test_the_log_variance_is_clamped_to_between_minus_30_and_20():
    """Its channels follow the four of the mean."""
    model = small_predictor()
    model.encoder.conv_out.bias.data[4:6] = torch.tensor([1000.0, -1000.0])
    logvar = model(torch.rand(1, 3, 4, 4), 100).logvar
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
    """What it adds at the timesteps: of ours the numbers, of the other their embedding."""
    time = sinusoid(T, PLACES.embedding) if upsampler.from_network else T
    return upsampler(FEATURES, SIZES, time)


def test_an_untrained_shared_upsampler_adds_nothing_but_learns():
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
def test_shared_blocks_get_each_channel_as_an_image():
    """Two blocks x + conv2(SiLU(conv1(x) + W time)), and a factor alpha."""
    upsampler = make.fill(Shared(PLACES))
    time = sinusoid(T, TIME_WIDTH)
    place = upsampler.places["1"]

    added = added_by(upsampler)["1"]

    x = functional.interpolate(FEATURES["1"], SIZES["1"], mode="bilinear")
    for block in place.blocks:
        inner = block.conv1(x.flatten(0, 1)[:, None]).unflatten(0, (2, 6))
        inner = inner + block.time(time)[:, None, :, None, None]
        x = x + block.conv2(functional.silu(inner).flatten(0, 1)).view_as(x)
    assert_close(added, place.alpha * x, rtol=1e-4, atol=1e-4)
