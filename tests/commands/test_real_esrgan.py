"""Real-ESRGAN, exported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from lightning_modules.methods.real_esrgan import RealESRGAN
from lightning_modules.networks.rrdb import RRDBNet, SRVGGNetCompact
from tests.commands.export.test_export import written


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
