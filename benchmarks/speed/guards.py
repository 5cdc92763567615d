"""Time of Guard, Throughput and the clocks in workers: `python -m benchmarks.speed.guards`.

The hooks of the callbacks are timed inside of a run, beside the whole of each step, in the same
process: a busy machine slows both. The run is that of the quickstart: 16 crops of 96 pixels, a
small EDSR, x2. The all-reduce of the verdict is timed apart, between two processes of this machine
that talk by gloo.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from lightning.pytorch import Callback, Trainer

from callbacks.training.guard import Guard
from callbacks.training.throughput import Throughput
from datamodules.base import CropSettings, SRDataModule
from datamodules.clock import Stopwatch
from degradations.bicubic import Bicubic
from lightning_modules.networks.edsr import EDSR
from lightning_modules.one_pass.regression import Regression
from tests.datamodules.memory import random_images, trainer

SEED = 0
STEPS = 120
CALLS = 200_000
REDUCTIONS = 400


class Timed(Callback):
    """Seconds of a step in all hooks of some callbacks, and of the step itself.

    Args:
        watched: Callbacks of the run; their hooks are replaced by timed ones.
    """

    def __init__(self, *watched: Callback) -> None:
        self.names = [type(callback).__name__ for callback in watched]
        self.spent = dict.fromkeys(self.names, 0.0)
        self.steps: list[dict[str, float]] = []
        self._begun = 0.0
        for callback in watched:
            for hook in (name for name in dir(callback) if name.startswith("on_")):
                if callable(call := getattr(callback, hook)):
                    setattr(callback, hook, partial(self._timed, type(callback).__name__, call))

    def _timed(self, name: str, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        begun = time.perf_counter()
        result = call(*args, **kwargs)
        self.spent[name] += time.perf_counter() - begun
        return result

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        """One step is over; the next begins."""
        now = time.perf_counter()
        self.steps.append({"step": now - self._begun, **self.spent})
        self._begun, self.spent = now, dict.fromkeys(self.names, 0.0)


def in_a_run() -> dict[str, float]:
    """Milliseconds a step, medians."""
    guard, throughput = Guard(), Throughput(50)
    timed = Timed(guard, throughput)
    data = SRDataModule(
        *(2, random_images(64, 128, 128)),
        batch_size=16,
        crop_size=96,
        crops=CropSettings(per_image=40),
        workers=0,
        degradation=Bicubic(2),
    )
    with tempfile.TemporaryDirectory() as folder:
        run = trainer(folder, callbacks=[guard, throughput, timed], max_steps=STEPS)
        model = Regression(2, partial(EDSR, blocks=4, channels=32, global_skip=True))
        run.fit(model, datamodule=data)
    steps = timed.steps[5:]
    return {
        f"{name.lower()}_ms": round(statistics.median(step[name] for step in steps) * 1e3, 4)
        for name in ("step", *timed.names)
    }


def stopwatch() -> float:
    """Microseconds that a timed call takes longer than a plain one."""

    def nothing() -> None:
        return

    def seconds(function: Callable[[], None]) -> float:
        begun = time.perf_counter()
        for _ in range(CALLS):
            function()
        return time.perf_counter() - begun

    timed = Stopwatch()(nothing)
    more = [seconds(timed) - seconds(nothing) for _ in range(7)]
    return round(statistics.median(more) / CALLS * 1e6, 3)


def all_reduce(rank: int, place: str, found: Any) -> None:
    """Time it in one of two processes."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{place}", rank=rank, world_size=2)
    both, times = torch.zeros(2), []
    for _ in range(REDUCTIONS):
        dist.barrier()
        begun = time.perf_counter()
        dist.all_reduce(both)
        times.append(time.perf_counter() - begun)
    if rank == 0:
        found.value = statistics.median(times[20:]) * 1e3
    dist.destroy_process_group()


def main() -> None:
    """Measure on one core, and write the result."""
    from benchmarks.report import write_report

    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    results = in_a_run()
    for name in ("guard", "throughput"):
        results[f"{name}_share"] = round(results[f"{name}_ms"] / results["step_ms"], 5)
    results["stopwatch_us"] = stopwatch()
    found: Any = mp.get_context("spawn").Value("d", 0.0)
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(all_reduce, (f"{folder}/meeting", found), nprocs=2)  # type: ignore[attr-defined]
    results["all_reduce_ms"] = round(found.value, 4)
    write_report("guards", {"steps": STEPS, **results}, SEED)


if __name__ == "__main__":
    from benchmarks.report import without_options

    without_options(__doc__)
    main()
