"""`predict` on two processes: each has its share, and all lines are in one file."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor
from torch.nn import functional

from callbacks.predict.predictions import NAME
from lightning_modules.base import SuperResolver
from tests.distributed.test_two_processes import by_srun, torchrun


@pytest.mark.slow
@pytest.mark.distributed
def test_two_processes_write_one_file_of_lines(
    tiny: Path,
    photo_folder: Path,
    enlarger: Callable[..., None],
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    command = [
        "predict",
        "--config",
        "tiny.yaml",
        "--model",
        "lightning_modules.Bicubic",
    ]
    command += ["--data.init_args.predict", str(photo_folder), "--writer.folder", "out"]
    torchrun(*command)
    assert capfd.readouterr().err.count("10 written, 0 skipped") == 1  # of all processes
    lines = [json.loads(text) for text in Path("out", NAME).read_text().splitlines()]
    assert sorted(line["output"] for line in lines) == [f"{number}.png" for number in range(10)]
    enlarger(*command)  # on one process, which finds nothing to do
    assert "0 written, 10 skipped" in caplog.text


class Slow(SuperResolver):
    """A method whose first image brings a signal to one of two processes."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        raise NotImplementedError

    def restore(self, batch: Any, noise: Any) -> Tensor:
        if os.environ["SLURM_PROCID"] == os.environ["STOPPED"]:
            os.kill(os.getpid(), int(os.environ.get("SIGNAL", signal.SIGTERM)))
        time.sleep(2)  # in which the other process learns of it
        return functional.interpolate(batch["lr"], batch["size"])


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize("stopped", ["0", "1"])
@pytest.mark.parametrize("verb", ["predict", "test", "validate"])
def test_a_signal_to_one_process_ends_both(
    tiny: Path, photo_folder: Path, verb: str, stopped: str
) -> None:
    command = [verb, "--config", "tiny.yaml", "--model", f"{__name__}.Slow"]
    if verb == "predict":
        command += ["--data.init_args.predict", photo_folder, "--writer.folder", "out"]
    for status, said in by_srun(*command, more={"STOPPED": stopped}):
        assert status == 128 + signal.SIGTERM, said
        assert "stopped by SIGTERM before its end" in said
    assert len(list(Path().rglob("out/*.png"))) < 10


@pytest.mark.slow
@pytest.mark.distributed
def test_ctrl_c_in_one_process_ends_both(tiny: Path, photo_folder: Path) -> None:
    command = ("predict", "--config", "tiny.yaml", "--model", f"{__name__}.Slow")
    more = {"STOPPED": "1", "SIGNAL": str(int(signal.SIGINT))}
    ended = by_srun(*command, "--data.init_args.predict", photo_folder, more=more)
    assert [status for status, _ in ended] == [130, 130], ended


class Late(SuperResolver):
    """A method that takes longer than ``run.wait_minutes`` on one of two processes."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        raise NotImplementedError

    def restore(self, batch: Any, noise: Any) -> Tensor:
        if os.environ["SLURM_PROCID"] == "1":
            time.sleep(4)
        return functional.interpolate(batch["lr"], batch["size"])


@pytest.mark.slow
@pytest.mark.distributed
def test_a_process_waits_for_the_slowest_one(tiny: Path, photo_folder: Path) -> None:
    command = ("predict", "--config", "tiny.yaml", "--model", f"{__name__}.Late")
    place = ("--data.init_args.predict", photo_folder, "--writer.folder", "out")
    (first, one), (second, other) = by_srun(*command, *place, "--run.wait_minutes", 0.15)
    assert (first, second) == (0, 0), one + other
    assert "10 written, 0 skipped" in one
