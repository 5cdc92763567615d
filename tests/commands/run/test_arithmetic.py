"""`run.matmul_precision` and `run.cudnn_benchmark`: by the device, as given, and put back."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from jsonargparse import Namespace

from commands.errors import ConfigurationError
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
        ((8, 0), {"scales": Scales(), "cudnn_benchmark": True}, ("high", True, True)),
        ((7, 5), {}, OWN),
        ((9, 0), {"command": "test"}, OWN),
        ((9, 0), {"device": "cpu"}, OWN),
        ((9, 0), {"deterministic": True}, EXACT),
        ((9, 0), {"matmul_precision": "highest"}, ("highest", True, False)),
        ((9, 0), {"command": "test", "matmul_precision": "highest"}, EXACT),
        ((9, 0), {"cudnn_benchmark": False}, ("high", False, True)),
        ((9, 0), {"benchmark": False}, ("high", False, True)),  # Lightning has set it
        ((9, 0), {"command": "test", "matmul_precision": "medium"}, ("medium", False, True)),
        ((9, 0), {"deterministic": True, "matmul_precision": "high"}, ("high", False, False)),
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


def test_exactness_overrules_what_was_set_before() -> None:
    torch.backends.cudnn.benchmark = True
    torch.set_float32_matmul_precision("medium")
    try:
        assert within("cpu") == ("medium", True, True)
        assert within("cpu", deterministic=True) == EXACT
        assert now() == ("medium", True, True)
    finally:
        torch.set_float32_matmul_precision("highest")
        torch.backends.cudnn.benchmark = False


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"deterministic": "warn"}, "and trainer.deterministic is warn: leave one of them out"),
        ({"benchmark": False}, "run.cudnn_benchmark is True and trainer.benchmark is False: leave"),
    ],
)
def test_contradictions(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        within("cpu", cudnn_benchmark=True, **settings)


def test_it_is_logged_and_stored(
    tiny: Path, bicubic: str, enlarger: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    own = ["--config", "tiny.yaml", "--config", bicubic, "--run.name", "a"]
    with caplog.at_level(logging.INFO, "commands.run.arithmetic"):
        enlarger("test", *own, "--run.matmul_precision", "medium")
    said = [r.getMessage() for r in caplog.records if r.name == "commands.run.arithmetic"]
    text = "run.matmul_precision medium, run.cudnn_benchmark false, convolutions in TF32, on cpu"
    assert said == [f"arithmetic: {text}"]
    stored = json.loads((tiny / "runs" / "a" / "results.json").read_text())["arithmetic"]
    expected = {"matmul_precision": "medium", "cudnn_benchmark": False, "cudnn_tf32": True}
    expected["deterministic"] = False
    assert stored == expected
