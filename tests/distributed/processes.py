"""`main.py` in processes of its own: one, several of torchrun, or two as SLURM starts them."""

import contextlib
import os
import signal
import subprocess
import sys

from tests.conftest import REPO, words_of
from tests.ports import free_port

LIMIT = 150  # seconds; waiting for a missing process would take half an hour


def start(*typed, launcher=(), **variables):
    """Start a command in a process group of its own; what it prints and logs is one pipe.

    Args:
        typed: Of `main.py`, as `words_of` takes it.
        launcher: What Python runs instead of `main.py`, with its arguments.
        variables: Of its environment.
    """
    return subprocess.Popen(
        [sys.executable, *launcher, str(REPO / "main.py"), *words_of(*typed)],
        env={**os.environ, "OMP_NUM_THREADS": "1", **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def torchrun(*typed, processes=2):
    """Run a command on several processes of this machine; return the exit status and the output."""
    launcher = f"-m torch.distributed.run --nproc_per_node {processes}"
    place = f"--master_addr 127.0.0.1 --master_port {free_port()}"
    [ended] = ends([start(*typed, launcher=words_of(f"{launcher} {place}"))])
    return ended


def succeeds(*typed, processes=2):
    """Run a command on several processes, which must succeed."""
    status, output = torchrun(*typed, processes=processes)
    assert status == 0, output


def srun_tasks(*typed, second=None, nodes=1, **variables):
    """Start two tasks of a SLURM job, on one node or on two.

    Args:
        typed: Of each task.
        second: Of the second one, where that is another command.
        nodes: 1 or 2.
        variables: Further ones of both.
    """
    job = {
        "SLURM_JOB_ID": "7",
        "SLURM_JOB_NAME": "enlarger",
        "SLURM_NTASKS": "2",
        "SLURM_STEP_NUM_TASKS": "2",
        "SLURM_NTASKS_PER_NODE": str(2 // nodes),
        "SLURM_NNODES": str(nodes),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
    }
    started = []
    for rank, words in enumerate((typed, [second] if second else typed)):
        place = {
            "SLURM_PROCID": str(rank),
            "SLURM_LOCALID": str(rank if nodes == 1 else 0),
            "SLURM_NODEID": str(0 if nodes == 1 else rank),
        }
        started.append(start(*words, **job, **place, **variables))
    return started


def ends(processes):
    """Wait for processes; return the exit status and the output of each."""
    try:
        outputs = [process.communicate(timeout=LIMIT)[0] for process in processes]
    finally:
        for process in processes:
            with contextlib.suppress(ProcessLookupError):  # all of its group have ended
                os.killpg(process.pid, signal.SIGKILL)
    return [(process.returncode, text) for process, text in zip(processes, outputs, strict=True)]
