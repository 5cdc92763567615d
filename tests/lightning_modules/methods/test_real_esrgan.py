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
    """Bit for bit, in the released order: a step of the network, then one of the discriminator.

    The discriminator sees HR without sharpening, and the output before the network's step.
    """
    data = batches(4)
    model = real_esrgan(losses={"charbonnier": Charbonnier(weight=0.5)}, sharpen=sharpen)
    fit(tmp_path, model, data)

    by_hand = real_esrgan()
    network = by_hand.network
    judge = by_hand.discriminator
    adam = torch.optim.Adam(network.parameters(), lr=0.01)
    adam_of_judge = torch.optim.Adam(judge.parameters(), lr=0.02)
    gan = GAN()  # the default, which Real-ESRGAN weighs by 0.1
    for batch in data:
        hr = batch["hr"]
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
    """Of L1, the adversarial loss from step 1, three times L1 from step 2, and one set to null."""
    losses = {"l1": L1(), "late": L1(weight=3.0, start=2), "none": None}

    run = fit(tmp_path, real_esrgan(losses=losses, gan=GAN(start=1)), batches(steps))

    logged = {name.removeprefix("train/"): value for name, value in run.logged_metrics.items()}
    terms = {name: logged[name] for name in ("l1", "adversarial", "late") if name in logged}
    assert terms.keys() == expected
    assert logged["loss"] == pytest.approx(sum(terms.values()))
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
    """The same, derived from the class of losses that do not train."""


def test_the_network_of_a_loss_is_neither_trained_nor_averaged(tmp_path):
    """Else the loss would fall by a change of its features, or of their running statistics."""
    ema = EMA()
    model = real_esrgan(losses={"perceptual": Perceptual()})
    before = tensors(model)
    model.train()

    fit(tmp_path, model, batches(3), ema)

    assert parts_that_moved(before, model) == {"network", "discriminator"}
    averaged = {name.partition(".")[0] for name in ema.state_dict()["weights"]}
    assert averaged == {"network"}


def test_a_loss_with_a_parameter_of_its_own_is_refused():
    """A `Loss` is frozen, so its weight would never be learned; a `TrainedLoss` learns."""
    with pytest.raises(ValueError, match=r"losses\.own, a Forgetful, has the parameter log_varia"):
        real_esrgan(losses={"own": Forgetful()})


def test_a_trained_loss_learns_and_checkpoints_restore_it_by_its_name(tmp_path):
    """A loss with another name is a new one, and starts from 0."""
    model = real_esrgan(losses={"own": Weighted()})
    run = fit(tmp_path, model, batches(3))
    run.save_checkpoint(tmp_path / "a.ckpt")

    same_name = real_esrgan(losses={"own": Weighted()})
    same_name.load_weights(tmp_path / "a.ckpt")
    other_name = real_esrgan(losses={"other": Weighted()})
    other_name.load_weights(tmp_path / "a.ckpt")

    learned = model.losses["own"].log_variance
    assert learned != 0
    assert same_name.losses["own"].log_variance == learned
    assert other_name.losses["other"].log_variance == 0


class Noted(LDL):
    """A loss of 0 that notes its last ``average``: the output of the averaged weights."""

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


def with_ldl(folder, loss):
    """A method after three steps with LDL, its data and its averages, which move by halves."""
    data = batches(3)
    model = real_esrgan(losses={"l1": L1(), "ldl": loss}, network=Normalised)
    ema = EMA(decay=0.5, first=None)
    fit(folder, model, data, ema)
    return model, data, ema


def test_ldl_compares_with_the_output_of_the_averaged_weights(tmp_path):
    """As in evaluation: by the running statistics of the batch norm, which are not averaged."""
    loss = Noted()
    model, data, ema = with_ldl(tmp_path, loss)

    # After the loss of the last step, the averages became (averages + weights) / 2.
    weights = tensors(model)
    for name, average in ema.state_dict()["weights"].items():
        weights[name] = 2 * average - weights[name]
    model.load_state_dict(weights)
    last = list(data)[-1]
    assert_close(loss.average, model.eval()(last["lr"], last["size"]))


def test_an_ldl_of_0_does_not_change_training(tmp_path):
    """The averaged weights, which its pass needs, go back, and running statistics stay."""
    model, data, _ = with_ldl(tmp_path, Noted())

    without_ldl = real_esrgan(network=Normalised)
    fit(tmp_path, without_ldl, data, EMA(decay=0.5, first=None))
    assert_close(tensors(model), tensors(without_ldl))


def test_ldl_without_averages_is_refused(tmp_path):
    """It compares errors of the output with those of averaged weights, which `EMA` keeps."""
    with pytest.raises(ValueError, match=r"losses\.ldl .*: add callbacks\.EMA"):
        fit(tmp_path, real_esrgan(losses={"ldl": LDL()}), batches(1))


# --------------------------------------------------------------------------------------- weights


def with_vgg19(folder):
    model = real_esrgan(losses={"perceptual": VGG19Perceptual(layers={"conv1_2": 1.0})})
    file = save_vgg19(folder, ("conv1_1", "conv1_2"))
    model.load_parts(lambda key, value: {"vgg19": file}[value])
    return model


def test_vgg19_is_loaded_for_training_alone(tmp_path):
    """A test computes no loss, so it needs neither the memory of VGG19 nor its file."""
    model = with_vgg19(tmp_path)
    model.setup("test")
    assert not any(name.startswith("losses") for name in model.state_dict())

    fit(tmp_path, model, batches(2))
    assert any(name.startswith("losses.perceptual.network") for name in model.state_dict())


def test_checkpoints_have_the_source_of_vgg19_instead_of_its_weights(tmp_path):
    model = with_vgg19(tmp_path)
    run = fit(tmp_path, model, batches(2))
    run.save_checkpoint(tmp_path / "a.ckpt")

    saved = torch.load(tmp_path / "a.ckpt", weights_only=True)
    assert {name.partition(".")[0] for name in saved["state_dict"]} == {"network", "discriminator"}
    assert saved["frozen"].keys() == {"losses.perceptual"}  # its source
    loaded = with_vgg19(tmp_path)
    loaded.load_weights(tmp_path / "a.ckpt")
    assert_close(tensors(loaded), saved["state_dict"], rtol=0, atol=0)


def test_a_file_of_discriminator_weights_wins_over_the_discriminator_of_a_run(tmp_path):
    """Its path is set for the discriminator alone; ``load_weights`` is for the whole model."""
    released = released_unet_discriminator(width=4)
    torch.save({"params": released}, tmp_path / "netD.pth")
    other = real_esrgan(UNetDiscriminator(width=4))
    run = make.save_run(other, tmp_path / "gan.ckpt")
    model = real_esrgan(UNetDiscriminator(width=4), discriminator_weights="netD")
    before = tensors(model)

    model.load_parts(lambda key, value: {"netD": tmp_path / "netD.pth"}[value])
    assert parts_that_moved(before, model) == {"discriminator"}

    model.load_weights(run)
    for name, tensor in UNetDiscriminator.official(released).items():
        assert tensor.equal(model.state_dict()[f"discriminator.{name}"])
