"""Two processes as SLURM starts them: they get signals directly."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPO
from tests.distributed.records import newest, steps_of
from tests.ports import free_port

pytestmark = pytest.mark.distributed

LIMIT = 300
TWO = ("--trainer.num_nodes", 2, "--trainer.devices", 1, "--trainer.strategy", "ddp")


def task(rank: int, at: int, *args: object) -> subprocess.Popen[str]:
    """Start one task of two nodes."""
    slurm = {
        **{"SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "enlarger", "SLURM_NTASKS": "2"},
        **{"SLURM_STEP_NUM_TASKS": "2"},
        **{"SLURM_NTASKS_PER_NODE": "1", "SLURM_NNODES": "2", "SLURM_LOCALID": "0"},
        **{"SLURM_PROCID": str(rank), "SLURM_NODEID": str(rank)},
        **{"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(at), "OMP_NUM_THREADS": "1"},
    }
    return subprocess.Popen(
        [sys.executable, str(REPO / "main.py"), *map(str, args), *map(str, TWO)],
        env={**os.environ, **slurm}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def ends(tasks: list[subprocess.Popen[str]]) -> list[tuple[int, str]]:
    """Return exit statuses and outputs."""
    try:
        said = [process.communicate(timeout=LIMIT)[0] for process in tasks]
    finally:
        for process in tasks:
            process.kill()
    return [(process.returncode, text) for process, text in zip(tasks, said, strict=True)]


@pytest.mark.slow
def test_a_difference_is_named(tiny: Path) -> None:
    at = free_port()
    sizes = (4, 8)
    both = ends(
        [
            task(r, at, "check", "--config", "tiny.yaml", "--data.init_args.batch_size", sizes[r])
            for r in (0, 1)
        ]
    )
    for status, said in both:
        assert status == 2, said
    said = both[0][1] + both[1][1]
    assert "rank 1 (on " in said
    assert "data.batch_size is 8 there, 4 on rank 0" in said


@pytest.mark.slow
def test_one_that_does_not_come_ends_the_other(tiny: Path) -> None:
    alone = task(0, free_port(), "fit", "--config", "tiny.yaml", "--run.wait_minutes", 0.05)
    ((status, said),) = ends([alone])
    assert status == 75, said
    assert not Path("runs/tiny/checkpoints").exists()


@pytest.mark.slow
def test_a_warning_before_the_time_is_over(tiny: Path) -> None:
    record = ("--trainer.callbacks+", "tests.distributed.records.Record")
    command = ["fit", "--config", "tiny.yaml", *record, "--trainer.callbacks.folder", "record"]
    command += ["--trainer.callbacks.seconds", "0.2", "--trainer.max_steps", "100000"]
    command += ["--data.init_args.val", "null"]  # a stop within a validation writes nothing
    at = free_port()
    tasks = [task(rank, at, *command) for rank in (0, 1)]
    try:
        while max(steps_of(Path("record"), 1), default=0) < 3:
            assert [process.poll() for process in tasks] == [None, None], tasks[0].communicate()
        tasks[0].send_signal(signal.SIGUSR1)  # SLURM sends it to all; one is enough
    finally:
        both = ends(tasks)
    for status, said in both:
        assert status == 128 + signal.SIGUSR1, said
    assert newest(Path("runs/tiny"))["global_step"] == steps_of(Path("record"), 0)[-1]


@pytest.mark.parametrize("checker", [["bash", "-n"], ["shellcheck"]])
def test_the_script(checker: list[str]) -> None:
    if shutil.which(checker[0]) is None:
        pytest.skip(f"needs {checker[0]}")
    subprocess.run([*checker, str(REPO / "docs" / "train.sbatch")], check=True)


@pytest.mark.parametrize(
    ("status", "restarts", "requeued"),
    [
        (0, 0, False),
        (138, 0, True),
        (75, 3, True),
        (137, 0, True),
        (75, 50, False),
        (2, 0, False),
        (143, 0, False),
    ],
)
def test_when_the_script_starts_the_job_again(
    tmp_path: Path, status: int, restarts: int, requeued: bool
) -> None:
    """Status 143: a job that was cancelled, or that SLURM starts again."""
    for name, line in (("srun", f"exit {status}"), ("scontrol", 'echo "$@" > asked')):
        path = tmp_path / name
        path.write_text(f"#!/bin/sh\n{line}\n")
        path.chmod(0o755)
    slurm = {
        **{"SLURM_NNODES": "2", "SLURM_NTASKS_PER_NODE": "1", "SLURM_JOB_ID": "7"},
        **{"SLURM_RESTART_COUNT": str(restarts), "PATH": f"{tmp_path}:{os.environ['PATH']}"},
    }
    done = subprocess.run(
        ["bash", str(REPO / "docs" / "train.sbatch"), "some.yaml"],
        env=slurm, cwd=tmp_path, check=False,
    )  # fmt: skip
    assert done.returncode == status
    asked = tmp_path / "asked"
    assert (asked.read_text().strip() if asked.exists() else None) == (
        "requeue 7" if requeued else None
    )
