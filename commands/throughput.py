"""``throughput``: what each part of a batch costs, which part limits the run, and what to change.

The parts that a worker does are measured in this process, one after the other; the step is that of
the run itself, with its loops, callbacks and precision, and so is the speed of the whole. Nothing
is written, and the weights that it trained are thrown away.
"""

from __future__ import annotations

import os
import time
from dataclasses import replace
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from commands.advice import Advice, Measured, Stage, advise, doubt, nothing, verdict
from commands.check import Checked
from commands.errors import ConfigurationError
from commands.stages import Clock, measure_data, measure_device, wait_for

SECONDS = 4.0  # for each part
WARM_UP = 3  # batches; they start workers and compile


class Throughput(Callback):
    """Measure for some seconds, print, and end in place of the next step."""

    def __init__(self) -> None:
        self._parts: Measured | None = None
        self._steps, self._whole = Clock(), Clock()
        self._batches = 0
        self._cpu = self._begun = 0.0
        self._phase = "warm-up"
        self._bar: Any = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Leave validation out."""
        trainer.limit_val_batches = trainer.num_sanity_val_steps = 0

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure all that comes before the step; the model is on its device by now."""
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        loader = data.train_dataloader()
        self._open_bar(trainer)
        self._say("reading, decoding, cropping", 0)
        found = measure_data(loader, SECONDS, lambda share: self._tick(0, share))
        self._say("transfer and degradation", 1)
        transfer, degradation = measure_device(
            trainer, found.batch, loader.pin_memory, SECONDS, lambda share: self._tick(1, share)
        )
        device = trainer.strategy.root_device.type
        degrades = data.train.degradation or data.degradation
        self._parts = Measured(
            *(found.reading, found.decoding, found.cropping, transfer, degradation, Stage()),
            batch=len(found.batch["key"]),
            workers=loader.num_workers,
            cores=max(1, len(os.sched_getaffinity(0)) // trainer.num_devices),
            device=device,
            pictures=found.pictures,
            gpu_idle=device == "cpu" and torch.cuda.is_available(),
            precision=str(trainer.precision),
            compilable=getattr(degrades, "compile_canvas", True) is False,
            recipe=type(degrades).__name__,
        )
        self._say("the step", 2)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Begin a step."""
        if self._phase == "step":
            wait_for(trainer.strategy.root_device)
            self._begun, self._cpu = time.perf_counter(), time.process_time()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """End a step, and the measurement when there were enough.

        Raises:
            Checked: It is done.
        """
        device = trainer.strategy.root_device
        self._batches += 1
        if self._phase == "step":
            wait_for(device)
            self._steps.seconds += time.perf_counter() - self._begun
            self._steps.cpu += time.process_time() - self._cpu
        taken = self._steps.seconds if self._phase == "step" else time.perf_counter() - self._begun
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
            self._whole.seconds = time.perf_counter() - self._begun
            self._finish(trainer)
            raise Checked
        self._batches = 0

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The run was too short for all of it.

        Raises:
            ConfigurationError: For any of it.
        """
        if self._phase == "step" and self._batches:
            self._note_steps()
        if self._parts is None or not self._parts.step.seconds:
            raise ConfigurationError(
                f"the run ends after {trainer.global_step} steps, too few to measure: raise "
                "trainer.max_steps"
            )
        self._batches = 0
        self._finish(trainer)

    def _note_steps(self) -> None:
        if self._parts is not None:
            self._parts = replace(self._parts, step=self._steps.a_batch(self._batches))

    def _finish(self, trainer: Trainer) -> None:
        self._close_bar()
        if self._parts is None or not trainer.is_global_zero:
            return
        whole = self._whole.seconds / self._batches if self._batches else 0.0
        show(replace(self._parts, whole=whole), trainer.world_size)

    # -------------------------------------------------------------------------------- the bar

    def _open_bar(self, trainer: Trainer) -> None:
        from tqdm import tqdm

        layout = "measuring {desc}: {bar} {elapsed}"
        hidden = None if trainer.is_global_zero else True  # None: unless this is a terminal
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
    # A step is taken by all processes together, so they have to end together.
    if trainer.world_size == 1:
        return enough
    return bool(trainer.strategy.broadcast(enough))


# -------------------------------------------------------------------------------------- the report


def show(found: Measured, world: int = 1) -> None:
    """Print the table, what limits the run, and what to change.

    Args:
        found: What was measured.
        world: Number of processes that train.
    """
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=False)
    console.print(_table(found, world))
    changes = advise(found)
    for text in (verdict(found), doubt(found), "" if changes else nothing(found)):
        if text:
            console.print(f"{text}\n")
    for number, advice in enumerate(changes, 1):
        console.print(f"{number}. {_sentence(found, advice, world)}")


def _table(found: Measured, world: int) -> Any:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE, title=_title(found, world), title_justify="left")
    for name in ("", "where", "ms a batch", "images/s", "share"):
        table.add_column(name, justify="left" if name in ("", "where") else "right")
    here = f"on {found.device}" if found.device != "cpu" else "training process"
    worker = "a worker" if found.workers else "training process"
    rows = (
        ("reading", worker, found.reading),
        ("decoding", worker, found.decoding),
        ("crop, flips, batch", worker, found.cropping),
        ("transfer", here, found.transfer),
        ("degradation", here, found.degradation),
        ("step", here, found.step),
    )
    total = found.data.seconds + found.training.seconds
    for name, where, stage in rows:
        table.add_row(name, where, *_numbers(found, stage.seconds), f"{stage.seconds / total:.0%}")
    table.add_section()
    if found.workers:
        count = "1 worker" if found.workers == 1 else f"{found.workers} workers"
        supply = found.data.seconds / found.workers
        table.add_row("pictures, together", count, *_numbers(found, supply), "")
        table.add_row("training, together", here, *_numbers(found, found.training.seconds), "")
    if found.whole:
        table.add_row("[bold]the run, measured", "", *_numbers(found, found.whole), "")
    return table


def _title(found: Measured, world: int) -> str:
    side = round(found.pictures.crop**0.5)
    each = f", on each of {world} processes" if world > 1 else ""
    return f"A batch of {found.batch} crops of {side} px{each}; {found.cores} cores, {found.device}"


def _numbers(found: Measured, seconds: float) -> tuple[str, str]:
    return f"{seconds * 1e3:,.2f}", _rate(found.batch / seconds) if seconds > 1e-6 else "-"


def _rate(images: float) -> str:
    return f"{images:,.0f}" if images >= 10 else f"{images:.1f}"


def _sentence(found: Measured, advice: Advice, world: int) -> str:
    now, then = (world * found.batch / seconds for seconds in (found.seconds, advice.seconds))
    what = "at best" if advice.bound else "expected"
    return (
        f"[bold]{advice.change}[/bold]\n   {advice.why}.\n   {what} {then / now:.2f} times: "
        f"{_rate(then)} images/s, from {_rate(now)}"
    )
