"""Real-ESRGAN by the command line: resumed bit for bit, refused options, exported, fine-tuned."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

import enlarger as api
from lightning_modules.networks.compact import SRVGGNetCompact
from lightning_modules.networks.rrdb import RRDBNet
from lightning_modules.one_pass.real_esrgan import RealESRGAN
from tests.commands.export.test_export import written
from tests.commands.test_resume import Interruption, assert_same, newest
from tests.lightning_modules.networks.test_rrdb import random, released_compact
from tests.lightning_modules.networks.test_unet_discriminator import released
from tests.lightning_modules.vgg19 import save_vgg19

Enlarger = Callable[..., None]
Refusal = Callable[..., str]
MODEL = """
class_path: lightning_modules.RealESRGAN
init_args:
  network:
    class_path: lightning_modules.SRVGGNetCompact
    init_args: {channels: 8, convolutions: 1}
  losses:
    l1: lightning_modules.L1
    perceptual:
      class_path: lightning_modules.VGG19Perceptual
      init_args: {start: 4, layers: {conv1_2: 1.0}, perceptual_weights: vgg19.pth}
  gan: {start: 2}
  discriminator: {class_path: lightning_modules.UNetDiscriminator, init_args: {width: 4}}
  lr_scheduler: {class_path: torch.optim.lr_scheduler.StepLR, init_args: {step_size: 3, gamma: 0.9}}
"""


@pytest.fixture
def gan(tiny: Path) -> str:
    """The name of a file like `tiny.yaml` that trains against a discriminator."""
    content = yaml.safe_load((tiny / "tiny.yaml").read_text())
    content["model"] = yaml.safe_load(MODEL)
    (tiny / "gan.yaml").write_text(yaml.safe_dump(content))
    save_vgg19(tiny, ("conv1_1", "conv1_2")).rename(tiny / "vgg19.pth")
    return "gan.yaml"


INTERRUPTED = "tests.commands.test_real_esrgan.Interruption"
__all__ = ["Interruption"]  # a callback that the command line finds here
CASES: dict[str, tuple[tuple[str, int], tuple[Any, ...]]] = {
    "in the middle of an epoch": (("backward", 8), ()),
    "between the batches of an accumulation": (
        ("batch_start", 8),
        ("--model.init_args.accumulate", 2, "--model.init_args.clip", 0.05),
    ),
    "in a step, after the weights changed": (("batch_end", 9), ("--checkpoint.every_n_steps", 1)),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_it_resumes_bit_for_bit(gan: str, enlarger: Enlarger, case: str) -> None:
    """Both networks and optimisers, and the power iterations."""
    (hook, batch), extra = CASES[case]
    command = ("fit", "--config", gan, "--trainer.callbacks+", INTERRUPTED, *extra)
    enlarger(*command, "--run.name", "whole")
    Interruption.hook, Interruption.batch = hook, batch
    with pytest.raises(RuntimeError, match="interrupted"):
        enlarger(*command, "--run.name", "stopped")
    enlarger(*command, "--run.name", "stopped")
    assert_same("stopped", "whole")
    state = newest("whole")
    assert len(state["optimizer_states"]) == 2
    names = state["state_dict"]
    assert sum(name.endswith("._u") for name in names) == 8
    assert not any(name.startswith("losses") for name in names)
    assert set(state["callbacks"]["EMA"]["weights"]) == {
        n for n in names if n.startswith("network")
    }


def test_what_the_trainer_would_do_is_the_method_s(gan: str, refusal: Refusal) -> None:
    for flag, own in (("gradient_clip_val", "clip"), ("accumulate_grad_batches", "accumulate")):
        sentence = refusal("fit", "--config", gan, f"--trainer.{flag}", 2)
        assert f"set model.{own} instead, and remove trainer.{flag}" in sentence


def test_bad_input_is_one_sentence(gan: str, refusal: Refusal) -> None:
    Path("vgg19.pth").unlink()
    sentence = refusal("fit", "--config", gan)
    assert "losses.perceptual.perceptual_weights is 'vgg19.pth'" in sentence


@pytest.mark.slow
def test_released_files_are_fine_tuned_and_exported(gan: str, enlarger: Enlarger) -> None:
    """Both networks; spandrel reads what comes out, and it is not what went in."""
    pytest.importorskip("spandrel", reason="needs the optional package spandrel")
    torch.save({"params_ema": random(released_compact(2, 8, 1))}, "x2.pth")
    torch.save({"params": released(4)}, "netD.pth")
    start = ("--model.init_args.weights", "x2.pth")
    judge = ("--model.init_args.discriminator_weights", "netD.pth")
    enlarger("fit", "--config", gan, *start, *judge, "--trainer.max_steps", 2)
    enlarger("export", "runs/gan", "--export.community", "true")
    found = load_file("runs/gan/export/network.safetensors")
    assert {name: tuple(t.shape) for name, t in found.items()} == released_compact(2, 8, 1)
    trained = newest("gan")["callbacks"]["EMA"]["weights"]
    begun = torch.load("x2.pth")["params_ema"]
    for name, tensor in found.items():
        assert torch.equal(tensor, trained[f"network.{name}"])
        assert not torch.equal(tensor, begun[name])
    card = Path("runs/gan/export/README.md").read_text()
    assert "`network.safetensors`: the network alone" in card
    enlarger("export", "runs/gan", "--export.overwrite", "true")
    assert not Path("runs/gan/export/network.safetensors").exists()


def test_a_file_of_spandrel_is_fine_tuned(tiny: Path, enlarger: Enlarger) -> None:
    """By the loss of pixels alone; what comes out is a file of spandrel again."""
    pytest.importorskip("spandrel", reason="needs the optional package spandrel")
    begun = random(released_compact(2, 8, 1))
    torch.save({"params": begun}, "x2.pth")
    network = "{class_path: lightning_modules.Spandrel, init_args: {path: x2.pth, train: true}}"
    command = ("fit", "--config", "tiny.yaml", "--trainer.max_steps", 2)
    enlarger(*command, "--model.init_args.network", network)
    enlarger("export", "runs/tiny", "--export.community", "true")
    found = load_file("runs/tiny/export/network.safetensors")
    trained = newest("tiny")["callbacks"]["EMA"]["weights"]
    assert found.keys() == begun.keys()
    for name, tensor in found.items():
        assert torch.equal(tensor, trained[f"network.model.{name}"])
        assert not torch.equal(tensor, begun[name])


def test_a_trained_run_enlarges_in_python(gan: str, enlarger: Enlarger) -> None:
    enlarger("fit", "--config", gan, "--trainer.max_steps", 1)
    assert Path("vgg19.pth").rename("elsewhere.pth")  # only training needs it
    lr = torch.rand(3, 10, 12)
    assert api.load("runs/gan").enlarge(lr).shape == (3, 20, 24)


@pytest.mark.parametrize("scale", [2, 4])
@pytest.mark.parametrize("network", [RRDBNet, SRVGGNetCompact])
def test_spandrel_reads_an_export(network: Any, scale: int, tmp_path: Path) -> None:
    spandrel = pytest.importorskip("spandrel", reason="needs the optional package spandrel")
    torch.manual_seed(0)
    model = RealESRGAN(scale, network=lambda s: network(s, 8, 2))
    out = written(model, tmp_path, community=True)
    descriptor = spandrel.ModelLoader().load_from_file(out / "network.safetensors")
    assert descriptor.scale == scale
    lr = torch.rand(1, 3, 12, 16)
    with torch.no_grad():
        expected = model(lr, (12 * scale, 16 * scale)).clamp(0, 1)
    torch.testing.assert_close(descriptor(lr).clone(), expected, rtol=0, atol=1e-5)


def test_a_network_that_spandrel_does_not_know(
    gan: str, enlarger: Enlarger, refusal: Refusal
) -> None:
    enlarger("fit", "--config", "tiny.yaml", "--trainer.max_steps", 1)
    sentence = refusal("export", "runs/tiny", "--export.community", "true")
    assert "EDSR is no network that spandrel reads" in sentence
    assert not Path("runs/tiny/export").exists()
