"""What ResShift takes HR for at each timestep, and the table of it."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from benchmarks.miniature.chain import CHAINED, FILE, MIXED, START, Chain, chain
from benchmarks.miniature.facts import resshift_chain
from degradations.bicubic import resize
from lightning_modules.backbone.shifting import ResidualShift
from lightning_modules.backbone.space import PixelSpace
from lightning_modules.resshift import ResShift


class Knows(nn.Module):
    """Predicts HR but for some of what it is given."""

    divisor = 1

    def __init__(self, hr: Tensor, given: float) -> None:
        super().__init__()
        self.hr, self.given = hr, given

    def forward(self, x: Tensor, t: Tensor, lr: Tensor) -> Tensor:
        return (1 - self.given) * (2 * self.hr - 1) + self.given * x


@pytest.fixture
def batch() -> dict[str, Any]:
    torch.manual_seed(0)
    hr = torch.rand(2, 3, 16, 16)
    return {"hr": hr, "lr": resize(hr, (8, 8)), "seed": torch.tensor([3, 4]), "size": (16, 16)}


def errors(batch: dict[str, Any], given: float) -> dict[str, Tensor]:
    process = ResidualShift(steps=5, kappa=1.0)
    return chain(ResShift(2, Knows(batch["hr"], given), PixelSpace(), process=process), batch)


def test_who_knows_hr_makes_no_error(batch: dict[str, Any]) -> None:
    found = errors(batch, 0.0)
    assert {name: tuple(e.shape) for name, e in found.items()} == {
        **{MIXED: (2, 5), CHAINED: (2, 5)},
        START: (2, 1),
    }
    assert found[MIXED].max() < 1e-10
    assert found[CHAINED].max() < 1e-10
    assert found[START].min() > 0.01


def test_what_is_given_counts_less_and_less(batch: dict[str, Any]) -> None:
    """Noise falls with t, so that a mixture says ever more of HR; of the chain it does not."""
    found = errors(batch, 0.5)
    assert (found[MIXED].diff(dim=1) < 0).all()
    assert found[MIXED][:, -1].max() < 0.01
    assert (found[CHAINED][:, -1] > found[MIXED][:, -1]).all()
    again = errors(batch, 0.5)
    assert torch.equal(found[CHAINED], again[CHAINED])  # noise by the seed of a picture


def test_table(tmp_path: Path) -> None:
    for row in ("pixel", "taef2", "taef2_long"):
        (tmp_path / row).mkdir()
        content = {MIXED: [float(t) for t in range(14, -1, -1)], CHAINED: [9.0] * 15, START: [0.5]}
        (tmp_path / row / FILE).write_text(json.dumps(content))
    (table,) = resshift_chain(tmp_path.joinpath, {}).values()
    assert table["pixels, of HR with noise, as in training"] == {
        "enlarged LR": 0.5,
        **{f"t = {t}": t for t in (14, 11, 8, 5, 2, 0)},
    }
    assert table["latents, of the chain"]["t = 0"] == 9


def test_a_second_seed_measures_nothing(batch: dict[str, Any], tmp_path: Path) -> None:
    calls: list[int] = []
    network = Knows(batch["hr"], 0.5)
    network.register_forward_hook(lambda *_: calls.append(1))
    process = ResidualShift(steps=5, kappa=1.0)
    model = ResShift(2, network, PixelSpace(), process=process)
    trainer: Any = SimpleNamespace(default_root_dir=str(tmp_path))
    callback = Chain()
    for _ in range(2):
        callback.on_test_batch_end(trainer, model, None, batch, 0)
        callback.on_test_end(trainer, model)
    assert len(calls) == 2 * process.steps
    assert len(json.loads((tmp_path / FILE).read_text())[CHAINED]) == process.steps
