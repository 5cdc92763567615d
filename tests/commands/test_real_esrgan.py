"""Real-ESRGAN by the command line: refused options, exported."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from lightning_modules.methods.real_esrgan import RealESRGAN
from lightning_modules.networks.rrdb import RRDBNet, SRVGGNetCompact
from tests.commands.export.test_export import written
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


def test_what_the_trainer_would_do_is_the_method_s(gan: str, refusal: Refusal) -> None:
    for flag, own in (("gradient_clip_val", "clip"), ("accumulate_grad_batches", "accumulate")):
        sentence = refusal("fit", "--config", gan, f"--trainer.{flag}", 2)
        assert f"set model.{own} instead, and remove trainer.{flag}" in sentence


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
