"""`run.matmul_precision` and `trainer.benchmark`: by the device, as given, and put back."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from jsonargparse import Namespace

from commands.run.arithmetic import arithmetic
from commands.run.directory import RunOptions
from datamodules.base import CropSettings, SRDataModule
from datamodules.scales import Scales

OWN = ("highest", False, True)  # torch's defaults: TF32 for convolutions


EXACT = ("highest", False, False)


def now() -> tuple[str, bool, bool]:
    cudnn = torch.backends.cudnn
    return torch.get_float32_matmul_precision(), cudnn.benchmark, cudnn.allow_tf32


@pytest.fixture(autouse=True)
def _own() -> Iterator[None]:
    assert now() == OWN
    yield
    assert now() == OWN


def within(
    device: str = "cuda",
    command: str = "fit",
    deterministic: Any = None,
    benchmark: bool | None = None,
    scales: Scales | None = None,
    **options: Any,
) -> tuple[str, bool, bool]:
    strategy = SimpleNamespace(root_device=torch.device(device))
    trainer: Any = SimpleNamespace(strategy=strategy)
    asked = Namespace(deterministic=deterministic, benchmark=benchmark)
    data = SRDataModule(2, crops=CropSettings(scales=scales), crop_size=96)
    with arithmetic(RunOptions(**options), asked, trainer, command, data):
        return now()


@pytest.mark.parametrize(
    ("capability", "settings", "expected"),
    [
        ((8, 0), {}, ("high", True, True)),
        ((8, 0), {"scales": Scales()}, ("high", False, True)),
        ((7, 5), {}, OWN),
        ((9, 0), {"command": "test"}, OWN),
        ((9, 0), {"device": "cpu"}, OWN),
        ((9, 0), {"deterministic": True}, EXACT),
        ((9, 0), {"command": "test", "matmul_precision": "highest"}, EXACT),
        ((9, 0), {"benchmark": False}, ("high", False, True)),  # Lightning has set it
    ],
)
def test_by_the_device(
    monkeypatch: pytest.MonkeyPatch,
    capability: tuple[int, int],
    settings: dict[str, Any],
    expected: tuple[str, bool, bool],
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert within(**settings) == expected
