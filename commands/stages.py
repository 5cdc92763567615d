"""Seconds that the parts of a batch take, each by itself, from reading to degradation."""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from lightning.pytorch import Trainer

from commands.advice import Pictures, Stage
from datamodules.clock import DECODING

LEAST = 3  # batches, however long they take
START_OF_JPEG = b"\xff\xd8"

Tick = Callable[[float], None]  # told the share that is done


class Clock:
    """Time in some functions: of calls within calls, the outermost counts."""

    def __init__(self) -> None:
        self.seconds = self.cpu = 0.0
        self._within = False

    def timed(self, function: Callable[..., Any]) -> Any:
        """The same function, timed."""

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
        """Count the time within."""
        begun, cpu = time.perf_counter(), time.process_time()
        try:
            yield
        finally:
            self.seconds += time.perf_counter() - begun
            self.cpu += time.process_time() - cpu

    def a_batch(self, batches: int) -> Stage:
        """The time, shared out."""
        return Stage(self.seconds / batches, self.cpu / batches)


class DataStages(NamedTuple):
    """What a worker does, by batch."""

    reading: Stage
    decoding: Stage
    cropping: Stage
    pictures: Pictures
    batch: dict[str, Any]  # one of them


class _Seen:
    """What passes through the decoders."""

    def __init__(self) -> None:
        self.count = self.pixels = self.jpeg = 0

    def __call__(self, data: Any, result: Any) -> None:
        """Count one call."""
        if result is None:  # left to another decoder
            return
        rgb = getattr(result, "rgb", result)
        self.count += 1
        self.pixels += rgb.shape[0] * rgb.shape[1]
        self.jpeg += bytes(data[:2]) == START_OF_JPEG


def measure_data(loader: Any, seconds: float, tick: Tick) -> DataStages:
    """Prepare batches in this process, as a worker would.

    Args:
        loader: The training loader.
        seconds: For so long.
        tick: Told how far it is.
    """
    dataset, source = loader.dataset, loader.dataset.source
    whole, given, decoding, seen = Clock(), Clock(), Clock(), _Seen()
    # Of tars that are read front to back, workers get pieces of batches.
    batches = iter(getattr(loader.batch_sampler, "whole", loader.batch_sampler))
    batch = _batch(loader, next(batches))  # opens files, imports what is imported late
    count = 0
    with _patched(source, given), _decoders(decoding, seen):
        begun = time.perf_counter()
        for items in batches:
            with whole.running():
                batch = _batch(loader, items)
            count += 1
            share = (time.perf_counter() - begun) / seconds
            tick(share)
            if share >= 1 and count >= LEAST:
                break
    if not count:
        raise ValueError("an epoch has a single batch, too few to measure")
    inside, read, pixels = whole.a_batch(count), given.a_batch(count), decoding.a_batch(count)
    samples = count * len(batch["key"])
    return DataStages(
        reading=_less(read, pixels),
        decoding=pixels,
        cropping=_less(inside, read),
        pictures=Pictures(
            seen.pixels / samples,
            getattr(dataset, "crop_size", 0) ** 2 or 1,
            seen.jpeg / max(seen.count, 1),
            type(source).__name__,
        ),
        batch=batch,
    )


def _batch(loader: Any, items: Any) -> dict[str, Any]:
    dataset = loader.dataset
    if hasattr(dataset, "__getitems__"):
        return dict(loader.collate_fn(dataset.__getitems__(items)))
    return dict(loader.collate_fn([dataset[item] for item in items]))


def _less(whole: Stage, part: Stage) -> Stage:
    return Stage(max(whole.seconds - part.seconds, 0.0), max(whole.cpu - part.cpu, 0.0))


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
def _decoders(clock: Clock, seen: Callable[..., None]) -> Iterator[None]:
    """Time the decoders, and see what passes through them."""

    def call(decoder: Callable[..., Any], data: Any, *args: Any, **kwargs: Any) -> Any:
        with clock.running():
            result = decoder(data, *args, **kwargs)
        seen(data, result)
        return result

    DECODING.around = call
    try:
        yield
    finally:
        DECODING.around = None


def measure_device(
    trainer: Trainer, batch: dict[str, Any], pinned: bool, seconds: float, tick: Tick
) -> tuple[Stage, Stage]:
    """Move a batch to the device and degrade it, over and over.

    Args:
        trainer: With the data module, about to train.
        batch: As `collate` gives it.
        pinned: Whether the loader pins its memory.
        seconds: For so long.
        tick: Told how far it is.

    Returns:
        Transfer and degradation, by batch.
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
        if count < 0:  # compiles, and makes tables
            transfer, degradation, begun = Clock(), Clock(), time.perf_counter()
            continue
        share = (time.perf_counter() - begun) / seconds
        tick(share)
        if share >= 1 and count + 1 >= LEAST:
            break
    return transfer.a_batch(count + 1), degradation.a_batch(count + 1)


def wait_for(device: torch.device) -> None:
    """Until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
