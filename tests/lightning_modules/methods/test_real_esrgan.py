"""Real-ESRGAN: its step against a plain loop, its losses, their start, their weights."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from callbacks.training.ema import EMA
from degradations.stages.sharpen import USM
from lightning_modules.losses import GAN, L1, LDL, Charbonnier, Loss, TrainedLoss, VGG19Perceptual
from lightning_modules.methods.real_esrgan import RealESRGAN
from lightning_modules.networks.discriminator import UNetDiscriminator
from lightning_modules.networks.rrdb import SRVGGNetCompact
from tests import make
from tests.lightning_modules.networks.test_judges import released_unet_discriminator
from tests.lightning_modules.test_adversarial import batches, fit, tensors
from tests.lightning_modules.vgg19 import save_vgg19


class Judge(nn.Module):
    """A discriminator of one convolution."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 1, 3)

    def forward(self, images):
        return [self.conv(images)]


SMALL = partial(SRVGGNetCompact, channels=4, convolutions=1)


def real_esrgan(discriminator=None, losses=None, network=SMALL, **settings):
    torch.manual_seed(0)
    return RealESRGAN(
        2.0,
        network=network,
        discriminator=discriminator or Judge(),
        losses=losses or {"l1": L1()},
        optimizer=partial(torch.optim.Adam, lr=0.01),
        discriminator_optimizer=partial(torch.optim.Adam, lr=0.02),
        **settings,
    )


def parts_that_moved(before, model):
    """The parts in which a tensor has changed."""
    moved = [name for name, tensor in tensors(model).items() if not tensor.equal(before[name])]
    return {name.partition(".")[0] for name in moved}


# -------------------------------------------------------------------------------------- the step


@pytest.mark.parametrize("sharpen", [True, False])
def test_real_esrgan_trains_as_a_plain_loop_does(tmp_path, sharpen):
    """Bit for bit, with the released order: generator first, then HR, then its old output."""
    data = batches(4)
    model = real_esrgan(losses={"charbonnier": Charbonnier(weight=0.5)}, sharpen=sharpen)
    fit(tmp_path, model, data)

    by_hand = real_esrgan()
    network = by_hand.network
    judge = by_hand.discriminator
    adam = torch.optim.Adam(network.parameters(), lr=0.01)
    adam_of_judge = torch.optim.Adam(judge.parameters(), lr=0.02)
    gan = GAN()  # the default, of weight 0.1
    for batch in data:
        hr = batch["hr"]  # as the discriminator sees it
        sr = network(batch["lr"].contiguous(memory_format=torch.channels_last))
        pixels = 0.5 * Charbonnier()(sr, USM()(hr, {}) if sharpen else hr)
        torch.stack([pixels, 0.1 * gan.generator(judge(sr))]).sum().backward()
        adam.step()
        adam.zero_grad()
        adam_of_judge.zero_grad()
        gan.discriminator(judge(hr), judge(sr.detach())).backward()
        adam_of_judge.step()
        adam_of_judge.zero_grad()
    assert_close(tensors(model), tensors(by_hand), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("steps", "expected"),
    [(1, {"l1"}), (2, {"l1", "adversarial"}), (3, {"l1", "adversarial", "late"})],
)
def test_a_term_of_the_loss_counts_from_its_start_on_by_its_weight(steps, expected, tmp_path):
    losses = {"l1": L1(), "late": L1(weight=3.0, start=2), "none": None}

    run = fit(tmp_path, real_esrgan(losses=losses, gan=GAN(start=1)), batches(steps))

    terms = {}
    for name in ("l1", "adversarial", "late"):
        if f"train/{name}" in run.logged_metrics:
            terms[name] = float(run.logged_metrics[f"train/{name}"])
    assert terms.keys() == expected
    assert float(run.logged_metrics["train/loss"]) == pytest.approx(sum(terms.values()))
    if "late" in terms:
        assert terms["late"] == pytest.approx(3 * terms["l1"])


# ------------------------------------------------------------------------------------ its losses


class Perceptual(Loss):
    """A distance of features, as users have it: neither frozen nor in evaluation."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5))

    def forward(self, sr, hr):
        return (self.features(sr) - self.features(hr)).abs().mean()


class Weighted(TrainedLoss):
    """A loss that learns its weight."""

    def __init__(self):
        super().__init__()
        self.log_variance = nn.Parameter(torch.zeros(()))

    def forward(self, sr, hr):
        return (sr - hr).abs().mean() * self.log_variance.exp() - self.log_variance


class Forgetful(Weighted, Loss):
    """The same, as a loss that does not train."""


def test_a_loss_with_a_network_changes_neither_in_training_nor_in_averages(tmp_path):
    ema = EMA()
    model = real_esrgan(losses={"perceptual": Perceptual()})
    before = tensors(model)
    model.train()

    fit(tmp_path, model, batches(3), ema)

    assert parts_that_moved(before, model) == {"network", "discriminator"}
    averaged = {name.partition(".")[0] for name in ema.state_dict()["weights"]}
    assert averaged == {"network"}


def test_a_loss_with_a_parameter_of_its_own_is_refused():
    """A `TrainedLoss` may have one."""
    with pytest.raises(ValueError, match=r"losses\.own, a Forgetful, has the parameter log_varia"):
        real_esrgan(losses={"own": Forgetful()})


def test_a_trained_loss_is_in_the_optimiser_and_in_checkpoints(tmp_path):
    model = real_esrgan(losses={"own": Weighted()})
    run = fit(tmp_path, model, batches(3))
    weight = model.losses["own"].log_variance
    assert weight != 0

    run.save_checkpoint(tmp_path / "a.ckpt")
    same_name = real_esrgan(losses={"own": Weighted()})
    same_name.load_weights(tmp_path / "a.ckpt")
    other_name = real_esrgan(losses={"other": Weighted()})
    other_name.load_weights(tmp_path / "a.ckpt")

    assert same_name.losses["own"].log_variance == weight
    assert other_name.losses["other"].log_variance == 0


class Noted(LDL):
    """A loss of 0, which notes the output of the averages."""

    def forward(self, sr, hr, average=None):
        self.average = average
        return 0 * super().forward(sr, hr, average)


class Normalised(make.Convolution):
    """Has running statistics."""

    def __init__(self, scale):
        super().__init__(scale)
        self.norm = nn.BatchNorm2d(3)

    def forward(self, lr):
        return super().forward(self.norm(lr))


def test_ldl_gets_the_output_of_the_averages_and_training_goes_on_with_the_weights(tmp_path):
    """Averages are of parameters alone; their pass uses running statistics of the batch norm."""
    data = batches(3)
    plain = real_esrgan(network=Normalised)
    fit(tmp_path, plain, data, EMA(decay=0.5, first=None))
    loss = Noted()
    model = real_esrgan(losses={"l1": L1(), "ldl": loss}, network=Normalised)
    ema = EMA(decay=0.5, first=None)
    fit(tmp_path, model, data, ema)

    weights = tensors(plain)
    assert_close(tensors(model), weights)
    # The last update moved the averages halfway to the weights; they were seen before.
    for name, average in ema.state_dict()["weights"].items():
        weights[name] = 2 * average - weights[name]
    model.load_state_dict(weights)
    last = list(data)[-1]
    assert_close(loss.average, model.eval()(last["lr"], last["size"]))


def test_ldl_without_averages_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"losses\.ldl .*: add callbacks\.EMA"):
        fit(tmp_path, real_esrgan(losses={"ldl": LDL()}), batches(1))


# --------------------------------------------------------------------------------------- weights


def with_vgg19(folder):
    model = real_esrgan(losses={"perceptual": VGG19Perceptual(layers={"conv1_2": 1.0})})
    file = save_vgg19(folder, ("conv1_1", "conv1_2"))
    model.load_parts(lambda key, value: {"vgg19": file}[value])
    return model


def test_vgg19_is_loaded_for_training_alone_and_is_in_no_checkpoint(tmp_path):
    model = with_vgg19(tmp_path)
    model.setup("test")
    assert not any(name.startswith("losses") for name in model.state_dict())

    run = fit(tmp_path, model, batches(2))
    assert any(name.startswith("losses.perceptual.network") for name in model.state_dict())

    run.save_checkpoint(tmp_path / "a.ckpt")
    saved = torch.load(tmp_path / "a.ckpt", weights_only=True)
    assert {name.partition(".")[0] for name in saved["state_dict"]} == {"network", "discriminator"}
    assert saved["frozen"].keys() == {"losses.perceptual"}
    loaded = with_vgg19(tmp_path)
    loaded.load_weights(tmp_path / "a.ckpt")
    assert_close(tensors(loaded), saved["state_dict"], rtol=0, atol=0)


def test_discriminator_weights_win_over_the_discriminator_in_weights(tmp_path):
    released = released_unet_discriminator(width=4)
    torch.save({"params": released}, tmp_path / "netD.pth")
    model = real_esrgan(UNetDiscriminator(width=4), discriminator_weights="netD")
    before = tensors(model)

    model.load_parts(lambda key, value: {"netD": tmp_path / "netD.pth"}[value])
    assert parts_that_moved(before, model) == {"discriminator"}

    other = real_esrgan(UNetDiscriminator(width=4))
    model.load_weights(make.save_run(other, tmp_path / "gan.ckpt"))
    for name, tensor in UNetDiscriminator.official(released).items():
        assert tensor.equal(model.state_dict()[f"discriminator.{name}"])
