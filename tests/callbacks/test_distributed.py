"""Several processes: one fit against one process, errors of one, evaluations at once."""

from __future__ import annotations

import gc
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch.utils.data import DataLoader

from callbacks.evaluation import on_all
from callbacks.metrics.base import ImageMetric
from callbacks.metrics.pixels import PSNR, SSIM
from callbacks.results import files as results_files
from callbacks.results.files import read_file
from callbacks.results.results import Results
from callbacks.training.ema import EMA
from files.locks import lock
from tests.callbacks.tiny import Images, OneThread, Tiny, collate, loader, trainer


class Sharded(Tiny):
    """Validates on every world-th of 7 images: 4 and 3, so 4 and 3 batches of one."""

    def train_dataloader(self) -> DataLoader[Any]:
        own = range(self.trainer.global_rank, 8, self.trainer.world_size)
        return DataLoader(Images(8), 2, sampler=list(own), collate_fn=collate)

    def val_dataloader(self) -> DataLoader[Any]:
        own = range(self.trainer.global_rank, 7, self.trainer.world_size)
        return DataLoader(Images(), 1, sampler=list(own), collate_fn=collate)


class Save(Callback):
    """Write what each process holds at the end."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        metrics = [c for c in trainer.callbacks if isinstance(c, ImageMetric)]
        found = {
            "records": [record for metric in metrics for record in metric.records],
            "logged": {k: v.item() for k, v in trainer.callback_metrics.items()},
            "ema": next(c for c in trainer.callbacks if isinstance(c, EMA)).state_dict(),
            "raw": pl_module.state_dict(),
        }
        torch.save(found, self.folder / f"{trainer.global_rank}.pt")


def metrics() -> list[ImageMetric]:
    return [PSNR(), SSIM(), PSNR("rgb", label="psnr_rgb")]


@pytest.mark.distributed
def test_digests_of_two_processes_are_those_of_one(tmp_path: Path) -> None:
    run = trainer(tmp_path / "two", OneThread(), PSNR(), Results(), devices=2, strategy="ddp_fork")
    run.validate(Sharded(), verbose=False)
    trainer(tmp_path / "one", PSNR(), Results()).validate(Tiny(), loader(), verbose=False)
    two = {row.image: row.digest for row in read_file(tmp_path / "two/images.json")}
    one = {row.image: row.digest for row in read_file(tmp_path / "one/images.json")}
    assert two == one
    assert len(set(two.values())) == 7


@pytest.mark.distributed
def test_two_processes_are_as_one(tmp_path: Path) -> None:
    callbacks = [OneThread(), *metrics(), EMA(), Save(tmp_path)]
    run = trainer(tmp_path, *callbacks, devices=2, strategy="ddp_fork", max_epochs=2)
    run.fit(Sharded())
    first = torch.load(tmp_path / "0.pt")
    second = torch.load(tmp_path / "1.pt")

    # EMA needs no communication: equal weights have equal averages.
    assert first["ema"]["updates"] == 4
    for name, average in first["ema"]["weights"].items():
        assert torch.equal(average, second["ema"]["weights"][name])
        assert not torch.equal(average, first["raw"][name])

    # Both processes hold the same numbers, bit-equal to those of one process on the averages.
    assert first["records"] == second["records"]
    assert first["logged"] == second["logged"]
    model = Tiny()
    alone = metrics()
    model.load_state_dict(first["raw"] | first["ema"]["weights"])
    run = trainer(tmp_path / "alone", *alone)
    run.validate(model, loader(batch_size=1), verbose=False)
    assert first["records"] == [record for metric in alone for record in metric.records]
    assert [record["n"] for record in first["records"]] == [7, 7, 7]
    logged = {k: v for k, v in first["logged"].items() if k.startswith("val/")}
    assert logged == {k: v.item() for k, v in run.callback_metrics.items()}


# --------------------------------------------------------------------------- errors of one process


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
def test_all_processes_get_what_each_gives(tmp_path: Path) -> None:
    assert got(tmp_path, "nowhere") == ["[0, 1]", "[0, 1]"]


@pytest.mark.distributed
@pytest.mark.parametrize("where", ["absent", "load"])
def test_an_error_on_one_process_is_raised_on_all(tmp_path: Path, where: str) -> None:
    assert got(tmp_path, where) == [
        "FailedElsewhereError: a damaged file",
        "ArithmeticError: a damaged file",
    ]


# --------------------------------------------------------------------------- evaluations at once


def evaluate(run: Path, dataset: str) -> None:
    callbacks = [PSNR(), Results()]
    trainer(run, *callbacks).test(Tiny(), loader(Images(2, dataset)), verbose=False)


def test_evaluations_at_once_lose_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second one starts when the first has read the files, but not yet written them."""
    there = threading.Event()
    original = results_files._places_of_other_weights

    def second() -> None:
        try:
            evaluate(tmp_path, "b")
        finally:
            there.set()

    thread = threading.Thread(target=second)

    def announced(descriptor: int) -> None:
        if threading.current_thread() is thread:
            there.set()  # it waits for the first one
        lock(descriptor)

    def with_a_second(*args: Any) -> Any:
        found = original(*args)
        if threading.current_thread() is not thread and not thread.ident:
            thread.start()
            assert there.wait(60)
        return found

    monkeypatch.setattr(results_files, "lock", announced)
    monkeypatch.setattr(results_files, "_places_of_other_weights", with_a_second)
    evaluate(tmp_path, "a")
    thread.join(60)
    assert not thread.is_alive()
    both = {"a", "b"}
    assert {row.dataset for row in read_file(tmp_path / "results.json")} == both
    assert {row.dataset for row in read_file(tmp_path / "images.json")} == both
