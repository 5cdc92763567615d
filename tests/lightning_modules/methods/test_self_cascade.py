"""Self-Cascade: its pivot, its steps, its upsamplers, and what is trained and kept."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.nn import functional

from lightning_modules.backbone.condition import Condition
from lightning_modules.backbone.library import Flags
from lightning_modules.backbone.schedule import Schedule
from lightning_modules.backbone.space import KLSpace
from lightning_modules.methods.self_cascade import Cascade, SelfCascade, Tuning
from lightning_modules.networks.feature_upsampler import Full, Shared
from lightning_modules.noise import Noise
from lightning_modules.sampling.solvers import Sampler
from tests.lightning_modules.backbone.texts import Pooled, Words
from tests.lightning_modules.backbone.unets import small_kl, wrapped
from tests.lightning_modules.tiny import random_batch
from tests.quick import quick

FEW = Sampler(steps=4)
SDXL = {
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 4,
    "projection_class_embeddings_input_dim": 6 * 4 + 5,
}


def base(**changes: Any) -> Any:
    denoiser = wrapped(null="learned", flags=Flags(frozen=True), **changes)
    denoiser.source = "base.ckpt 0123456789abcdef"
    return denoiser


def sampled(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings of a method on a base, with those of sampling in their group."""
    own = {k: settings.pop(k) for k in ("guidance", "clamp") if k in settings}
    return {**settings, "sampler": replace(settings.get("sampler", FEW), **own)}


def grouped(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings of a cascade in their groups."""
    groups: dict[str, Any] = {
        name: kind(**{k: settings.pop(k) for k in list(settings) if k in kind.__annotations__})
        for name, kind in (("cascade", Cascade), ("tuning", Tuning))
    }
    return {**groups, **sampled(settings)}


def cascade(scale: float = 2.0, **settings: Any) -> Any:
    torch.manual_seed(0)
    method: Any = SelfCascade(scale, **{"denoiser": base(), **grouped(settings)})
    method.log = lambda *_, **__: None
    return method.eval()


def tuned(method: Any) -> Any:
    """With upsamplers that add something."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in method.upsampler.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return method


def batch(side: int | tuple[int, int] = 16, count: int = 2) -> Any:
    size = (side, side) if isinstance(side, int) else side
    images = random_batch(count, size, hr=(3, *size))
    return {**images, "text": ["a" * (n + 1) for n in range(count)]}


def noted(method: Any) -> list[SimpleNamespace]:
    """A list that fills with what the base is called for."""
    calls: list[SimpleNamespace] = []
    for kind in ("forward", "features"):

        def note(z: Any, t: Any, got: Any = None, *more: Any, kind: Any = kind, own: Any) -> Any:
            call = SimpleNamespace(kind=kind, z=z, t=t, got=got, more=more)
            calls.append(call)
            return own(z, t, got, *more)

        setattr(method.denoiser, kind, partial(note, own=getattr(method.denoiser, kind)))
    return calls


def oracle(method: Any, answer: Any) -> None:
    """Let the base know the clean sample: ``answer`` of the latent's size."""
    schedule = method.schedule

    def forward(z: Any, t: Any, *_: Any) -> Any:
        x0 = answer(z.shape)
        alpha, sigma = schedule.level(int(t[0]))
        # What the network sees of an exploding process is scaled to the preserving one.
        norm = (alpha**2 + sigma**2) ** 0.5
        alpha, sigma = alpha / norm, sigma / norm
        eps = (z - alpha * x0) / sigma
        return {"epsilon": eps, "sample": x0, "v_prediction": alpha * eps - sigma * x0}[
            schedule.prediction
        ]

    method.denoiser.forward = forward


# --------------------------------------------------------------------------------------- the pivot


@pytest.mark.parametrize(
    ("sampler", "first"),
    [(Sampler(), 681), (Sampler(offset=0), 680), (Sampler(spacing="trailing"), 699)],
)
def test_35_of_50_steps_are_below_k(sampler, first):
    method = cascade(sampler=sampler)
    assert (method.K, len(method.below_K), method.below_K[0]) == (700, 35, first)
    assert method.below_K == method.sampled[15:]


@pytest.mark.parametrize(
    ("schedule", "k"),
    [
        ({"variance": "exploding"}, 700),
        ({"betas": "squaredcos_cap_v2"}, 812),
        ({"betas": "linear", "beta_start": 0.0001, "beta_end": 0.02}, 494),
        ({"steps": 100}, 100),  # which never has as much noise
    ],
)
def test_k_has_the_papers_signal_to_noise_ratio(schedule, k):
    """By a share of the timesteps, pivots would keep more or less than in the paper."""
    method = cascade(schedule=Schedule(**schedule), sampler=Sampler(10, offset=0))
    assert k == method.K
    paper = Schedule().level(699).log_snr
    assert method.schedule.level(k - 1).log_snr >= paper - 1e-9
    assert k == method.schedule.steps or method.schedule.level(k).log_snr < paper
    shared = cascade(schedule=Schedule(**schedule), sampler=Sampler(10), pivot_strength=0.7)
    assert 0.7 * shared.schedule.steps == shared.K


@pytest.mark.parametrize("strength", quick([0.7, 0.1], 0.7))
def test_the_noise_of_equation_6(strength):
    """Its standard deviation is sqrt(1 - abar), at the timestep that the base gets first."""
    method = cascade(pivot_strength=strength, sampler=Sampler())
    generator = torch.Generator().manual_seed(3)
    pivot = torch.randn(2, 3, 64, 64, generator=generator)
    first = {0.7: 681, 0.1: 81}[strength]
    abar = torch.linspace(0.00085**0.5, 0.012**0.5, 1000).square().neg().add(1).cumprod(0)[first]
    z = method.start(pivot, (128, 128), Noise(torch.arange(2)))
    eps = z - abar.sqrt() * functional.interpolate(pivot, (128, 128), mode="bilinear")
    assert abs(eps.std() - (1 - abar).sqrt()) < 0.005
    torch.testing.assert_close(
        eps, (1 - abar).sqrt() * Noise(torch.arange(2)).normal(z.shape), rtol=0, atol=1e-5
    )
    method.generate(batch(), Noise(batch()["seed"]))
    if first == 681:
        torch.testing.assert_close(abar, torch.tensor(0.094637), rtol=0, atol=2e-6)


def test_the_pivot_is_enlarged_as_it_is_or_as_an_image():
    torch.manual_seed(0)
    space = KLSpace(small_kl())
    four = base(in_channels=4, out_channels=4)
    pivot = torch.randn(1, 4, 8, 8)
    for resize in ("bilinear", "bicubic"):
        settings = {"denoiser": four, "space": space, "pivot_resize": resize}
        latent = cascade(**settings).enlarged(pivot, (32, 32))
        assert torch.equal(latent, functional.interpolate(pivot, (16, 16), mode=resize))
        rgb = cascade(**settings, pivot_space="rgb").enlarged(pivot, (32, 32))
        image = functional.interpolate(space.decode(pivot).clamp(0, 1), (32, 32), mode=resize)
        torch.testing.assert_close(rgb, space.encode(image.clamp(0, 1)))


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("variance", ["preserving", "exploding"])
@torch.no_grad()
def test_an_oracle_is_believed(prediction, variance):
    """Whatever the base predicts, and in latents of two stages."""
    method = cascade(4.0, schedule=Schedule(prediction=prediction, variance=variance))
    given = batch(32)
    oracle(method, lambda shape: functional.adaptive_avg_pool2d(given["hr"] * 2 - 1, shape[-2:]))
    found = method.generate(given, Noise(given["seed"]))
    torch.testing.assert_close(found, given["hr"], rtol=0, atol=1e-4)


# --------------------------------------------------------------------------------------- the steps


@torch.no_grad()
def test_calls_of_the_base():
    """50 and 35, and the way down once a stage on the pivot at timestep 0."""
    method = cascade(upsampler=Shared, sampler=Sampler())
    calls = noted(method)
    given = batch()
    method.generate(given, Noise(given["seed"]))
    sides = [(call.kind, call.z.shape[-1]) for call in calls]
    assert sides == [("forward", 8)] * 50 + [("features", 8)] + [("forward", 16)] * 35
    assert [int(call.t[0]) for call in calls[:50]] == list(range(981, 0, -20))
    assert not calls[50].t.any()
    assert [int(call.t[0]) for call in calls[51:]] == list(range(681, 0, -20))
    assert all(not call.more for call in calls[:50])
    assert all(call.more[0].skips.keys() == {0, 1, 2, 3} for call in calls[51:])


@torch.no_grad()
def test_as_released_features_are_read_at_each_step_and_not_added_below_a_timestep():
    settings = {"pivot_features": "per_step", "adapter_t_min": 101, "sampler": Sampler()}
    method = cascade(upsampler=Full, attach="block_out", **settings)
    calls = noted(method)
    given = batch()
    method.generate(given, Noise(given["seed"]))
    read = [int(call.t[0]) for call in calls if call.kind == "features"]
    assert read == list(range(681, 100, -20))
    adapted = [call for call in calls if call.kind == "forward" and call.more]
    assert [int(call.t[0]) for call in adapted] == read


# ----------------------------------------------------------------------------------- the upsamplers


def by_hand(unet: Any, z: Any, t: Any, text: Any, skips: Any, blocks: Any, middle: Any) -> Any:
    """A U-Net's forward pass, with what is added to its features."""
    emb = unet.time_embedding(unet.time_proj(t))
    x = unet.conv_in(z)
    carried = [x]
    for n, block in enumerate(unet.down_blocks):
        more = {"encoder_hidden_states": text} if hasattr(block, "attentions") else {}
        x, own = block(x, emb, **more)
        carried += own
        x = x + blocks.get(n, 0)
    carried = [skip + skips.get(n, 0) for n, skip in enumerate(carried)]
    x = unet.mid_block(x, emb, encoder_hidden_states=text) + middle
    for n, block in enumerate(unet.up_blocks):
        taken = len(block.resnets)
        own, carried = carried[-taken:], carried[:-taken]
        more = {"encoder_hidden_states": text} if hasattr(block, "attentions") else {}
        size = None if n == len(unet.up_blocks) - 1 else carried[-1].shape[2:]
        x = block(x, tuple(own), emb, upsample_size=size, **more)
    return unet.conv_out(unet.conv_act(unet.conv_norm_out(x)))


@torch.no_grad()
def test_untrained_it_is_the_tuning_free_variant():
    given = batch((12, 20))  # odd sides within
    free = cascade().generate(given, Noise(given["seed"]))
    method = cascade(upsampler=Shared)
    assert torch.equal(method.generate(given, Noise(given["seed"])), free)
    assert (tuned(method).generate(given, Noise(given["seed"])) - free).abs().max() > 1e-4


@pytest.mark.parametrize("attach", ["skip", "block_out"])
@torch.no_grad()
def test_features_are_added_where_they_are_said_to_be(attach):
    method = tuned(cascade(upsampler=Shared, attach=attach))
    generator = torch.Generator().manual_seed(5)
    z = torch.randn(2, 3, 10, 14, generator=generator)
    pivot, t = torch.randn(2, 3, 5, 7, generator=generator), torch.tensor([600, 3])
    unet, text = method.denoiser.unet, method.denoiser.null_text(2)
    features = method._features(pivot, t, Condition())
    read = method.denoiser.features(pivot, torch.zeros_like(t), middle=True)
    sizes = method.attachment.sizes((10, 14))
    added = method.upsampler(features, sizes, t)
    found = method._adapted(method.upsampler, z, t, Condition(), features)
    if attach == "skip":
        assert all(torch.equal(features[f"skip{n}"], read.skips[n]) for n in range(4))
        places = ({n: added[f"skip{n}"] for n in range(4)}, {}, 0)
    else:
        assert torch.equal(features["block0"], read.skips[2])
        assert torch.equal(features["block1"], read.skips[3])
        assert torch.equal(features["middle"], read.middle)
        places = ({}, {n: added[f"block{n}"] for n in range(2)}, added["middle"])
    torch.testing.assert_close(found, by_hand(unet, z, t, text, *places), rtol=1e-5, atol=1e-5)
    plain = by_hand(unet, z, t, text, {}, {}, 0)
    torch.testing.assert_close(method.denoiser(z, t), plain, rtol=1e-5, atol=1e-5)
    assert (found - plain).abs().max() > 1e-3


@torch.no_grad()
def test_guidance_has_features_of_its_own_for_each_branch():
    settings = {"encoder": Words(), "guidance": 3.0, "upsampler": Shared}
    method = tuned(cascade(**settings))
    calls = noted(method)
    given = batch()
    method.generate(given, Noise(given["seed"]))
    (read,) = (call for call in calls if call.kind == "features")
    texts = read.got.text
    assert len(texts) == len(read.z) == 4
    assert torch.equal(read.z[:2], read.z[2:])
    assert torch.equal(texts[:2], method.denoiser.null_text(2, texts.shape[1]))
    assert torch.equal(texts[2:], Words()(given["text"]))
    call = calls[-1]
    known = {"without": slice(0, 2), "with": slice(2, 4)}
    raw = {}
    for branch, part in known.items():
        got = Condition(text=texts[part])
        features = method._features(read.z[part], call.t[part], got)
        raw[branch] = method._adapted(method.upsampler, call.z[part], call.t[part], got, features)
    both = method.denoiser(call.z, call.t, call.got, *call.more)
    torch.testing.assert_close(both, torch.cat([raw["without"], raw["with"]]), rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "expected"), [("stage", [8, 16]), ("base", [8, 8])])
@torch.no_grad()
def test_sdxl_gets_sizes(kind, expected):
    settings = {"encoder": Pooled(), "guidance": 2.0, "upsampler": Full}
    method = tuned(cascade(denoiser=base(**SDXL), size_condition=kind, **settings))
    calls = noted(method)
    given = batch()
    method.generate(given, Noise(given["seed"]))
    for call in calls:
        assert call.got.sizes.shape == (4, 6)
        assert call.got.pooled.shape == (4, 5)
    sides = [call.got.sizes[0].tolist() for call in (calls[0], calls[-1])]
    assert sides == [[side, side, 0, 0, side, side] for side in expected]


# ------------------------------------------------------------------------------------- training


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_the_loss_is_that_of_what_the_base_predicts(prediction):
    """With the pivot from averaged images, and t below K alone."""
    method = cascade(upsampler=Shared, schedule=Schedule(prediction=prediction), adapter_t_min=100)
    calls = noted(method)
    given = batch(count=64)
    torch.manual_seed(2)
    loss = method.training_step(given, 0)
    read, call = calls
    assert torch.equal(read.z, functional.avg_pool2d(given["hr"], 2) * 2 - 1)
    assert not read.t.any()
    assert 100 <= call.t.min() < 200
    assert 600 < call.t.max() < 700
    torch.manual_seed(2)
    torch.randint(100, 700, (64,))
    x0 = given["hr"] * 2 - 1
    eps = torch.randn_like(x0)
    torch.testing.assert_close(call.z, method.schedule.add_noise(x0, eps, call.t))
    raw = method.denoiser(call.z, call.t, call.got)
    wanted = method.schedule.target(x0, eps, call.t)
    torch.testing.assert_close(loss, (raw - wanted).square().mean())


def test_gradients_stop_before_the_way_up():
    """Nothing of the way down is kept, of the pivot's neither: less memory than to train all."""

    def kept(attach: str, through: bool) -> tuple[int, list[bool]]:
        method = cascade(upsampler=Shared, attach=attach)
        held: list[int] = []
        needs: list[bool] = []
        for block in method.denoiser.unet.down_blocks:
            block.register_forward_hook(lambda _, __, out: needs.append(out[0].requires_grad))
        first = next(method.denoiser.unet.conv_in.parameters())
        first.requires_grad_(through)

        def pack(x: Any) -> Any:
            held.append(x.numel() if x.grad_fn is not None else 0)
            return x

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            method.training_step(batch(), 0)
        return sum(held), needs

    skip, needs = kept("skip", through=False)
    assert not any(needs)
    whole, _ = kept("skip", through=True)
    assert skip < 0.8 * whole
    _, needs = kept("block_out", through=False)
    assert needs == [False, False, False, True]  # of the pivot, and from the first place on
