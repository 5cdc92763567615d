"""``throughput``: the seconds that each part of a batch takes, and the largest part.

The parts of a worker are measured in this process, one by one. The step and the speed of the whole
are those of the run itself, with its loops, callbacks and precision. Nothing is written, and the
trained weights are discarded.
"""

from __future__ import annotations

import os
import time
from dataclasses import replace
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from commands.check import Checked
from commands.errors import ConfigurationError
from commands.stages import Measured, measure_data, measure_device, wait_for

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
