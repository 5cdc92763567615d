"""The command line on two processes that talk through gloo, and the same run on another number."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.conftest import REPO

LIMIT = 150  # seconds: a process that waits for one that will not come would wait for half an hour


def torchrun(*args: object, processes: int = 2, strategy: str = "ddp") -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
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


def weights(run: str) -> dict[str, torch.Tensor]:
    path = sorted(Path("runs", run, "checkpoints").glob("step-*.ckpt"))[-1]
    state: dict[str, torch.Tensor] = torch.load(path, weights_only=True)["state_dict"]
    return state


@pytest.mark.slow
@pytest.mark.distributed
def test_one_picture_for_two_processes(tiny: Path, enlarger: Callable[..., None]) -> None:
    """EDSR has buffers, which DDP would broadcast in a validation that only one process has."""
    one_picture = ["--data.init_args.val.photos.init_args.files", "[1.png]"]
    command = ["fit", "--config", "tiny.yaml", *one_picture]
    torchrun(*command, "--run.name", "both", "--trainer.max_steps", 7)
    enlarger(*command, "--run.name", "both")  # continued on one process
    enlarger(*command, "--run.name", "alone")
    both, alone = weights("both"), weights("alone")
    assert both.keys() == alone.keys()
    for name in both:
        torch.testing.assert_close(both[name], alone[name], rtol=0, atol=1e-6)
