"""RRDBNet and SRVGGNetCompact: the released layout, and spandrel's outputs from them."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from lightning_modules.methods.real_esrgan import RealESRGAN
from lightning_modules.methods.regression import Regression
from lightning_modules.networks.rrdb import RRDBNet, SRVGGNetCompact
from lightning_modules.networks.spandrel import Spandrel

Shapes = dict[str, tuple[int, ...]]


def shapes_of(network: nn.Module) -> Shapes:
    """Names and shapes, which are those of the released files: see test_layouts.py."""
    return {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}


def random(shapes: Shapes) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        name: torch.randn(shape, generator=generator) * 0.1 / max(len(shape) - 1, 1)
        for name, shape in shapes.items()
    }


@pytest.mark.parametrize(
    ("scale", "make"),
    [
        (4, partial(RRDBNet, channels=8, blocks=2)),
        (2, partial(RRDBNet, channels=8, blocks=2)),
        (2, partial(SRVGGNetCompact, channels=8, convolutions=3)),
        (3, partial(SRVGGNetCompact, channels=8, convolutions=3)),
    ],
)
@pytest.mark.parametrize("key", ["params_ema", "params"])
def test_released_files_load_and_compute_what_spandrel_does(
    scale: int, make: Any, key: str, tmp_path: Path
) -> None:
    pytest.importorskip("spandrel", reason="needs the optional package spandrel")
    file = tmp_path / "released.pth"
    torch.save({key: random(shapes_of(make(scale)))}, file)
    lr = torch.rand(2, 3, 12, 16, generator=torch.Generator().manual_seed(1))
    expected = Spandrel(scale, str(file))(lr)
    for method in (Regression, RealESRGAN):
        model: Any = method(scale, network=make)
        model.load_weights(file)
        assert model.weights_source == str(file)
        with torch.no_grad():
            found = model(lr, (12 * scale, 16 * scale)).clamp(0, 1)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_esrgans_first_names() -> None:
    esrgan = pytest.importorskip("spandrel.architectures.ESRGAN", reason="needs spandrel")
    first = esrgan.ESRGAN(num_filters=8, num_blocks=2, scale=4).eval()
    network = RRDBNet(4, channels=8, blocks=2)
    network.load_state_dict(network.official(first.state_dict()))
    lr = torch.rand(1, 3, 6, 5)
    with torch.no_grad():
        torch.testing.assert_close(network(lr), first(lr))
