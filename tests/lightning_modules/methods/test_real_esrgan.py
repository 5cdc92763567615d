"""Real-ESRGAN's step against a plain loop, its targets, weights and averages."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from callbacks.training.ema import EMA
from degradations.stages.sharpen import USM
from lightning_modules.losses import (
    GAN,
    L1,
    LDL,
    Charbonnier,
    Loss,
    TrainedLoss,
    VGG19Perceptual,
)
from lightning_modules.methods.real_esrgan import RealESRGAN
from lightning_modules.networks.discriminator import UNetDiscriminator
from lightning_modules.networks.rrdb import SRVGGNetCompact
from tests.lightning_modules.networks.test_unet_discriminator import released
from tests.lightning_modules.test_adversarial import batches, fit, tensors
from tests.lightning_modules.tiny import save_run
from tests.lightning_modules.vgg19 import save_vgg19

RATES: dict[str, Any] = {
    "optimizer": partial(torch.optim.Adam, lr=0.01),
    "discriminator_optimizer": partial(torch.optim.Adam, lr=0.02),
}


class Sees(nn.Module):
    """Judges by one convolution, and keeps what it saw."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.seen = nn.Conv2d(3, 1, 3), list[Tensor]()

    def forward(self, images: Tensor) -> list[Tensor]:
        self.seen.append(images.detach())
        return [self.conv(images)]


class Kept(Loss):
    """L1 that keeps its arguments."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[Tensor, Tensor]] = []

    def forward(self, sr: Tensor, hr: Tensor) -> Tensor:
        self.seen.append((sr.detach(), hr))
        return (sr - hr).abs().mean()


def model(discriminator: nn.Module | None = None, **settings: Any) -> RealESRGAN:
    torch.manual_seed(0)
    made: dict[str, Any] = {"losses": {"l1": L1()}, **RATES, **settings}
    network = partial(SRVGGNetCompact, channels=4, convolutions=1)
    return RealESRGAN(2.0, network=network, discriminator=discriminator or Sees(), **made)


class Perceptual(Loss):
    """A distance of features, as users have it: neither frozen nor in evaluation."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5))

    def forward(self, sr: Tensor, hr: Tensor) -> Tensor:
        return (self.features(sr) - self.features(hr)).abs().mean()


class Weighted(TrainedLoss):
    """A loss that learns its weight."""

    def __init__(self) -> None:
        super().__init__()
        self.log_variance = nn.Parameter(torch.zeros(()))

    def forward(self, sr: Tensor, hr: Tensor) -> Tensor:
        return (sr - hr).abs().mean() * self.log_variance.exp() - self.log_variance


class Forgets(Weighted, Loss):
    """The same, as a loss that does not train."""


def moved(before: dict[str, Tensor], method: RealESRGAN) -> set[str]:
    """The parts whose tensors changed."""
    now = tensors(method)
    return {name.partition(".")[0] for name in now if not now[name].equal(before[name])}


def test_losses_do_not_train(tmp_path: Path) -> None:
    method, ema = model(losses={"perceptual": Perceptual()}), EMA()
    before = tensors(method)
    method.train()
    fit(tmp_path, method, batches(3), ema)
    assert moved(before, method) == {"network", "discriminator"}
    assert all(name.startswith("network.") for name in ema.state_dict()["weights"])
    with pytest.raises(ValueError, match=r"losses\.own, a Forgets, has the parameter log_varia"):
        model(losses={"own": Forgets()})


def test_a_trained_loss_is_in_the_optimiser_and_in_checkpoints(tmp_path: Path) -> None:
    method, ema = model(losses={"own": Weighted(), "perceptual": Perceptual()}), EMA()
    run = fit(tmp_path, method, batches(3), ema)
    trained = "losses.own.log_variance"
    assert method.state_dict()[trained] != 0
    assert method.losses["perceptual"].training is False
    assert trained not in ema.state_dict()["weights"]
    run.save_checkpoint(tmp_path / "a.ckpt")
    again = model(losses={"own": Weighted(), "perceptual": Perceptual()})
    again.load_weights(tmp_path / "a.ckpt")
    assert again.state_dict()[trained].equal(method.state_dict()[trained])
    other = model(losses={"other": Weighted()})
    other.load_weights(tmp_path / "a.ckpt")
    assert other.state_dict()["losses.other.log_variance"] == 0


def test_ldl_sees_the_output_of_the_averages(tmp_path: Path) -> None:
    """And changes nothing else: the weights move as without it, and are not swapped."""

    class Seen(LDL):
        def forward(self, sr: Tensor, hr: Tensor, average: Tensor | None = None) -> Tensor:
            seen.append(average)
            return super().forward(sr, hr, average)

    seen: list[Tensor | None] = []
    plain, method, data = model(), model(losses={"l1": L1(), "ldl": Seen(0.0)}), batches(3)
    for trained in (plain, method):
        fit(tmp_path, trained, data, ema := EMA(0.5, first=None))
    expected = tensors(plain)
    for name, value in tensors(method).items():
        torch.testing.assert_close(value, expected[name])
    # The averages before their last update, which was halfway to the weights.
    averages = ema.state_dict()["weights"].items()
    before = {name: 2 * average - expected[name] for name, average in averages}
    method.load_state_dict(expected | before)
    last = list(data)[-1]
    assert seen[-1] is not None
    torch.testing.assert_close(seen[-1], method(last["lr"], last["size"]))
    with pytest.raises(ValueError, match=r"losses\.ldl .*: add callbacks\.EMA"):
        fit(tmp_path, model(losses={"ldl": LDL()}), data)


def test_it_trains_as_a_plain_loop_does(tmp_path: Path) -> None:
    """Bit for bit, with the released order: generator first, then HR, then its old output."""
    settings: dict[str, Any] = {"losses": {"c": Charbonnier(0.5)}}
    method, data = model(**settings), batches(4)
    fit(tmp_path, method, data)
    other = model(**settings)
    net, judge, usm = other.network, other.discriminator, USM()
    assert judge is not None
    main = torch.optim.Adam(net.parameters(), lr=0.01)
    second = torch.optim.Adam(judge.parameters(), lr=0.02)
    charbonnier, gan = Charbonnier(), GAN()
    for batch in data:
        sr, hr = net(batch["lr"].contiguous(memory_format=torch.channels_last)), batch["hr"]
        terms = [0.5 * charbonnier(sr, usm(hr, {})), 0.1 * gan.generator(judge(sr))]
        torch.stack(terms).sum().backward()  # type: ignore[no-untyped-call]
        main.step()
        main.zero_grad()
        second.zero_grad()
        gan.discriminator(judge(hr), judge(sr.detach())).backward()
        second.step()
        second.zero_grad()
    expected = tensors(other)
    assert all(value.equal(expected[name]) for name, value in tensors(method).items())


def test_the_losses_see_sharpened_hr_and_the_discriminator_does_not(tmp_path: Path) -> None:
    judge, kept = Sees(), Kept()
    fit(tmp_path, model(judge, losses={"kept": kept}), data := batches(1), EMA())
    hr = next(iter(data))["hr"]
    ((sr, target),) = kept.seen
    sharp = USM()(hr, {})
    assert not sharp.equal(hr)
    assert target.equal(sharp)
    assert judge.seen[0].equal(sr)
    assert judge.seen[1].equal(hr)
    assert judge.seen[2].equal(sr)
    kept.seen.clear()
    fit(tmp_path, model(judge, losses={"kept": kept}, sharpen=False), data, EMA())
    assert kept.seen[0][1].equal(hr)


def test_real_esrnet_has_one_optimiser(tmp_path: Path) -> None:
    method = model()
    method.discriminator = None
    before = tensors(method)
    run = fit(tmp_path, method, batches(2))
    assert len(run.optimizers) == 1
    assert moved(before, method) == {"network"}
    assert set(run.logged_metrics) >= {"train/l1", "train/loss"}
    assert "train/adversarial" not in run.logged_metrics


def test_terms_count_from_their_step(tmp_path: Path) -> None:
    late = {"l1": L1(), "late": L1(3.0, start=2)}
    expected = [{"l1"}, {"l1", "adversarial"}, {"l1", "late", "adversarial"}]
    for count, names in enumerate(expected, 1):
        run = fit(tmp_path / str(count), model(losses=late, gan=GAN(start=1)), batches(count))
        logged = {name.removeprefix("train/") for name in run.logged_metrics}
        known = {"loss", "discriminator", "logits_real", "logits_fake"}
        known |= {"gradient", "discriminator_gradient"}
        assert logged - known == names
    values = {name: float(value) for name, value in run.logged_metrics.items()}
    assert values["train/late"] == pytest.approx(3 * values["train/l1"])
    parts = sum(values[f"train/{name}"] for name in expected[-1])
    assert values["train/loss"] == pytest.approx(parts)
    assert not model(losses={"l1": L1(), "other": None}).losses.keys() - {"l1"}


# ------------------------------------------------------------------------------------------ weights


def found_at(places: dict[str, Path]) -> Any:
    return lambda key, value: places[value]


def test_vgg19_is_loaded_for_training_alone_and_is_in_no_checkpoint(tmp_path: Path) -> None:
    def make() -> RealESRGAN:
        losses = {"perceptual": VGG19Perceptual(layers={"conv1_2": 1.0})}
        method = model(losses=losses)
        method.load_parts(found_at({"vgg19": save_vgg19(tmp_path, ("conv1_1", "conv1_2"))}))
        return method

    method = make()
    method.setup("test")
    assert not any(name.startswith("losses") for name in method.state_dict())
    run = fit(tmp_path, method, batches(2))
    assert any(name.startswith("losses.perceptual.network") for name in method.state_dict())
    run.save_checkpoint(tmp_path / "a.ckpt")
    saved = torch.load(tmp_path / "a.ckpt", weights_only=True)
    assert {name.partition(".")[0] for name in saved["state_dict"]} == {"network", "discriminator"}
    assert saved["frozen"].keys() == {"losses.perceptual"}
    again = make()
    again.load_weights(tmp_path / "a.ckpt")
    for name, value in tensors(again).items():
        assert value.equal(saved["state_dict"][name])


def test_a_released_discriminator(tmp_path: Path) -> None:
    torch.save({"params": released(4)}, tmp_path / "netD.pth")
    method = model(UNetDiscriminator(4), discriminator_weights="netD")
    before = tensors(method)
    method.load_parts(found_at({"netD": tmp_path / "netD.pth"}))
    assert moved(before, method) == {"discriminator"}
    run = save_run(model(UNetDiscriminator(4)), tmp_path / "gan.ckpt")
    method.load_weights(run)  # whose discriminator is another
    expected = UNetDiscriminator.official(released(4))
    for name, value in expected.items():
        assert value.equal(method.state_dict()[f"discriminator.{name}"])
