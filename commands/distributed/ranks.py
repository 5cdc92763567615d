"""The processes of a run: they meet, and end together.

A process that waits for a lost one ends by torch's own time limit, ``run.wait_minutes``; at the end
of the command, where one may have hours of work left, when the connection is closed. torch does not
say why another process ended, and with which status: a launcher must not start a run again that
has a configuration error. So the first process that fails leaves its reason in the store of torch's
process group. A thread of each other process finds it there, also while the process waits for a
device or is in a long evaluation.
"""

from __future__ import annotations

import json
import os
import re
import socket
import threading
import time
from typing import Any, NamedTuple

import torch.distributed as dist
from lightning.pytorch import LightningModule, Trainer
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from callbacks.evaluation import FailedElsewhereError, patient_group
from commands.errors import TemporaryError
from commands.lightning_internals import launch
from commands.world import LIGHTNING, claimed

LOST = 75  # exit status after another process was lost: EX_TEMPFAIL, start again
POLL_SECONDS = 0.5
GRACE_SECONDS = 1.0  # in which a process may still end by itself after another one failed
HEAR_SECONDS = 5.0  # in which a process hears why another one ended
LAST_SECONDS = 1.0  # that a failed process stays, so that the others hear of it
STARTED_SECONDS = 3.0  # that one which Lightning started ends after the one that started it


class Failure(NamedTuple):
    """Why a process ends, for the others."""

    rank: int
    host: str
    reason: str
    status: int

    def __str__(self) -> str:
        return f"rank {self.rank} (on {self.host}) stopped: {self.reason}"


class Ranks:
    """All processes of a run; one process alone does nothing here.

    Args:
        limit: Seconds in which they must meet.
    """

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self.rank = 0
        self.met = False  # whether the process group was created
        self.first: Failure | None = None  # of all processes, as the store has it
        self._group: Any = None  # the process group in which they wait for the end
        self._listener: threading.Thread | None = None  # reads and writes the store
        self._own = ""  # failure of this process as JSON, which the listener leaves in the store
        self._heard = threading.Event()  # set when `first` is
        self._ends = threading.Event()  # set when the main thread itself ends this process

    def meet(self, trainer: Trainer, model: LightningModule) -> None:
        """Start the processes that Lightning starts, and create torch's process group.

        Args:
            trainer: The trainer of this process.
            model: What it will train.

        Raises:
            ValueError: If the strategy starts processes in another way than Lightning's default.
        """
        if trainer.world_size == 1:
            return
        # torch's own limit fails if another program listens at the port, and says nothing.
        patience = threading.Timer(self.limit + HEAR_SECONDS, self._give_up_meeting)
        patience.daemon = True
        patience.start()
        try:
            launch(trainer, model)
            self._group = patient_group()
        finally:
            patience.cancel()
        self.rank, self.met = trainer.global_rank, True
        address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        store = TCPStore(address, port, is_master=False, wait_for_workers=False)
        self._listener = threading.Thread(target=self._listen, args=(store,), daemon=True)
        self._listener.start()

    def _give_up_meeting(self) -> None:
        self._exit("the processes of the run did not find each other in time", LOST)

    def wait_for_all(self) -> None:
        """Wait until all processes have finished, however long one of them takes.

        Raises:
            RuntimeError: If another process ended otherwise.
        """
        if self.met:
            dist.barrier(self._group)
            self._ends.set()
            if self._listener is not None:
                self._listener.join()  # Python's end would abort it in a call of C++

    def fail(self, error: BaseException, status: int) -> TemporaryError | None:
        """Tell the others that this process fails, or learn which of them is the reason.

        Args:
            error: What ends this process.
            status: Its exit status.

        Returns:
            The error to raise in its place, if another process failed first and is the reason, or
            has the same error; None if this process is to raise its own.
        """
        text = reason = one_line(error)
        # Whether it only follows from the failure of another process.
        follows = isinstance(error, FailedElsewhereError) or is_broken_link(error)
        if follows:
            self._heard.wait(HEAR_SECONDS if self.met else 0)
            status = LOST
        if is_broken_link(error):
            reason = why_broken(text)
        own = Failure(self.rank, socket.gethostname(), reason, status)
        first = self._tell(own)
        if first == own:
            return TemporaryError(reason, status) if follows else None
        if first.reason == text:
            time.sleep(LAST_SECONDS)  # that one ends before this one, and says why
            return TemporaryError(f"rank {first.rank} (on {first.host}) says why", first.status)
        return TemporaryError(str(first), first.status) if follows else None

    def _tell(self, own: Failure) -> Failure:
        """Tell the others why this process ends, and return the first reason of all processes."""
        if self.met and not self._ends.is_set():  # else all have finished
            self._own = json.dumps(own)
            self._heard.wait(HEAR_SECONDS)
        self._ends.set()
        return self.first or own  # the store may not answer

    def _listen(self, store: Any) -> None:
        """Exchange the first failure through the store, and end after that of another process."""
        key = f"failure {os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}"
        heard = b""
        try:
            while not heard:
                if self._ends.wait(POLL_SECONDS):
                    return
                heard = store.compare_set(key, "", self._own)
        except dist.DistError:  # the first process keeps the store
            lost = Failure(0, "the first node", "its store does not answer", LOST)
        else:
            lost = Failure(*json.loads(heard))
        self.first = lost
        self._heard.set()
        if lost.rank != self.rank and not self._ends.wait(GRACE_SECONDS + seconds_after_launcher()):
            self._exit(str(lost), lost.status)

    def _exit(self, reason: str, status: int) -> None:
        """End this process from the thread, without waiting for anything."""
        line = f"rank {self.rank} on {socket.gethostname()} ends: {reason}\n"
        try:
            os.write(2, line.encode("utf-8", "backslashreplace"))  # it may name any file
        finally:  # else a closed stderr would leave the process waiting
            os._exit(status)


def seconds_after_launcher() -> float:
    """Return by how many seconds this process ends after the one that started it.

    Lightning's launcher kills the process that started the others once one of them has failed, and
    its exit status would be lost. 0 for processes that torchrun or SLURM has started.
    """
    claim = claimed()
    return STARTED_SECONDS if claim.launcher == LIGHTNING and claim.local_rank else 0.0


def is_broken_link(error: BaseException) -> bool:
    """Return whether an exception means that another process, or the connection to it, is lost."""
    if isinstance(error, dist.DistError):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and bool(re.search(r"\bgloo\b|NCCL", text))


def why_broken(text: str) -> str:
    """Return the message of a broken connection, with the fix.

    Args:
        text: The message of torch's error.
    """
    taken = re.search(r"port: (\d+).*EADDRINUSE", text)
    if taken:
        return f"port {taken[1]} is in use: set MASTER_PORT"
    return f"another process, or the network to it, is lost ({text}): start the same command again"


def one_line(error: BaseException) -> str:
    """Return the text of an exception on one line, without torch's source positions and advice."""
    text = re.sub(r"\[/\S+:\d+\] ", "", " ".join(str(error).split()))
    text = re.split(r" This is typically caused by| Exception raised from", text)[0]
    return text[:300]
