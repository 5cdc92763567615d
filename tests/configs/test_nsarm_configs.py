"""NSARM's experiments of its paper."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from commands.cli import EnlargerCLI
from tests.conftest import REPO
from tests.quick import quick

Enlarger = Callable[..., None]
CONFIGS = REPO / "configs"


def model_of(
    name: str, verb: str, enlarger: Enlarger, monkeypatch: pytest.MonkeyPatch, *more: str
) -> Any:
    """The model of an experiment, as the command makes it, without memory for its weights."""
    made: list[Any] = []

    def stop(cli: EnlargerCLI) -> None:
        made.append(cli.model)
        raise SystemExit(0)

    monkeypatch.setattr(EnlargerCLI, "after_instantiate_classes", stop)
    monkeypatch.setattr("commands.cli.needed_files", lambda *_: {})  # published files, read later
    trainer = (
        "--trainer.accelerator",
        "cpu",
        "--trainer.devices",
        "1",
        "--trainer.logger",
        "false",
    )
    with torch.device("meta"), pytest.raises(SystemExit) as stopped:
        enlarger(verb, *in_place(name), *trainer, *more)
    assert stopped.value.code == 0
    return made[0]


def in_place(name: str) -> tuple[str, ...]:
    if name.startswith("experiment/"):
        return ("--config", str(CONFIGS / name))
    return ("--model", str(CONFIGS / name), "--data", str(CONFIGS / "data/photos.yaml"))


def millions(network: nn.Module) -> float:
    return round(sum(parameter.numel() for parameter in network.parameters()) / 1e6, 1)


NO_TEXT = ("--model.init_args.encoder", "null")  # T5 is not to be had here
ON_ONE = ("--trainer.strategy", "auto", "--trainer.precision", "32")


class TestPaper:
    def test_stage_one(self, tmp_path, enlarger, monkeypatch):
        monkeypatch.chdir(tmp_path)
        model = model_of("experiment/nsarm_8b_stage1.yaml", "fit", enlarger, monkeypatch, *ON_ONE)
        assert type(model).__name__ == "NSARMStageOne"
        assert (millions(model.mapper), millions(model.space)) == (385.1, 81.6)
        assert model.scales.latents[:7] == model.mapper.grids
        assert model.tile == 256

    @pytest.mark.parametrize(("name", "count"), quick([("2b", 2204.6), ("8b", 8375.8)], "2b"))
    def test_infinity(self, tmp_path, enlarger, monkeypatch, name, count):
        monkeypatch.chdir(tmp_path)
        model = model_of(f"model/infinity_{name}.yaml", "fit", enlarger, monkeypatch, *NO_TEXT)
        assert millions(model.transformer) == count
        sides = {"2b": 64, "8b": 128}[name]
        assert model.space.scales((sides, sides)).tokens == 10_521
