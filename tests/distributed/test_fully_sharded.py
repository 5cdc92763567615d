"""FSDP on two processes: a run resumes from its checkpoint, with and without FSDP."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

from tests.distributed.records import newest
from tests.distributed.test_two_processes import by_srun, torchrun

pytestmark = pytest.mark.distributed

METRIC = "[callbacks.PSNR]"  # and no EMA, which needs whole parameters


@pytest.mark.slow
def test_goes_on_sharded_and_whole(tiny: Path, enlarger: Callable[..., None]) -> None:
    """One file for both: optimiser states in the memory layout that each needs.

    Of three images one process validates two, in tiles, while the other one has none left.
    """
    command: list[object] = ["fit", "--config", "tiny.yaml", "--trainer.callbacks", METRIC]
    command += ["--data.val.photos.files", "[1.png,2.png,3.png]"]
    command += ["--tiling.size", 16, "--tiling.overlap", 4]
    enlarger(*command, "--run.name", "alone")
    torchrun(*command, "--run.name", "parts", "--trainer.max_steps", 5, strategy="fsdp")
    enlarger(*command, "--run.name", "parts", "--trainer.max_steps", 8)
    torchrun(*command, "--run.name", "parts", strategy="fsdp")
    parts, alone = newest(Path("runs/parts")), newest(Path("runs/alone"))
    assert parts["global_step"] == alone["global_step"] == 12
    for part in ("state_dict", "optimizer_states"):
        torch.testing.assert_close(parts[part], alone[part], rtol=0, atol=1e-6)


@pytest.mark.slow
def test_a_loop_of_its_own_has_one_processs_weights(
    tiny: Path, enlarger: Callable[..., None]
) -> None:
    """Networks in a list, two optimisers; by SGD, as Adam would hide a wrong factor."""
    command: list[object] = ["fit", "--config", own("Loop"), "--data.init_args.val", "null"]
    enlarger(*command, "--run.name", "alone")
    torchrun(*command, "--run.name", "parts", "--trainer.max_steps", 5, strategy="fsdp")
    torchrun(*command, "--run.name", "parts", strategy="fsdp")
    torchrun(*command, "--run.name", "ddp", strategy="ddp_find_unused_parameters_true")
    alone = newest(Path("runs/alone"))["state_dict"]
    for name in ("parts", "ddp"):
        got = newest(Path("runs", name))["state_dict"]
        torch.testing.assert_close(got, alone, rtol=0, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "strategy", "remedy"),
    [("Reads", "fsdp", "attribute `called`"), ("Plain", "ddp", "ddp_find_unused_parameters_true")],
)
def test_what_processes_cannot_train_has_a_remedy(
    tiny: Path, method: str, strategy: str, remedy: str
) -> None:
    ended = by_srun("fit", "--config", own(method), "--trainer.strategy", strategy)
    assert [status for status, _ in ended] == [2, 2]
    assert any(remedy in said for _, said in ended), ended


def own(method: str) -> Path:
    """Return a configuration of a method of `own.py`, without EMA."""
    content = yaml.safe_load(Path("tiny.yaml").read_text())
    content["model"]["class_path"] = f"tests.distributed.own.{method}"
    content["model"]["init_args"].pop("optimizer", None)
    content["trainer"]["callbacks"] = []
    path = Path("own.yaml")
    path.write_text(yaml.safe_dump(content))
    return path
