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
    """Each of two processes trains on 4 of 8 images, and validates on 4 or 3 of 7."""

    def loader(self, images, batch_size):
        own = list(range(self.trainer.global_rank, len(images), self.trainer.world_size))
        return DataLoader(images, batch_size, sampler=own, collate_fn=collate)

    def train_dataloader(self):
        return self.loader(Images(count=8), batch_size=2)

    def val_dataloader(self):
        return self.loader(Images(count=7), batch_size=1)


def trainer_of_two(folder, *callbacks, **settings):
    return trainer(folder, OneThread(), *callbacks, devices=2, strategy="ddp_fork", **settings)


@pytest.mark.distributed
def test_digests_of_images_do_not_depend_on_the_number_of_processes(tmp_path):
    """By equal digests, runs are known to be measured on the same images."""
    trainer_of_two(tmp_path / "two", PSNR(), Results()).validate(Sharded(), verbose=False)

    validate(tmp_path / "one", PSNR(), Results(), data=loader(Images(count=7)))
    by_two = {row.image: row.digest for row in read_file(tmp_path / "two/images.json")}
    by_one = {row.image: row.digest for row in read_file(tmp_path / "one/images.json")}
    assert by_two == by_one
    assert len(set(by_two.values())) == 7


def metrics():
    return [PSNR(), SSIM(), PSNR("rgb", label="psnr_rgb")]


class Save(Callback):
    """Write what each process holds at the end."""

    def __init__(self, folder, callbacks):
        self.folder = folder
        *self.metrics, self.ema = callbacks

    def on_train_end(self, trainer, pl_module):
        content = {
            "records": [record for metric in self.metrics for record in metric.records],
            "logged": {name: value.item() for name, value in trainer.callback_metrics.items()},
            "ema": self.ema.state_dict(),
            "trained": pl_module.state_dict(),
        }
        torch.save(content, self.folder / f"{trainer.global_rank}.pt")


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """What each of two processes holds after two epochs with EMA and metrics."""
    folder = tmp_path_factory.mktemp("two")
    callbacks = [*metrics(), EMA()]
    trainer_of_two(folder, *callbacks, Save(folder, callbacks), max_epochs=2).fit(Sharded())
    return [torch.load(folder / f"{rank}.pt") for rank in (0, 1)]


@pytest.mark.distributed
def test_two_processes_hold_the_same_averages(ranks):
    """EMA needs no communication: their weights are equal after each step."""
    first, second = ranks
    assert first["ema"]["updates"] == 4  # 2 epochs of 8 images: 2 processes, 2 images a batch
    for name, average in first["ema"]["weights"].items():
        assert torch.equal(average, second["ema"]["weights"][name])
        assert not torch.equal(average, first["trained"][name])


@pytest.mark.distributed
def test_metrics_of_two_processes_are_bit_equal_to_those_of_one(ranks, tmp_path):
    first, second = ranks
    of_one = metrics()
    model = Tiny()
    # Validation within fit uses the averages, in the place of the trained weights.
    model.load_state_dict(first["trained"] | first["ema"]["weights"])

    run = validate(tmp_path, *of_one, model=model, data=loader(Images(count=7), batch_size=1))

    assert first["records"] == second["records"]
    assert first["records"] == [record for metric in of_one for record in metric.records]
    assert [record["n"] for record in first["records"]] == [7, 7, 7]
    assert first["logged"] == second["logged"]
    for name, value in run.callback_metrics.items():
        assert first["logged"][name] == value.item()


# --------------------------------------------------------------------------- errors of one process


class Fails(PSNR):
    """A metric one of whose methods fails on the second process only.

    Args:
        method: `absent`, which looks for its weights, or `load`, which reads them.
    """

    def __init__(self, method):
        super().__init__()
        setattr(self, method, self.fail)

    def fail(self):
        if dist.get_rank() == 1:
            raise ArithmeticError("a damaged file")
        return ""  # as `absent`: nothing is


@pytest.mark.distributed
@pytest.mark.parametrize("method", ["absent", "load"])
def test_a_metrics_error_on_one_process_ends_both(tmp_path, method):
    """The first process would wait for the second one's numbers."""
    gc.collect()  # a forked process that frees a decoder of PyAV waits for its threads forever
    run = trainer_of_two(tmp_path, Fails(method))

    with pytest.raises(Exception, match="a damaged file"):
        run.validate(Sharded(), verbose=False)


# --------------------------------------------------------------------------- evaluations at once


def test_two_evaluations_at_once_lose_no_results(tmp_path, monkeypatch):
    """Each reads the files, adds its numbers and writes all: without a lock, one would be lost.

    The second evaluation starts when the first has read the files, but not yet written them.
    """
    second_waits = threading.Event()
    compare_weights = results_files._places_of_other_weights  # called between reading and writing

    def measure(dataset):
        evaluate(tmp_path, PSNR(), Results(), data=loader(Images(count=2, name=dataset)))
        second_waits.set()  # without a lock it does not wait, but ends

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
