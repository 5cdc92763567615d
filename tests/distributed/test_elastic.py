"""A run stopped on two processes continues with four, and then with one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.conftest import REPO
from tests.distributed.records import global_batches, images_of, newest
from tests.distributed.test_two_processes import torchrun

STEPS = 12  # 2.4 epochs


@pytest.mark.slow
@pytest.mark.distributed
def test_every_global_batch_is_the_same(tiny: Path, enlarger: Callable[..., None]) -> None:
    """The same images, crops and, up to rounding, LR of random degradations."""

    def command(name: str, steps: int) -> list[object]:
        record = ("--trainer.callbacks+", "tests.distributed.records.Record")
        keys = ("--trainer.callbacks.folder", name, "--trainer.callbacks.images", "true")
        light = REPO / "configs" / "degradation" / "real_esrgan_light.yaml"
        return [
            *("fit", "--config", "tiny.yaml", "--degradation", light, *record, *keys),
            *("--data.init_args.crop_size", 32, "--data.init_args.val", "null"),
            *("--run.name", name, "--trainer.max_steps", steps),
        ]

    enlarger(*command("whole", STEPS))
    torchrun(*command("moved", 4), processes=2)
    torchrun(*command("moved", 8), processes=4)
    enlarger(*command("moved", STEPS))
    assert list(global_batches(Path("whole"))) == list(range(1, STEPS + 1))
    assert global_batches(Path("moved")) == global_batches(Path("whole"))
    assert {len(list(Path("moved").glob(f"step-{n}-*"))) for n in (4, 8, 12)} == {1, 2, 4}
    for step in range(1, STEPS + 1):
        torch.testing.assert_close(
            images_of(Path("moved"), step), images_of(Path("whole"), step), rtol=0, atol=1e-5
        )
    weights = [newest(Path("runs", name))["state_dict"] for name in ("moved", "whole")]
    torch.testing.assert_close(weights[0], weights[1], rtol=0, atol=1e-5)
