"""``main.py throughput``: the seconds of each part of a training step.

The parts of a worker are measured in this process, one by one. The step and the speed of the whole
are those of the run itself, with its loops, callbacks and precision. Nothing is written, and the
trained weights are discarded.
"""

from __future__ import annotations

import functools
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from commands.check import Checked
from commands.errors import ConfigurationError
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


SECONDS = 4.0  # for each part
WARM_UP = 3  # batches, which start workers and compile


class Throughput(Callback):
    """Measure for some seconds, print the table, and end the run."""

    def __init__(self) -> None:
        self._parts: Measured | None = None
        self._batches = 0
        self._steps = self._whole = self._begun = 0.0  # seconds
        self._phase = "warm-up"
        self._bar: Any = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Skip validation."""
        trainer.limit_val_batches = trainer.num_sanity_val_steps = 0

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure everything before the step; the model is on its device by now."""
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        loader = data.train_dataloader()
        self._open_bar(trainer)
        self._say("reading, decoding, cropping", 0)
        found = measure_data(loader, SECONDS, lambda share: self._tick(0, share))
        self._say("transfer and degradation", 1)
        transfer, degradation = measure_device(
            trainer, found.batch, loader.pin_memory, SECONDS, lambda share: self._tick(1, share)
        )
        self._parts = Measured(
            *(found.reading, found.decoding, found.cropping, transfer, degradation),
            step=0.0,
            batch=len(found.batch["key"]),
            workers=loader.num_workers,
            cores=max(1, len(os.sched_getaffinity(0)) // trainer.num_devices),
            device=trainer.strategy.root_device.type,
            crop_size=getattr(loader.dataset, "crop_size", 0),
        )
        self._say("the step", 2)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Start the clock of a step."""
        if self._phase == "step":
            wait_for(trainer.strategy.root_device)
            self._begun = time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stop the clock of a step, and end the measurement after enough of them.

        Raises:
            Checked: When the table is printed.
        """
        device = trainer.strategy.root_device
        self._batches += 1
        if self._phase == "step":
            wait_for(device)
            self._steps += time.perf_counter() - self._begun
        taken = self._steps if self._phase == "step" else time.perf_counter() - self._begun
        if self._phase != "warm-up":
            self._tick(2 if self._phase == "step" else 3, taken / SECONDS)
        enough = self._phase == "warm-up" or taken >= SECONDS
        if not _agreed(trainer, self._batches >= WARM_UP and enough):
            return
        wait_for(device)
        if self._phase == "warm-up":
            self._phase = "step"
        elif self._phase == "step":
            self._note_steps()
            self._say("the whole run", 3)
            self._phase, self._begun = "whole", time.perf_counter()
        else:
            self._whole = time.perf_counter() - self._begun
            self._finish(trainer)
            raise Checked
        self._batches = 0

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the table of a run that ended before the measurement did.

        Raises:
            ConfigurationError: If it ended before a step was measured.
        """
        if self._phase == "step" and self._batches:
            self._note_steps()
        if self._parts is None or not self._parts.step:
            raise ConfigurationError(
                f"the run ends after {trainer.global_step} steps, too few to measure: raise "
                "trainer.max_steps"
            )
        self._batches = 0
        self._finish(trainer)

    def _note_steps(self) -> None:
        if self._parts is not None:
            self._parts = replace(self._parts, step=self._steps / self._batches)

    def _finish(self, trainer: Trainer) -> None:
        self._close_bar()
        if self._parts is None or not trainer.is_global_zero:
            return
        whole = self._whole / self._batches if self._batches else 0.0
        show(replace(self._parts, whole=whole), trainer.world_size)

    # -------------------------------------------------------------------------------- the bar

    def _open_bar(self, trainer: Trainer) -> None:
        from tqdm import tqdm

        layout = "measuring {desc}: {bar} {elapsed}"
        hidden = None if trainer.is_global_zero else True  # None: shown on a terminal
        self._bar = tqdm(total=4.0, bar_format=layout, leave=False, disable=hidden)

    def _say(self, part: str, done: int) -> None:
        self._bar.set_description_str(part, refresh=False)
        self._tick(done, 0.0)

    def _tick(self, done: int, share: float) -> None:
        self._bar.n = done + min(share, 1.0)
        self._bar.refresh()

    def _close_bar(self) -> None:
        self._bar.close()

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Close the bar."""
        if self._bar is not None:
            self._close_bar()


def _agreed(trainer: Trainer, enough: bool) -> bool:
    # All processes take a step together, so they must end together.
    if trainer.world_size == 1:
        return enough
    return bool(trainer.strategy.broadcast(enough))


# -------------------------------------------------------------------------------------- the table
def show(found: Measured, world: int = 1) -> None:
    """Print the table and name the largest part.

    Args:
        found: The measured seconds.
        world: Number of training processes.
    """
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=False)
    console.print(_table(found, world))
    console.print(f"The largest part is {_largest(found)}.")


def _table(found: Measured, world: int) -> Any:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE, title=_title(found, world), title_justify="left")
    for name in ("", "where", "ms a batch", "images/s", "share"):
        table.add_column(name, justify="left" if name in ("", "where") else "right")
    here = _here(found)
    worker = "a worker" if found.workers else "training process"
    total = found.data + found.training
    for name, title in TITLES.items():
        where = worker if name in ("reading", "decoding", "cropping") else here
        seconds = getattr(found, name)
        table.add_row(title, where, *_numbers(found, seconds), f"{seconds / total:.0%}")
    table.add_section()
    if found.workers:
        supply = found.data / found.workers
        table.add_row("images, together", _count(found.workers), *_numbers(found, supply), "")
        table.add_row("training, together", here, *_numbers(found, found.training), "")
    if found.whole:
        table.add_row("[bold]the run, measured", "", *_numbers(found, found.whole), "")
    return table


TITLES = {
    "reading": "reading",
    "decoding": "decoding",
    "cropping": "crop, flips, batch",
    "transfer": "transfer",
    "degradation": "degradation",
    "step": "step",
}


def _largest(found: Measured) -> str:
    name = found.largest
    seconds = getattr(found, name)
    if name in ("reading", "decoding", "cropping") and found.workers > 1:
        each = f"{seconds * 1e3:,.2f} ms in each of {found.workers} workers"
        return f"{TITLES[name]}: {each}, {seconds / found.workers * 1e3:,.2f} ms a batch"
    return f"{TITLES[name]}: {seconds * 1e3:,.2f} ms a batch"


def _here(found: Measured) -> str:
    return f"on {found.device}" if found.device != "cpu" else "training process"


def _count(workers: int) -> str:
    return "1 worker" if workers == 1 else f"{workers} workers"


def _title(found: Measured, world: int) -> str:
    crops = f"crops of {found.crop_size} px" if found.crop_size else "images"
    each = f", on each of {world} processes" if world > 1 else ""
    return f"A batch of {found.batch} {crops}{each}; {found.cores} cores, {found.device}"


def _numbers(found: Measured, seconds: float) -> tuple[str, str]:
    return f"{seconds * 1e3:,.2f}", _rate(found.batch / seconds) if seconds > 1e-6 else "-"


def _rate(images: float) -> str:
    return f"{images:,.0f}" if images >= 10 else f"{images:.1f}"
