"""Processes that are forked from one that has imported everything."""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import importlib
import math
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

import main
from tests.ports import free_port

GRACE = 30  # seconds in which a process learns that another one has failed


def warm() -> None:
    """Import what commands need; start no thread, which a forked process would lack."""
    torch.set_num_threads(1)
    for room in ("lightning_modules", "datamodules", "callbacks", "degradations"):
        module = importlib.import_module(room)
        for name in dir(module):
            with contextlib.suppress(ImportError):
                getattr(module, name)
    for name in ("commands.cli", "enlarger", "transformers", "diffusers", "tensorboard"):
        importlib.import_module(name)
    os.fsync = lambda descriptor: None  # as in tests/conftest.py
    gc.collect()
    gc.freeze()


def fork(act: Callable[[], object], log: Path) -> int:
    """Start a process, and return its id.

    Args:
        act: What it does; an exception becomes status 1.
        log: Where its output goes.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    if process := os.fork():
        return process
    status = 1
    try:
        file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, 1)
        os.dup2(file, 2)
        faulthandler.enable()  # SIGABRT: where all threads are
        torch.set_num_threads(1)  # a pool of its own
        act()
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def end_group(group: int) -> None:
    """Have each process of a group write where it is, and end."""
    for number in (signal.SIGABRT, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(group, number)
        time.sleep(0.5)


def ranks(processes: int) -> list[dict[str, str]]:
    """Return the variables that torchrun sets, for each of several processes."""
    place = {
        **{"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())},
        **{"TORCHELASTIC_RUN_ID": "matrix", "TORCHELASTIC_RESTART_COUNT": "0"},
        **{"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes)},
        **{"GROUP_RANK": "0", "GROUP_WORLD_SIZE": "1"},
    }
    return [place | {"RANK": str(n), "LOCAL_RANK": str(n)} for n in range(processes)]


class Failed(Exception):  # noqa: N818
    """A command ended with another status than 0.

    Args:
        what: The command.
        statuses: The status of each process.
        why: What they said.
    """

    def __init__(self, what: str, statuses: list[int], why: str) -> None:
        super().__init__(f"{what}: status {statuses}: {why}")
        self.statuses, self.why = statuses, why


def start(act: Callable[[], object], log: Path, processes: int = 1) -> list[int]:
    """Have one or more processes do something together; return the status of each.

    Args:
        act: What they do.
        log: Where their output goes: a file for each, with its rank as suffix.
        processes: How many.
    """

    def with_rank(variables: dict[str, str]) -> Callable[[], object]:
        def run() -> object:
            os.environ.update(variables)
            return act()

        return run

    each = ranks(processes) if processes > 1 else [{}]
    started = [fork(with_rank(v), log.with_suffix(f".{n}.log")) for n, v in enumerate(each)]
    return wait(started)


def wait(processes: Sequence[int]) -> list[int]:
    """Return the status of each; once one has failed, end the others as torchrun does."""
    statuses: dict[int, int] = {}
    deadline = math.inf
    while len(statuses) < len(processes):
        time.sleep(0.02)
        for process in processes:
            if process in statuses:
                continue
            if time.monotonic() > deadline:
                os.kill(process, signal.SIGKILL)
            ended, status = os.waitpid(process, os.WNOHANG)
            if ended:
                statuses[process] = os.waitstatus_to_exitcode(status)
                if statuses[process]:
                    deadline = min(deadline, time.monotonic() + GRACE)
    return [statuses[process] for process in processes]


def command(words: Sequence[object], log: Path, processes: int = 1) -> None:
    """Run main.py in one or more processes.

    Raises:
        Failed: If one of them ends with another status than 0.
    """
    typed = [str(word) for word in words]
    log.write_text(" ".join(["main.py", *typed]) + "\n")
    statuses = start(lambda: main.main(typed), log, processes)
    if any(statuses):
        said = [last_line(log.with_suffix(f".{n}.log")) for n in range(processes)]
        raise Failed(typed[0], statuses, max(said, key=lambda line: "rror" in line))


def last_line(log: Path) -> str:
    """Return the line of a log that says why it ends."""
    if not log.is_file():
        return "no output"
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("error: ")]
    plain = [line for line in lines if not line.startswith((" ", "[rank", "--", "Extension"))]
    return (errors or plain or ["no output"])[-1][:300]
