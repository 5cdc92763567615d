"""Whole runs on the pretended GPU: ``main.py fit`` with EMA, then ``test``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.gpu.device import Waits, counted, pretended_gpu


def test_a_step_of_a_run_waits_for_nothing(tiny: Path, enlarger: Callable[..., None]) -> None:
    def fit(name: str, steps: int) -> Waits:
        with pretended_gpu(), counted() as waits:
            enlarger(
                *("fit", "--config", "tiny.yaml", "--run.name", name, "--trainer.accelerator"),
                *("gpu", "--trainer.max_steps", steps),
                *("--trainer.log_every_n_steps", 1000, "--trainer.limit_val_batches", 0),
                *("--data.init_args.crops.per_image", 20),
                *("--trainer.callbacks+", "callbacks.Guard"),
            )
        return waits

    fit("warm", 5)
    few, many = fit("few", 5), fit("many", 15)
    assert many.total() <= few.total(), f"{many - few}"
