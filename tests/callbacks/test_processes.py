"""Collective operations: an error of one process must not leave the others waiting."""

from __future__ import annotations

import gc
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from callbacks.evaluation import on_all
from callbacks.metrics.pixels import PSNR


class Fails(PSNR):
    """Fail on the second process only, as if a file were damaged on one machine."""

    def __init__(self, where: str) -> None:
        super().__init__()
        self.where = where

    def absent(self) -> str:
        self.fail("absent")
        return ""

    def load(self) -> None:
        self.fail("load")

    def fail(self, where: str) -> None:
        if where == self.where and dist.get_rank() == 1:
            raise ArithmeticError("a damaged file")


def set_up(metric: Fails) -> None:
    device = SimpleNamespace(root_device=torch.device("cpu"))
    trainer: Any = SimpleNamespace(callbacks=[metric], is_global_zero=True, strategy=device)
    metric.setup(trainer, None, "test")  # type: ignore[arg-type]  # it has no use for the model


def member(rank: int, folder: str, where: str) -> None:
    torch.set_num_threads(1)  # a forked process has no pool of threads
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    try:
        got = str(on_all(dist.get_rank) if where == "nowhere" else set_up(Fails(where)))
    except Exception as error:
        got = f"{type(error).__name__}: {error}"
    Path(folder, f"{rank}.txt").write_text(got)
    dist.destroy_process_group()


def got(folder: Path, where: str) -> list[str]:
    gc.collect()  # a forked process that frees a decoder of PyAV waits for its threads forever
    mp.start_processes(member, (str(folder), where), nprocs=2, start_method="fork")  # type: ignore[no-untyped-call]
    return [(folder / f"{rank}.txt").read_text() for rank in range(2)]


@pytest.mark.distributed
def test_what_each_process_gives(tmp_path: Path) -> None:
    assert got(tmp_path, "nowhere") == ["[0, 1]", "[0, 1]"]


@pytest.mark.distributed
@pytest.mark.parametrize("where", ["absent", "load"])
def test_an_error_on_one_process_is_raised_on_all(tmp_path: Path, where: str) -> None:
    assert got(tmp_path, where) == [
        "FailedElsewhereError: a damaged file",
        "ArithmeticError: a damaged file",
    ]
