"""Each network of configs/network: its size, two steps, its export, which spandrel reads again."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import lightning_modules
from files.yaml import plain_yaml
from lightning_modules.methods.regression import Regression
from lightning_modules.networks.spandrel import Spandrel
from lightning_modules.optimisation import adam
from tests.conftest import REPO

FILES = sorted((REPO / "configs/network").glob("*.yaml"))


@pytest.mark.slow
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_network_trains_and_spandrel_reads_it(file: Path, tmp_path: Path) -> None:
    pytest.importorskip("spandrel", reason="needs the optional package spandrel")
    text = file.read_text()
    preset = plain_yaml(text)
    kind = getattr(lightning_modules, preset["class_path"].rpartition(".")[2])
    torch.manual_seed(0)
    model: Any = Regression(4, partial(kind, **preset["init_args"]))
    stated = re.search(r": ([\d.]+) M parameters", text)
    millions = sum(p.numel() for p in model.parameters()) / 1e6
    assert stated is not None
    assert f"{millions:.2f}" == stated[1]
    hr = torch.rand(2, 3, 32, 32)  # batch norms need two
    batch = {"hr": hr, "lr": torch.rand(2, 3, 8, 8), "size": (32, 32)}
    model.log = lambda *args, **kwargs: None
    optimizer = adam(model.parameters())
    for _ in range(2):
        model.training_step(batch, 0).backward()
        unused = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
        assert not unused  # which DDP refuses
        optimizer.step()
        optimizer.zero_grad()
    exported = {name: t.contiguous().clone() for name, t in model.network.community().items()}
    save_file(exported, tmp_path / "a.safetensors")
    again = Spandrel(4, str(tmp_path / "a.safetensors"))
    with torch.no_grad():
        expected = model.eval()(batch["lr"]).clamp(0, 1)
        torch.testing.assert_close(again(batch["lr"]), expected, atol=1e-4, rtol=0)
