"""Seconds that each part of a batch takes, from reading to degradation."""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from lightning.pytorch import Trainer

from datamodules.clock import DECODING

MIN_BATCHES = 3  # to measure, however long they take

Tick = Callable[[float], None]  # receives the share that is done


@dataclass(frozen=True)
class Measured:
    """Seconds of each part of a batch, in this process.

    Args:
        reading: Reading of bytes, in one worker.
        decoding: Decoding of bytes to pixels, in one worker.
        cropping: Cropping, flips, augmentation and collation, in one worker.
        transfer: Transfer to the device.
        degradation: HR to LR.
        step: Forward, backward and optimiser.
        batch: Samples in a batch of this process.
        workers: Workers of this process.
        cores: Cores that this process may use.
        device: ``cpu``, ``cuda``, ...
        crop_size: Side of a training crop in pixels; 0 if images are not cropped.
        whole: Seconds a batch of the run itself; 0 if not measured.
    """

    reading: float
    decoding: float
    cropping: float
    transfer: float
    degradation: float
    step: float
    batch: int
    workers: int
    cores: int
    device: str = "cpu"
    crop_size: int = 0
    whole: float = 0.0

    @property
    def data(self) -> float:
        """Seconds that one worker needs for a batch."""
        return self.reading + self.decoding + self.cropping

    @property
    def training(self) -> float:
        """Seconds that the training process needs for a batch."""
        return self.transfer + self.degradation + self.step

    @property
    def largest(self) -> str:
        """Name of the part that costs the run most; workers share reading to cropping."""
        share = 1 / max(self.workers, 1)
        costs = {name: share * getattr(self, name) for name in ("reading", "decoding", "cropping")}
        costs |= {name: getattr(self, name) for name in ("transfer", "degradation", "step")}
        return max(costs, key=lambda name: costs[name])


class Clock:
    """Time spent in some functions; nested calls count once."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._within = False

    def timed(self, function: Callable[..., Any]) -> Any:
        """Return the function with its calls timed."""

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            if self._within:
                return function(*args, **kwargs)
            self._within = True
            with self.running():
                try:
                    return function(*args, **kwargs)
                finally:
                    self._within = False

        return call

    @contextmanager
    def running(self) -> Iterator[None]:
        """Count the time of the block."""
        begun = time.perf_counter()
        try:
            yield
        finally:
            self.seconds += time.perf_counter() - begun


class DataSeconds(NamedTuple):
    """Seconds a batch of the parts that a worker does, and one of the batches."""

    reading: float
    decoding: float
    cropping: float
    batch: dict[str, Any]


def measure_data(loader: Any, seconds: float, tick: Tick) -> DataSeconds:
    """Prepare batches in this process, as a worker would.

    Args:
        loader: The training loader.
        seconds: Duration of the measurement.
        tick: Receives the share that is done.
    """
    source = loader.dataset.source
    whole, given, decoding = Clock(), Clock(), Clock()
    # For tars that are read front to back, workers get parts of batches.
    batches = iter(getattr(loader.batch_sampler, "whole", loader.batch_sampler))
    batch = _batch(loader, next(batches))  # opens files, and imports what is imported late
    count = 0
    with _patched(source, given), _decoders(decoding):
        begun = time.perf_counter()
        for items in batches:
            with whole.running():
                batch = _batch(loader, items)
            count += 1
            share = (time.perf_counter() - begun) / seconds
            tick(share)
            if share >= 1 and count >= MIN_BATCHES:
                break
    if not count:
        raise ValueError("an epoch has a single batch, too few to measure")
    return DataSeconds(
        reading=max(given.seconds - decoding.seconds, 0.0) / count,
        decoding=decoding.seconds / count,
        cropping=max(whole.seconds - given.seconds, 0.0) / count,
        batch=batch,
    )


def _batch(loader: Any, items: Any) -> dict[str, Any]:
    dataset = loader.dataset
    if hasattr(dataset, "__getitems__"):
        return dict(loader.collate_fn(dataset.__getitems__(items)))
    return dict(loader.collate_fn([dataset[item] for item in items]))


@contextmanager
def _patched(source: Any, clock: Clock) -> Iterator[None]:
    names = ("read", "read_crop")
    for name in names:
        setattr(source, name, clock.timed(getattr(source, name)))
    try:
        yield
    finally:
        for name in names:
            delattr(source, name)


@contextmanager
def _decoders(clock: Clock) -> Iterator[None]:
    """Time the decoders."""

    def call(decoder: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        with clock.running():
            return decoder(*args, **kwargs)

    DECODING.around = call
    try:
        yield
    finally:
        DECODING.around = None


def measure_device(
    trainer: Trainer, batch: dict[str, Any], pinned: bool, seconds: float, tick: Tick
) -> tuple[float, float]:
    """Move a batch to the device and degrade it, repeatedly.

    Args:
        trainer: A trainer with its data module, about to train.
        batch: A batch of ``collate``.
        pinned: Whether the loader pins memory.
        seconds: Duration of the measurement.
        tick: Receives the share that is done.

    Returns:
        Seconds of transfer and of degradation, a batch.
    """
    data: Any = trainer.datamodule  # type: ignore[attr-defined]
    device = trainer.strategy.root_device
    transfer, degradation = Clock(), Clock()
    begun = time.perf_counter()
    for count in range(-1, sys.maxsize):
        given = {name: value for name, value in batch.items() if name != "skipped"}
        if pinned:
            given = {
                name: value.pin_memory() if isinstance(value, torch.Tensor) else value
                for name, value in given.items()
            }
        given = data.on_before_batch_transfer(given, 0)
        with transfer.running():
            moved = data.transfer_batch_to_device(given, device, 0)
            wait_for(device)
        with degradation.running():
            data.on_after_batch_transfer(moved, 0)
            wait_for(device)
        if count < 0:  # warm-up: compiles, and builds tables
            transfer, degradation, begun = Clock(), Clock(), time.perf_counter()
            continue
        share = (time.perf_counter() - begun) / seconds
        tick(share)
        if share >= 1 and count + 1 >= MIN_BATCHES:
            break
    return transfer.seconds / (count + 1), degradation.seconds / (count + 1)


def wait_for(device: torch.device) -> None:
    """Wait until the device has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
