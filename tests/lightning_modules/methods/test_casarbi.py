"""CasArbi: its equations, its cascade, its base."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch.overrides import TorchFunctionMode

from degradations.bicubic import resize
from lightning_modules.backbone.shifting import ResidualShift
from lightning_modules.methods import casarbi
from lightning_modules.methods.casarbi import CasArbi, ShiftSampling
from lightning_modules.methods.regression import Regression
from lightning_modules.networks.liif import LIIF
from lightning_modules.networks.sft_unet import SFTUNet
from lightning_modules.noise import Noise
from tests.lightning_modules.methods import test_resshift
from tests.lightning_modules.tiny import random_batch, save_run

TINY = partial(LIIF, blocks=1, channels=8, hidden=(16,), global_skip=True)


class Oracle(test_resshift.Oracle):
    def forward(self, x, t, base, features, lr_size, noise_level, boxes=None):
        self.got.append({"t": t.tolist(), "size": tuple(x.shape[-2:]), "lr": lr_size})
        self.got[-1] |= {"x": x, "level": noise_level}
        return self.answer(base) if callable(self.answer) else self.answer


def batch(h=12, w=8, size=(24, 16), count=2):
    return random_batch(count, size, lr=(3, h, w), hr=(3, *size))


def grouped(settings):
    """The settings, with those of sampling in their group."""
    if "sampler" in settings:
        settings["solver"] = settings.pop("sampler")
    own = {k: settings.pop(k) for k in list(settings) if k in ShiftSampling.__annotations__}
    return {**settings, "sampling": ShiftSampling(**own)}


def known(made, unit=0.1):
    """A cascade that has measured sigma_r."""
    made.sigma_r.fill_(unit)
    return made


def method(answer=0.0, scale=2.0, **settings):
    torch.manual_seed(0)
    network = Oracle(answer if callable(answer) else lambda base: answer + torch.zeros_like(base))
    made = known(CasArbi(scale, TINY, network=network, **grouped(settings)))
    made.log = lambda *_, **__: None
    return made.eval()


@pytest.mark.parametrize("domain", ["residual", "image"])
def test_an_oracle_is_believed(domain):
    """The last step gives what the network says, whatever noise there was on the way."""
    given = batch()
    hr = given["hr"] * 2 - 1
    made = method(domain=domain)
    made.network.answer = lambda b: hr if domain == "image" else (hr - b) / 0.1
    found = made.restore(given, Noise(given["seed"]))
    torch.testing.assert_close(found, given["hr"], rtol=0, atol=1e-5)
    assert [got["t"][0] for got in made.network.got] == list(range(14, -1, -1))


class Apart(TorchFunctionMode):
    """Refuses what a GPU would: a number that lies there, beside a table that does not."""

    def __init__(self, number):
        super().__init__()
        self.number = number

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if any(a is self.number for a in args):
            tables = [a for a in args if isinstance(a, torch.Tensor) and a.dtype == torch.float64]
            assert not any(table.ndim for table in tables), function
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("timesteps", [None, [14, 4, 0]])
def test_tables_on_the_cpu_do_not_meet_what_moves_with_the_model(timesteps):
    given, made = batch(), method(timesteps=timesteps)
    with Apart(made.sigma_r):
        made.restore(given, Noise(given["seed"]))


def test_the_network_sees_unit_deviation():
    """Of a residual whose deviation is sigma_r, at every timestep."""
    made = method()
    generator = torch.Generator().manual_seed(0)
    r, eps = torch.randn(2, 15, 3, 64, 64, generator=generator)
    t = torch.arange(15)
    x = made.process.add_noise(0.1 * r, torch.zeros_like(r), eps, t)
    deviations = made._scaled(x, t).flatten(1).std(1)
    torch.testing.assert_close(deviations, torch.ones(15), rtol=0.03, atol=0)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_batch_that_is_not_finite_is_not_measured(bad, monkeypatch):
    """``callbacks.Guard`` would leave it out of training."""
    made, given = method(), [batch(), batch(8, 8, (16, 16))]
    broken = batch() | {"lr": torch.full((2, 3, 12, 8), bad)}
    monkeypatch.setattr(made, "all_gather", lambda value: value)
    measured = []
    for batches in (given, [broken, *given]):
        monkeypatch.setattr(casarbi, "first_batches", lambda *_, batches=batches: batches)
        measured.append(made._measured())
    assert torch.equal(*measured)


def test_the_loss_is_in_units_of_sigma_r():
    given = batch()
    made = method(noise_probability=0.0)
    b, _ = made.base_output(given["lr"], given["size"])
    r = given["hr"] * 2 - 1 - b
    loss = made.training_step(given, 0)
    torch.testing.assert_close(loss, (r / 0.1).square().mean())
    made.network.answer = lambda base: r / 0.1
    assert made.training_step(given, 0) < 1e-8


def test_noise_augmentation_reaches_the_network():
    given = batch(count=64)
    made = method(noise_probability=0.5)
    torch.manual_seed(3)
    made.training_step(given, 0)
    level = made.network.got[0]["level"]
    assert 0.3 < (level > 0).float().mean() < 0.7
    assert 0.05 < level.max() <= 0.1


# ---------------------------------------------------------------------------------------- cascade


def test_weights_of_another_process_or_domain_are_warned_about(tmp_path, caplog):
    """Their tensors fit, and their outputs would be wrong without a word."""
    made = method(domain="image")
    made.load_weights(save_run(made, tmp_path / "a.ckpt"))
    assert "process" not in caplog.text
    method(process=ResidualShift(kappa=4)).load_weights(tmp_path / "a.ckpt")
    assert "process.kappa 4, there 2.0; domain residual, there image)" in caplog.text


def test_guidance_brings_the_output_back_to_its_input():
    given = batch(16, 16, (32, 32))
    given["lr"] = resize(given["hr"], (16, 16)) * 0.5 + 0.25

    def error(guidance):
        made = method(0.5, guidance=guidance)
        found = made.restore(given, Noise(given["seed"]))
        return (resize(found, (16, 16)) - given["lr"]).square().mean().item()

    assert error(1.0) < 0.1 * error(0.0)


def test_the_base_alone():
    given = batch(8, 8, (28, 28))
    made = CasArbi(3.5, TINY).eval()
    noise = Noise(given["seed"])
    found = made.restore(given, noise)
    assert not noise.drew
    y = given["lr"]
    for size in ((16, 16), (28, 28)):
        y = made.base(y, size).clamp(0, 1)
    torch.testing.assert_close(found, y, rtol=0, atol=1e-6)


# ------------------------------------------------------------------------------------------- base


def trained_base(path, seed=1):
    torch.manual_seed(seed)
    regression = Regression(2.0, TINY)
    for parameter in regression.parameters():
        parameter.data += 0.01 * torch.randn_like(parameter)
    save_run(regression, path)
    return regression


def test_the_base_comes_from_its_own_run(tmp_path):
    regression = trained_base(tmp_path / "base.ckpt")
    made = CasArbi(2.0, TINY, base_weights="runs/base", network=SFTUNet(8, 8, (1,), 1))
    asked = []
    made.load_parts(lambda *what: (asked.append(what), tmp_path / "base.ckpt")[1])
    assert asked == [("base_weights", "runs/base")]
    for name, tensor in regression.network.state_dict().items():
        assert torch.equal(made.base.state_dict()[name], tensor)
    assert made.needs_weights  # those of the network
    assert not [name for name in made.checkpoint_keys() if name.startswith("base.")]
    assert "sigma_r" in made.checkpoint_keys()
    plain = CasArbi(2.0, partial(TINY, global_skip=False))
    with pytest.raises(ValueError, match="global_skip False, there True"):
        plain.load_base(tmp_path / "base.ckpt")
    made.setup("fit")  # Lightning itself calls no `train`
    assert not any(part.training for part in made.base.modules())


def test_another_base_than_that_of_training_is_refused(tmp_path):
    trained_base(tmp_path / "one.ckpt")
    trained_base(tmp_path / "two.ckpt", seed=2)
    models = {}
    for name in ("one", "two"):
        models[name] = known(CasArbi(2.0, TINY, network=SFTUNet(8, 8, (1,), 1)))
        models[name].load_base(tmp_path / f"{name}.ckpt")
    checkpoint = {"state_dict": models["one"].state_dict()}
    models["one"].on_save_checkpoint(checkpoint)
    with pytest.raises(ValueError, match=r"trained with base from .*one\.ckpt \w+, and here it is"):
        models["two"].on_load_checkpoint(checkpoint)
    models["one"].on_load_checkpoint(checkpoint)
