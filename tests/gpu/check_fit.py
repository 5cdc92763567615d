"""Whole runs on the pretended GPU: ``main.py fit`` with EMA, then ``test``."""

from __future__ import annotations

from tests.gpu.device import counted, pretended_gpu

FIT = """fit --config tiny.yaml --trainer.accelerator gpu --trainer.callbacks+ callbacks.Guard
    --trainer.log_every_n_steps 1000 --trainer.limit_val_batches 0
    --data.init_args.crops.per_image 20"""


def test_a_run_of_more_steps_waits_no_more_often(tiny, enlarger):
    """A step after which the host waits for the GPU leaves it idle until the next one begins."""

    def waits_of(name, steps):
        with pretended_gpu(), counted() as waits:
            enlarger(f"{FIT} --run.name {name} --trainer.max_steps {steps}")
        return waits

    waits_of("warm", steps=5)  # the first time, tables are copied

    few = waits_of("few", steps=5)
    many = waits_of("many", steps=15)

    assert many.total() <= few.total(), f"{many - few}"
