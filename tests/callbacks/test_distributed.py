"""Several processes: one fit against one process, errors of one, evaluations at once."""

from __future__ import annotations

import gc
import threading

import pytest
import torch
import torch.distributed as dist
from lightning.pytorch.callbacks import Callback
from torch.utils.data import DataLoader

from callbacks.metrics.pixels import PSNR, SSIM
from callbacks.results import files as results_files
from callbacks.results.files import read_file
from callbacks.results.results import Results
from callbacks.training.ema import EMA
from files.locks import lock
from tests.callbacks.tiny import (
    Images,
    OneThread,
    Tiny,
    collate,
    evaluate,
    loader,
    trainer,
    validate,
)


class Sharded(Tiny):
    """Trains and validates on every world-th image; of 7 they have 4 and 3."""

    def loader(self, count, batch_size):
        own = list(range(self.trainer.global_rank, count, self.trainer.world_size))
        return DataLoader(Images(count), batch_size, sampler=own, collate_fn=collate)

    def train_dataloader(self):
        return self.loader(8, 2)

    def val_dataloader(self):
        return self.loader(7, 1)


def trainer_of_two(folder, *callbacks, **settings):
    return trainer(folder, OneThread(), *callbacks, devices=2, strategy="ddp_fork", **settings)


@pytest.mark.distributed
def test_digests_of_two_processes_are_those_of_one(tmp_path):
    trainer_of_two(tmp_path / "two", PSNR(), Results()).validate(Sharded(), verbose=False)

    validate(tmp_path / "one", PSNR(), Results())
    two = {row.image: row.digest for row in read_file(tmp_path / "two/images.json")}
    one = {row.image: row.digest for row in read_file(tmp_path / "one/images.json")}
    assert two == one
    assert len(set(two.values())) == 7  # each image has its own


class Save(Callback):
    """Write what each process holds at the end."""

    def __init__(self, folder, metrics, ema):
        self.folder = folder
        self.metrics = metrics
        self.ema = ema

    def on_train_end(self, trainer, pl_module):
        content = {
            "records": [record for metric in self.metrics for record in metric.records],
            "logged": {name: value.item() for name, value in trainer.callback_metrics.items()},
            "ema": self.ema.state_dict(),
            "raw": pl_module.state_dict(),
        }
        torch.save(content, self.folder / f"{trainer.global_rank}.pt")


@pytest.mark.distributed
def test_averages_and_metrics_of_two_processes_are_those_of_one(tmp_path):
    metrics = [PSNR(), SSIM(), PSNR("rgb", label="psnr_rgb")]
    ema = EMA()

    run = trainer_of_two(tmp_path, *metrics, ema, Save(tmp_path, metrics, ema), max_epochs=2)
    run.fit(Sharded())

    first = torch.load(tmp_path / "0.pt")
    second = torch.load(tmp_path / "1.pt")
    # EMA needs no communication: equal weights have equal averages.
    averages = first["ema"]["weights"]
    assert first["ema"]["updates"] == 4  # 2 epochs of 8 images: 2 processes, 2 images a batch
    for name, average in averages.items():
        assert torch.equal(average, second["ema"]["weights"][name])
        assert not torch.equal(average, first["raw"][name])
    # Both processes hold the same numbers, bit-equal to those of one process on the averages.
    model = Tiny()
    model.load_state_dict(first["raw"] | averages)
    alone = validate(tmp_path / "alone", *metrics, model=model, data=loader(batch_size=1))
    assert first["records"] == second["records"]
    assert first["records"] == [record for metric in metrics for record in metric.records]
    assert [record["n"] for record in first["records"]] == [7, 7, 7]
    assert first["logged"] == second["logged"]
    for name, value in alone.callback_metrics.items():
        assert first["logged"][name] == value.item()


# --------------------------------------------------------------------------- errors of one process


class Fails(PSNR):
    """Fail on the second process only, as if a file were damaged on one machine."""

    def __init__(self, where):
        super().__init__()
        self.where = where

    def absent(self):
        self.fail("absent")
        return ""

    def load(self):
        self.fail("load")

    def fail(self, where):
        if where == self.where and dist.get_rank() == 1:
            raise ArithmeticError("a damaged file")


@pytest.mark.distributed
@pytest.mark.parametrize("where", ["absent", "load"])
def test_an_error_on_one_process_ends_both(tmp_path, where):
    gc.collect()  # a forked process that frees a decoder of PyAV waits for its threads forever
    run = trainer_of_two(tmp_path, Fails(where))

    with pytest.raises(Exception, match="a damaged file"):
        run.validate(Sharded(), verbose=False)


# --------------------------------------------------------------------------- evaluations at once


def test_two_evaluations_at_once_lose_no_results(tmp_path, monkeypatch):
    """The second one starts when the first has read the files, but not yet written them."""
    second_waits = threading.Event()
    compare_weights = results_files._places_of_other_weights

    def measure(dataset):
        evaluate(tmp_path, PSNR(), Results(), data=loader(Images(2, dataset)))
        second_waits.set()  # or has ended, if it did not wait

    second = threading.Thread(target=measure, args=("b",))

    def announce_and_lock(descriptor):
        if threading.current_thread() is second:
            second_waits.set()
        lock(descriptor)

    def start_second(*args):
        if not second.ident:
            second.start()
            assert second_waits.wait(60)
        return compare_weights(*args)

    monkeypatch.setattr(results_files, "lock", announce_and_lock)
    monkeypatch.setattr(results_files, "_places_of_other_weights", start_second)

    measure("a")

    second.join(60)
    assert not second.is_alive()
    for name in ("results.json", "images.json"):
        datasets = {row.dataset for row in read_file(tmp_path / name)}
        assert datasets == {"a", "b"}
