"""The command line on two gloo processes, and the same run on another number of processes."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Callback, Trainer

from tests.conftest import REPO
from tests.ports import free_port

LIMIT = 150  # seconds; waiting for a missing process would take half an hour


def torchrun(*args: object, processes: int = 2, strategy: str = "ddp") -> None:
    port = free_port()
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", str(processes)]
    place = ["--master_addr", "127.0.0.1", "--master_port", str(port)]
    # Devices and nodes follow from torchrun, and so does ddp.
    flags = [] if strategy == "ddp" else ["--trainer.strategy", strategy]
    subprocess.run(
        [*launcher, *place, str(REPO / "main.py"), *map(str, args), *flags],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=True,
        timeout=LIMIT,
    )


def by_srun(
    *args: object, more: dict[str, str] | None = None, first_ends: bool = False
) -> list[tuple[int, str]]:
    """Return status and output of two processes with the variables of SLURM's tasks.

    Args:
        args: Of ``main.py``.
        more: Further variables.
        first_ends: Kill the second one once the first one has ended.
    """
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "OMP_NUM_THREADS": "1"}
    job = dict.fromkeys(("SLURM_NTASKS", "SLURM_NTASKS_PER_NODE", "SLURM_STEP_NUM_TASKS"), "2")
    job |= {"SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "enlarger", "SLURM_NODEID": "0"}
    processes = [
        subprocess.Popen(
            [sys.executable, str(REPO / "main.py"), *map(str, args)],
            env={**os.environ, **place, **job, "SLURM_PROCID": str(rank),
                 "SLURM_LOCALID": str(rank), **(more or {})},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for rank in (0, 1)
    ]  # fmt: skip
    try:
        if first_ends:
            processes[0].wait(LIMIT)
            processes[1].kill()
        said = [process.communicate(timeout=LIMIT)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(process.returncode, text) for process, text in zip(processes, said, strict=True)]


@pytest.mark.slow
@pytest.mark.distributed
def test_check_has_one_verdict(tiny: Path) -> None:
    check = ("check", "--config", "tiny.yaml")
    (first, one), (second, other) = by_srun(*check)
    assert (first, second) == (0, 0), one + other
    assert (one + other).count("all is well") == 1
    assert "exception" not in one + other

    (first, one), (second, other) = by_srun(*check, "--data.init_args.train.init_args.root", "none")
    assert (first, second) == (2, 2), one + other
    assert (one + other).count("1 of what fit needs are missing") == 1
    assert not Path("runs").exists()


@pytest.mark.slow
@pytest.mark.distributed
def test_a_port_in_use_ends_both_processes(tiny: Path) -> None:
    """The output is read until both have ended."""
    command = [sys.executable, str(REPO / "main.py"), "fit", "--config", "tiny.yaml"]
    with socket.create_server(("", 0)) as taken:
        port = taken.getsockname()[1]
        run = subprocess.run(
            [*command, "--trainer.devices", "2"],
            env={**os.environ, "OMP_NUM_THREADS": "1", "MASTER_PORT": str(port)},
            capture_output=True,
            text=True,
            timeout=LIMIT,
        )
    assert run.returncode == 75, run.stderr
    assert run.stderr.endswith(f"error: port {port} is in use: set MASTER_PORT\n")


@pytest.mark.slow
@pytest.mark.distributed
def test_data_that_the_first_process_refuses(tiny: Path, enlarger: Callable[..., None]) -> None:
    """It looks at them alone, before it moves an earlier run aside."""
    command = ("fit", "--config", "tiny.yaml", "--data.init_args.val", "null")
    enlarger(*command, "--trainer.max_steps", 1)
    large = ("--run.overwrite", "true", "--data.init_args.batch_size", 32)
    (first, one), (second, other) = by_srun(*command, *large)
    assert "fewer than data.batch_size 32" in one
    assert (first, second) == (2, 2), one + other


@pytest.mark.slow
@pytest.mark.distributed
def test_the_logged_loss_is_the_mean_over_processes(
    tiny: Path, enlarger: Callable[..., None]
) -> None:
    steps = ("--trainer.max_steps", 4, "--trainer.log_every_n_steps", 2)
    command = ("fit", "--config", "tiny.yaml", "--data.init_args.val", "null", *steps)
    logger = (
        "--trainer.logger",
        "lightning.pytorch.loggers.CSVLogger",
        "--trainer.logger.save_dir",
    )

    enlarger(*command, *logger, "one", "--run.name", "one")
    torchrun(*command, *logger, "two", "--run.name", "two")

    of_one = logged_losses(Path("one"))
    assert len(of_one) == 2
    assert logged_losses(Path("two")) == pytest.approx(of_one, rel=1e-5)


def logged_losses(folder: Path) -> list[float]:
    (table,) = folder.rglob("metrics.csv")
    with table.open() as lines:
        return [float(row["train/loss"]) for row in csv.DictReader(lines) if row["train/loss"]]


class Leaves(Callback):
    """Let the second process stop taking part before the fourth step.

    Args:
        way: How.
    """

    def __init__(self, way: str) -> None:
        self.way = way

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_rank == 0 or trainer.global_step < 3:
            return
        if self.way == "raises":
            raise ValueError("no more")
        if self.way == "stops":
            os.kill(os.getpid(), signal.SIGSTOP)

    def on_train_end(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_rank == 1:
            raise ValueError("no more")


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize(
    ("way", "status", "reason"),
    [
        ("stops", 75, "another process, or the network to it, is lost .*: start the same command"),
        ("raises", 1, "no more"),
        ("raises at the end", 1, "no more"),
    ],
)
def test_a_process_that_stops_taking_part(tiny: Path, way: str, status: int, reason: str) -> None:
    leaves = json.dumps({"class_path": f"{__name__}.Leaves", "init_args": {"way": way}})
    limits = ("--run.wait_minutes", 0.5)
    first, _ = by_srun(
        *("fit", "--config", "tiny.yaml", *limits, "--trainer.callbacks+", leaves), first_ends=True
    )
    got, said = first
    assert got == status, said
    assert re.search(reason, said), said
    assert "frame #" not in said
