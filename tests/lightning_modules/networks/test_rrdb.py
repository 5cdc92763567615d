"""RRDBNet and SRVGGNetCompact: the released layout, and spandrel's outputs from them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_modules.networks.compact import SRVGGNetCompact
from lightning_modules.networks.rrdb import RRDBNet
from lightning_modules.networks.spandrel import Spandrel
from lightning_modules.one_pass.real_esrgan import RealESRGAN
from lightning_modules.one_pass.regression import Regression

FIRST = {4: 3, 2: 12, 1: 48}  # channels that enter, by scale


def released_rrdb(scale: int, channels: int = 64, blocks: int = 23) -> dict[str, tuple[int, ...]]:
    """Names and shapes of RealESRGAN_x4plus.pth and RealESRGAN_x2plus.pth."""
    shapes = {"conv_first": (channels, FIRST[scale])}
    for block in range(blocks):
        for dense in (1, 2, 3):
            for number in range(1, 6):
                outputs = channels if number == 5 else 32
                name = f"body.{block}.rdb{dense}.conv{number}"
                shapes[name] = (outputs, channels + 32 * (number - 1))
    for name in ("conv_body", "conv_up1", "conv_up2", "conv_hr"):
        shapes[name] = (channels, channels)
    shapes["conv_last"] = (3, channels)
    found: dict[str, tuple[int, ...]] = {}
    for name, (outputs, inputs) in shapes.items():
        found |= {f"{name}.weight": (outputs, inputs, 3, 3), f"{name}.bias": (outputs,)}
    return found


def released_compact(scale: int, channels: int = 64, convs: int = 32) -> dict[str, tuple[int, ...]]:
    """Names and shapes of realesr-general-x4v3.pth."""
    found: dict[str, tuple[int, ...]] = {}
    for number in range(convs + 1):
        inputs = channels if number else 3
        found[f"body.{2 * number}.weight"] = (channels, inputs, 3, 3)
        found[f"body.{2 * number}.bias"] = (channels,)
        found[f"body.{2 * number + 1}.weight"] = (channels,)
    last, outputs = 2 * (convs + 1), 3 * scale**2
    found |= {f"body.{last}.weight": (outputs, channels, 3, 3), f"body.{last}.bias": (outputs,)}
    return found


def random(shapes: dict[str, tuple[int, ...]], seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(shape, generator=generator) * 0.1 / max(len(shape) - 1, 1)
        for name, shape in shapes.items()
    }


SMALL: dict[str, Any] = {
    "RRDB x4": (4, lambda s: RRDBNet(s, 8, 2), released_rrdb(4, 8, 2)),
    "RRDB x2": (2, lambda s: RRDBNet(s, 8, 2), released_rrdb(2, 8, 2)),
    "compact x2": (2, lambda s: SRVGGNetCompact(s, 8, 3), released_compact(2, 8, 3)),
    "compact x3": (3, lambda s: SRVGGNetCompact(s, 8, 3), released_compact(3, 8, 3)),
}


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("key", ["params_ema", "params"])
def test_released_files_load_and_compute_what_spandrel_does(
    name: str, key: str, tmp_path: Path
) -> None:
    pytest.importorskip("spandrel", reason="needs the optional package spandrel")
    scale, make, shapes = SMALL[name]
    file = tmp_path / "released.pth"
    torch.save({key: random(shapes)}, file)
    lr = torch.rand(2, 3, 12, 16, generator=torch.Generator().manual_seed(1))
    expected = Spandrel(scale, str(file))(lr)
    for method in (Regression, RealESRGAN):
        model: Any = method(scale, network=make)
        model.load_weights(file)
        assert model.weights_source == str(file)
        with torch.no_grad():
            found = model(lr, (12 * scale, 16 * scale)).clamp(0, 1)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_a_file_of_another_size_is_refused(tmp_path: Path) -> None:
    torch.save({"params_ema": random(released_rrdb(4, 8, 2))}, tmp_path / "x4.pth")
    model = RealESRGAN(4, network=lambda s: RRDBNet(s, 8, 3))
    with pytest.raises(ValueError, match="30 missing"):
        model.load_weights(tmp_path / "x4.pth")
    model = RealESRGAN(2, network=lambda s: RRDBNet(s, 8, 2))
    with pytest.raises(ValueError, match=r"weights for x4, and data\.init_args\.scale is 2"):
        model.load_weights(tmp_path / "x4.pth")


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (5, 4), (7, 9)])
@pytest.mark.parametrize("scale", [1, 2, 4])
def test_any_size(scale: int, size: tuple[int, int]) -> None:
    lr = torch.rand(1, 3, *size)
    for network in (RRDBNet(scale, 4, 1), SRVGGNetCompact(scale, 4, 1)):
        assert network(lr).shape == (1, 3, scale * size[0], scale * size[1])
