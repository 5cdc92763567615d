"""Self-Cascade: sizes of its stages, its pivot, its upsamplers, training."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch.nn import functional
from torch.testing import assert_close

from lightning_modules import KLSpace, Schedule, SelfCascade, Shared, UNet2D
from lightning_modules.backbone.condition import Condition
from lightning_modules.methods.self_cascade import Cascade, Tuning, cascade_sizes
from lightning_modules.networks.attachments import Blocks, Residuals, Skips
from lightning_modules.networks.feature_upsampler import Full, Places
from lightning_modules.noise import Noise
from lightning_modules.sampling.solvers import Sampler
from tests import make
from tests.lightning_modules.backbone.texts import Pooled, Words
from tests.lightning_modules.backbone.unets import SDXL, base, noted, small_kl
from tests.make import assert_near

SHARED = Tuning(upsampler=Shared)
FIFTY = Sampler(steps=50)  # timesteps 981, 961 ... 1; 681 is the first below K, 700


def cascade(scale=2.0, **settings):
    """A cascade of pixels, without tuning by default."""
    torch.manual_seed(0)
    settings = {"denoiser": base(), "sampler": Sampler(steps=4)} | settings
    return make.quiet(SelfCascade(scale, **settings)).eval()


def tuned(method):
    """With upsamplers that add something, as after training."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in method.upsampler.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return method


def images(h=16, w=16, count=2):
    captions = ["a" * (number + 1) for number in range(count)]
    return make.batch(count, (h, w), hr=(3, h, w)) | {"text": captions}


def generated(method, batch):
    return method.generate(batch, Noise(batch["seed"]))


# ---------------------------------------------------------------------------- sizes (section 3.2)


@pytest.mark.parametrize(
    ("target", "multiple", "expected"),
    [
        # 16 times the pixels are two stages of four times.
        ((2048, 2048), 8, [(512, 512), (1024, 1024), (2048, 2048)]),
        # 2.5 times the side is two stages of sqrt(2.5) each; 512 · sqrt(2.5) is 809.5, rounded.
        ((1280, 1280), 8, [(512, 512), (808, 808), (1280, 1280)]),
        ((1280, 1280), 64, [(512, 512), (832, 832), (1280, 1280)]),
        # The base runs at the target's aspect ratio, with the pixels of 512x512.
        ((1024, 2048), 8, [(360, 728), (608, 1216), (1024, 2048)]),
        # No more pixels than the base: no further stage.
        ((256, 1024), 8, [(256, 1024)]),
    ],
)
def test_stages_are_the_fewest_of_at_most_four_times_the_pixels(target, multiple, expected):
    """R = ceil(log_4(pixels of the target / pixels of the base)), of one factor, rounded."""
    assert cascade_sizes((512, 512), target, multiple=multiple) == expected


@pytest.mark.parametrize("multiple", [8, 64])
def test_no_stage_has_more_than_four_times_the_pixels_of_the_one_before(multiple):
    """As section 3.2 of the paper divides an enlargement; all sides are multiples."""
    for target in itertools.product(range(640, 3200, 448), range(512, 4000, 576)):
        sizes = cascade_sizes((512, 640), target, multiple=multiple)
        assert sizes[-1] == target
        rounding = (1 + multiple / 200) ** 2  # of two sides
        for (h, w), (next_h, next_w) in itertools.pairwise(sizes):
            assert h % multiple == 0
            assert w % multiple == 0
            assert 1 / rounding < next_h * next_w / (h * w) < 4 * rounding


# ------------------------------------------------------------------------------------- the pivot

# A stage enlarges the previous sample, the pivot, adds noise up to timestep K, and denoises it.


@pytest.mark.parametrize(
    "schedule",
    [
        Schedule(variance="exploding"),
        Schedule(betas="squaredcos_cap_v2"),
        Schedule(betas="linear", beta_start=0.0001, beta_end=0.02),
        Schedule(steps=100),  # which never has as much noise
    ],
    ids=["exploding", "cosine", "linear", "100 steps"],
)
def test_k_is_the_first_timestep_with_more_noise_than_in_the_paper(schedule):
    """K, up to which a stage adds noise to its start, is 700 of Stable Diffusion's 1000 timesteps.

    Were it 0.7 of the timesteps of any schedule, starts would keep more or less than in the paper.
    """
    paper = Schedule().level(699).log_snr  # Stable Diffusion's noisiest timestep below 700

    k = cascade(schedule=schedule, sampler=Sampler(steps=10, offset=0)).K

    assert schedule.level(k - 1).log_snr >= paper - 1e-9
    assert k == schedule.steps or schedule.level(k).log_snr < paper


def test_k_is_the_share_of_timesteps_that_pivot_strength_sets():
    """K is the timestep up to which a stage adds noise to the sample that it starts from."""
    method = cascade(schedule=Schedule(steps=100), cascade=Cascade(pivot_strength=0.3))
    assert method.K == 0.3 * 100


def test_a_stage_begins_with_the_noise_of_equation_6():
    """On the enlarged pivot, the sample of the stage before.

    The noise's deviation is sqrt(1 - abar), at the first sampled timestep below K, 700: 681.
    """
    method = cascade(sampler=FIFTY)
    pivot = make.normal(2, 3, 8, 8)
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000).square()
    abar = (1 - betas).cumprod(0)[681]

    z = method.start(pivot, (16, 16), Noise(torch.arange(2)))

    eps = Noise(torch.arange(2)).normal(z.shape)
    enlarged = functional.interpolate(pivot, (16, 16), mode="bilinear")
    assert_near(z, abar.sqrt() * enlarged + (1 - abar).sqrt() * eps, 1e-5)


def of_latents(**settings):
    """A cascade of latents with half of an image's sides."""
    denoiser = base(in_channels=4, out_channels=4)
    return cascade(denoiser=denoiser, space=KLSpace(small_kl()), cascade=Cascade(**settings))


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
def test_the_pivot_is_enlarged_as_a_latent_by_pivot_resize(mode):
    pivot = make.normal(1, 4, 8, 8)
    latent = of_latents(pivot_resize=mode).enlarged(pivot, (32, 32))
    assert torch.equal(latent, functional.interpolate(pivot, (16, 16), mode=mode))


def test_with_pivot_space_rgb_the_pivot_is_decoded_enlarged_as_an_image_and_encoded():
    pivot = make.normal(1, 4, 8, 8)
    method = of_latents(pivot_resize="bicubic", pivot_space="rgb")

    latent = method.enlarged(pivot, (32, 32))

    image = method.space.decode(pivot).clamp(0, 1)
    large = functional.interpolate(image, (32, 32), mode="bicubic").clamp(0, 1)
    assert_close(latent, method.space.encode(large))


@pytest.mark.parametrize("variance", ["preserving", "exploding"])
@torch.no_grad()
def test_a_cascade_ends_at_the_x0_that_its_base_predicts(variance):
    schedule = Schedule(prediction="sample", variance=variance)
    method = cascade(4.0, schedule=schedule)
    batch = images(h=32, w=32)

    def hr_at_the_size_of_the_stage(z, t, *_):
        return functional.adaptive_avg_pool2d(batch["hr"] * 2 - 1, z.shape[-2:])

    method.denoiser.forward = hr_at_the_size_of_the_stage
    assert_near(generated(method, batch), batch["hr"], 1e-4)


# -------------------------------------------------------------------------------- the upsamplers


@torch.no_grad()
def test_features_are_read_once_a_stage_at_timestep_0_and_added_in_each_of_its_steps():
    """50 steps at 8x8, then features of their result, then the steps below K, 700, at 16x16."""
    method = cascade(2.0, tuning=SHARED, sampler=FIFTY)
    calls = noted(method)

    generated(method, images(h=16, w=16))

    of_base = calls[:50]
    of_features = calls[50]
    of_stage = calls[51:]
    assert [int(call.t[0]) for call in of_base] == list(range(981, 0, -20))
    assert [int(call.t[0]) for call in of_stage] == list(range(681, 0, -20))
    assert {call.z.shape[-1] for call in of_base} == {8}
    assert {call.z.shape[-1] for call in of_stage} == {16}
    assert of_features.kind == "features"
    assert of_features.z.shape[-1] == 8
    assert not of_features.t.any()
    # `more` has what is added: nothing in the base, all four skip connections in the stage.
    assert not any(call.more for call in of_base)
    assert all(call.more[0].skips.keys() == {0, 1, 2, 3} for call in of_stage)


@torch.no_grad()
def test_per_step_features_are_read_and_added_at_each_step_down_to_adapter_t_min():
    """As released, where `adapter_t_min` is 101; timesteps below are the base's alone."""
    tuning = Tuning(Full, "block_out", pivot_features="per_step", adapter_t_min=101)
    method = cascade(tuning=tuning, sampler=FIFTY)
    calls = noted(method)

    generated(method, images())

    read = [int(call.t[0]) for call in calls if call.kind == "features"]
    added = [int(call.t[0]) for call in calls if call.kind == "forward" and call.more]
    steps = list(range(681, 100, -20))
    assert read == steps
    assert added == steps


@torch.no_grad()
def test_untrained_upsamplers_change_nothing():
    batch = images(h=12, w=20)  # the base's 6x10 are halved to 3x5
    tuning_free = generated(cascade(), batch)
    method = cascade(tuning=SHARED)

    assert torch.equal(generated(method, batch), tuning_free)
    assert (generated(tuned(method), batch) - tuning_free).abs().max() > 1e-4


PIVOT = make.normal(2, 3, 5, 7, seed=1)
Z = make.normal(2, 3, 10, 14)  # the sample of the stage that starts from the pivot
T = torch.tensor([600, 3])


def adapted(method):
    """The base's output for Z with the pivot's features added; and what is added, by place."""
    features = method._features(PIVOT, T, Condition())
    added = method.upsampler(features, method.attachment.sizes(Z.shape[-2:]), T)
    return method._adapted(method.upsampler, Z, T, Condition(), features), added


@torch.no_grad()
def test_released_upsamplers_get_the_networks_embedding_of_the_timestep():
    """The released layers read it instead of the timestep itself."""
    method = cascade(tuning=Tuning(Full))
    features = method._features(PIVOT, T, Condition())
    times = []
    method.upsampler.register_forward_pre_hook(lambda _, args: times.append(args[2]))

    method._adapted(method.upsampler, Z, T, Condition(), features)

    unet = method.denoiser.unet
    assert torch.equal(times[0], unet.time_embedding(unet.time_proj(T)))


@torch.no_grad()
@pytest.mark.parametrize("attach", ["skip", "block_out"])
def test_features_are_those_of_the_pivot_at_the_places_where_they_are_added(attach):
    """The output of a block is its last skip connection: the two blocks' are 2 and 3 of 0 to 3."""
    method = cascade(tuning=Tuning(Shared, attach))

    features = method._features(PIVOT, T, Condition())

    skips, middle = method.denoiser.features(PIVOT, torch.zeros_like(T), middle=True)
    expected = {f"skip{number}": skip for number, skip in enumerate(skips)}
    if attach == "block_out":
        expected = {"block0": skips[2], "block1": skips[3], "middle": middle}
    assert_close(features, expected, rtol=0, atol=0)


@torch.no_grad()
def test_upsampled_features_are_added_to_skip_connections():
    method = tuned(cascade(tuning=SHARED))

    output, added = adapted(method)

    residuals = Residuals({number: added[f"skip{number}"] for number in range(4)})
    assert_close(output, method.denoiser(Z, T, Condition(), residuals))
    assert (output - method.denoiser(Z, T)).abs().max() > 1e-3  # they matter


@torch.no_grad()
def test_upsampled_features_are_added_to_outputs_of_blocks_and_not_to_their_skip_connections():
    method = tuned(cascade(tuning=Tuning(Shared, "block_out")))

    output, added = adapted(method)

    first, second = method.denoiser.unet.down_blocks  # which return (output, skip connections)
    first.register_forward_hook(lambda _, __, out: (out[0] + added["block0"], out[1]))
    second.register_forward_hook(lambda _, __, out: (out[0] + added["block1"], out[1]))
    expected = method.denoiser(Z, T, Condition(), Residuals(middle=added["middle"]))
    assert_close(output, expected)


@torch.no_grad()
def test_with_guidance_each_branch_gets_the_features_of_its_own_text():
    """Features depend on the text; the halves of a batch are without and with a caption."""
    sampler = Sampler(steps=4, guidance=3.0)
    method = tuned(cascade(encoder=Words(), sampler=sampler, tuning=SHARED))
    calls = noted(method)
    batch = images()

    generated(method, batch)

    (of_pivot,) = [call for call in calls if call.kind == "features"]
    text = of_pivot.condition.text
    assert torch.equal(text[:2], method.denoiser.null_text(2, text.shape[1]))
    assert torch.equal(text[2:], Words()(batch["text"]))
    # The last call for both branches gives what each gives alone.
    call = calls[-1]
    both = method.denoiser(call.z, call.t, call.condition, *call.more)
    for branch in (slice(0, 2), slice(2, 4)):
        t = call.t[branch]
        condition = Condition(text=text[branch])
        features = method._features(of_pivot.z[branch], t, condition)
        alone = method._adapted(method.upsampler, call.z[branch], t, condition, features)
        assert_near(both[branch], alone, 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("size_condition", "side"), [("stage", 16), ("base", 8)])
@torch.no_grad()
def test_sdxl_gets_the_size_of_the_stage_or_of_the_base(size_condition, side):
    """SDXL's condition is (H, W) of the original, (0, 0) of the crop, and (H, W) of the target.

    The base runs at 8x8 and the stage at 16x16; guidance has two images without and with text.
    """
    parts = {"denoiser": base(**SDXL), "encoder": Pooled(), "tuning": Tuning(Full)}
    method = cascade(**parts, sampler=Sampler(steps=4, guidance=2.0), size_condition=size_condition)
    calls = noted(tuned(method))

    generated(method, images())

    assert calls[0].condition.sizes.tolist() == [[8, 8, 0, 0, 8, 8]] * 4
    assert calls[-1].condition.sizes.tolist() == [[side, side, 0, 0, side, side]] * 4
    assert all(call.condition.pooled.shape == (4, 5) for call in calls)


# ---------------------------------------------------------------------- places in released networks

# Upsamplers are named after the skip connections or blocks where their features are read and added.


def released(**config):
    """A U-Net without its weights."""
    with torch.device("meta"):
        return UNet2D(config, null_token="none").unet


def parameters_of(kind, places):
    with torch.device("meta"):
        upsampler = kind(Places(places.widths, embedding=1280))
    return sum(parameter.numel() for parameter in upsampler.parameters())


def test_in_stable_diffusion_upsamplers_are_at_the_last_skip_connection_of_each_resolution():
    """Four, as in the paper; or, as released, at all blocks. The U-Net is that of version 2.1."""
    unet = released(
        block_out_channels=[320, 640, 1280, 1280],
        attention_head_dim=[5, 10, 20, 20],
        cross_attention_dim=1024,
    )
    skips = Skips(unet, None)
    assert skips.widths == {"skip2": 320, "skip5": 640, "skip8": 1280, "skip11": 1280}
    assert list(skips.sizes((128, 128)).values()) == [(128, 128), (64, 64), (32, 32), (16, 16)]
    assert parameters_of(Shared, skips) == 1_932  # 0.002 M in the paper
    assert list(Blocks(unet, None).widths) == ["block0", "block1", "block2", "block3", "middle"]


def test_in_sdxl_upsamplers_are_at_four_skip_connections_or_all_blocks():
    """SDXL has three resolutions: skip7 is a second one of the deepest."""
    unet = released(
        block_out_channels=[320, 640, 1280],
        down_block_types=["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
        up_block_types=["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
        attention_head_dim=[5, 10, 20],
        cross_attention_dim=2048,
    )
    skips = Skips(unet, None)
    blocks = Blocks(unet, None)
    assert skips.widths == {"skip2": 320, "skip5": 640, "skip7": 1280, "skip8": 1280}
    assert blocks.widths == {"block0": 320, "block1": 640, "block2": 1280, "middle": 1280}
    assert parameters_of(Full, blocks) == 145_457_280  # as released


# -------------------------------------------------------------------------------------- training


@pytest.mark.parametrize("dropout", [0.0, 1.0])
def test_a_dropped_caption_is_the_null_text_in_training(dropout):
    method = cascade(encoder=Words(), tuning=Tuning(Shared, caption_dropout=dropout))
    calls = noted(method)
    batch = images()

    method.training_step(batch, 0)

    captions = Words()(batch["text"])
    expected = method.denoiser.null_text(2, captions.shape[1]) if dropout else captions
    of_pivot, call = calls
    assert torch.equal(of_pivot.condition.text, expected)
    assert torch.equal(call.condition.text, expected)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_the_loss_is_the_mean_squared_error_of_the_bases_prediction_below_k(prediction):
    """|unet(z_t, t, features of the pivot) - target|^2; the pivot is HR, averaged to its size.

    Timesteps are drawn from `adapter_t_min`, 100, to below K, 700: those where features are added.
    """
    schedule = Schedule(prediction=prediction)
    method = cascade(schedule=schedule, tuning=Tuning(Shared, adapter_t_min=100))
    calls = noted(method)
    batch = images(count=64)
    torch.manual_seed(2)
    loss = method.training_step(batch, 0)

    of_pivot, call = calls
    assert torch.equal(of_pivot.z, functional.avg_pool2d(batch["hr"], 2) * 2 - 1)
    assert not of_pivot.t.any()
    assert 100 <= call.t.min() < 200
    assert 600 < call.t.max() < 700
    torch.manual_seed(2)
    torch.randint(100, 700, (64,))
    x0 = batch["hr"] * 2 - 1
    eps = torch.randn_like(x0)
    assert_close(call.z, schedule.add_noise(x0, eps, call.t))
    raw = method.denoiser(call.z, call.t, call.condition)
    assert_close(loss, (raw - schedule.target(x0, eps, call.t)).square().mean())
