"""Autoencoder: losses by hand, the start at principal components, and its run as a space."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn
from torch.nn import functional

from lightning_modules.backbone.denoiser import UNet2D
from lightning_modules.backbone.space import KLSpace, PCASpace, ResShiftVQ, Space
from lightning_modules.first_stage import autoencoder as module
from lightning_modules.first_stage.autoencoder import Autoencoder, AutoencoderLosses
from lightning_modules.methods.diffusion import Diffusion
from lightning_modules.networks.autoencoders import PCAAutoencoder
from lightning_modules.networks.discriminator import PatchGAN
from tests.lightning_modules.methods.test_invsr import UNET
from tests.lightning_modules.others import KL
from tests.lightning_modules.tiny import save_run

SPACES = {
    "pca": PCASpace,
    "kl": lambda: KLSpace(KL),
    "vq": lambda: ResShiftVQ((32, 32), entries=16),
}


def autoencoder(space: Space | None = None, **options: Any) -> Any:
    torch.manual_seed(0)
    fields = [field.name for field in dataclasses.fields(AutoencoderLosses)]
    losses = AutoencoderLosses(**{k: options.pop(k) for k in list(options) if k in fields})
    method: Any = Autoencoder(1.0, space or PCASpace(), losses, **options)
    method.logged = {}
    method.log = lambda name, value, **_: method.logged.update({name: float(value)})
    method._trainer = SimpleNamespace(global_step=0)
    return method


def images(count: int = 4, side: int = 16) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    smooth = torch.rand(count, 3, side // 4, side // 4, generator=generator)
    return functional.interpolate(smooth, (side, side), mode="bilinear")


def batch(**more: Any) -> Any:
    hr = images()
    seeds = {"key": [f"a/{i}" for i in range(len(hr))], "seed": torch.arange(len(hr))}
    return {"hr": hr, "lr": hr, "size": (16, 16), **seeds, **more}


@pytest.mark.parametrize("kind", SPACES)
def test_the_whole_autoencoder_trains(kind: str) -> None:
    method = autoencoder(SPACES[kind](), latent_noise=0.1)
    assert method.space.training
    method.generator_loss(batch())[0].backward()
    unused = [n for n, p in method.named_parameters() if p.grad is None or not p.grad.any()]
    # The residual decoder ends with zeros, so its other layers wait for the first step.
    assert all("residual" in name or "quantize" in name for name in unused)
    assert not method.eval().space.training


def test_losses_by_hand() -> None:
    class Apart(nn.Module):
        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return (a - b).abs().flatten(1).amax(1)

    space = KLSpace(KL)
    weights = {"l1_weight": 2.0, "l2_weight": 3.0, "kl_weight": 0.1, "perceptual_weight": 0.5}
    method = autoencoder(space, perceptual=Apart(), **weights)
    given = batch()
    torch.manual_seed(1)
    loss, (hr, made) = method.generator_loss(given)
    torch.manual_seed(1)
    posterior = space.vae.encode(2 * hr - 1).latent_dist
    z = posterior.mean + posterior.std * torch.randn_like(posterior.mean)
    by_hand = (space.vae.decode(z).sample + 1) / 2
    torch.testing.assert_close(made, by_hand, rtol=0, atol=1e-5)
    expected = 2 * (made - hr).abs().mean() + 3 * (made - hr).square().mean()
    expected += 0.1 * posterior.kl().mean() / (3 * 16 * 16)
    expected += 0.5 * (made - hr).abs().flatten(1).amax(1).mean()
    torch.testing.assert_close(loss, expected)


def test_the_discriminator_counts_from_its_start() -> None:
    method = autoencoder(discriminator=PatchGAN(8, 1), adversarial_weight=0.5, adversarial_start=2)
    given, losses = batch(), []
    for step in (1, 2):
        method._trainer.global_step = step
        loss, made = method.generator_loss(given)
        losses.append(loss)
    opinion = -method.discriminator(made[1])[0].mean()
    torch.testing.assert_close(losses[1] - losses[0], 0.5 * opinion, rtol=1e-4, atol=1e-5)
    assert method.discriminator_loss(made).requires_grad


def test_principal_components_are_the_best_linear_autoencoder() -> None:
    x = images(8)
    network = PCAAutoencoder(latent=12).eval()
    network.initialise(x)
    patches = functional.unfold(x, 4, stride=4).transpose(1, 2).flatten(0, 1)
    mean = patches.mean(0)
    _, _, vectors = torch.linalg.svd(patches - mean, full_matrices=False)
    best = mean + (patches - mean) @ vectors[:12].T @ vectors[:12]
    found = functional.unfold(network.decode(network.encode(x)), 4, stride=4)
    torch.testing.assert_close(found.transpose(1, 2).flatten(0, 1), best, rtol=0, atol=1e-4)
    z = network.encode(x)
    assert z.mean((0, 2, 3)).abs().max() < 1e-3
    torch.testing.assert_close(z.std((0, 2, 3)), torch.ones(12), rtol=0.02, atol=0)


def test_it_starts_from_batches_of_several_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    """As with ``crops.scales``, whose sides need not be whole latents."""
    method, given = autoencoder(), [images(), images(3, 24)[..., :22, :21]]
    batches = [batch(hr=hr) for hr in given]
    monkeypatch.setattr(module, "first_batches", lambda _, count: batches[:count])
    method._trainer.ckpt_path = None
    method.setup("fit")
    monkeypatch.setattr(module, "first_batches", lambda *_: pytest.fail("it begins again"))
    method.setup("fit")  # a second training goes on
    z = method.space.encode(torch.cat([given[0], given[1][..., :16, :16]]))
    assert z.mean((0, 2, 3)).abs().max() < 1e-3
    for one in batches:
        method.generator_loss(one)[0].backward()


def test_statistics_of_latents_would_differ_among_processes() -> None:
    method = autoencoder()
    method._trainer = SimpleNamespace(
        strategy=DDPStrategy(), world_size=2, optimizers=[], callbacks=[]
    )
    with pytest.raises(ValueError, match=r"space\.vae\.standard keeps running statistics"):
        method.on_fit_start()


@pytest.mark.parametrize("kind", SPACES)
def test_a_run_is_loaded_by_another_method(kind: str, tmp_path: Any) -> None:
    trained = autoencoder(SPACES[kind]())
    path = save_run(trained, tmp_path / "last.ckpt")
    torch.manual_seed(1)
    space = SPACES[kind]()
    base = UNet2D({**UNET, "in_channels": space.channels, "out_channels": space.channels})
    method = Diffusion(1.0, base, space, space_weights="runs/autoencoder")
    with pytest.raises(ValueError, match=r"random weights: .*set model\.init_args\.space_weights"):
        Diffusion(1.0, base, space).setup("fit")
    method.load_parts(lambda key, name: {("space_weights", "runs/autoencoder"): path}[key, name])
    method.setup("fit")
    assert space.source.startswith("last.ckpt ")
    x, theirs = images(), trained.eval().space
    torch.testing.assert_close(space.decode(space.encode(x)), theirs.decode(theirs.encode(x)))
