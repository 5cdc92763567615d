"""The ranks of a run: they meet, share signals, and notice when one of them is lost."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import re
import socket
from pathlib import Path
from typing import Any

import torch.distributed as dist
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import ParallelStrategy
from torch._C._distributed_c10d import Store

from commands.errors import ConfigurationError, RepeatedError, TemporaryError
from commands.lifeline import GRACE, LOST, Heartbeat, write_failure_note
from commands.meeting import Facts, gather, open_store
from commands.open_files import too_few, too_few_for_torchrun
from commands.preflight import differences
from commands.signals import Signals

log = logging.getLogger(__name__)


class Ranks:
    """All processes of a run; one process alone needs no connection.

    Args:
        folder: The run directory, for notes of failures; None for a command that writes nothing,
            whose processes report one result.
        limit: Seconds to wait for the others at a meeting.
        interval: Seconds between two heartbeats.
        lost_after: Seconds without a heartbeat after which a process is lost.
    """

    def __init__(
        self, folder: Path | None, limit: float, interval: float, lost_after: float
    ) -> None:
        self.folder, self.limit = folder, limit
        self.interval, self.lost_after = interval, lost_after
        self.signals = Signals()
        self.step = 0  # kept up to date by `Stops`
        self.rank, self.world = 0, 1
        self.met = False
        self._store: Store | None = None
        self._heartbeat: Heartbeat | None = None

    # ------------------------------------------------------------------------------------- meeting

    def may_meet(self, trainer: Trainer) -> bool:
        """Return whether all processes run by now; Lightning starts its own ones later."""
        environment = _environment(trainer)
        if trainer.world_size == 1 or environment is None:
            return False
        return dist.is_initialized() or not isinstance(environment, LightningEnvironment)

    def meet(self, trainer: Trainer, facts: Facts) -> list[Facts]:
        """Meet all processes, compare their facts, and start the heartbeat.

        Args:
            trainer: The trainer of this process.
            facts: Facts of this process; see ``preflight.py``.

        Returns:
            The facts of all processes, by rank.

        Raises:
            ConfigurationError: If facts differ, a process refuses to start, or this one may open
                too few files for its connections.
            TemporaryError: If processes are missing after the time limit.
        """
        environment = _environment(trainer)
        if environment is None:
            raise RuntimeError("there are no other processes; call may_meet first")
        self.rank, self.world = trainer.global_rank, trainer.world_size
        if reason := too_few(self.world):  # failing connections would look like a network error
            raise ConfigurationError(reason)
        theirs = self.rank == 0 and dist.is_torchelastic_launched()  # torchrun keeps the store
        if theirs and (reason := too_few_for_torchrun(self.world)):
            log.warning("%s", reason)
        self._store = open_store(
            *(environment.global_rank(), environment.world_size()),
            *(environment.main_address, environment.main_port),
            self.limit,
        )
        config = json.dumps(facts["config"], sort_keys=True)
        self._store.set(f"config/{self.rank}", config)  # long, and only read if they differ
        facts = {**facts, "config": hashlib.sha256(config.encode()).hexdigest()[:16]}
        everyone = self._gather("start", facts)
        self.met = True
        # Compared before the heartbeat starts, so that all report it and none ends another.
        self._refuse("start", everyone)
        hosts = [str(theirs["host"]) for theirs in everyone]
        self._heartbeat = Heartbeat(  # with a connection of its own
            *(self._store.clone(), self.rank, hosts),
            *(self.folder, self.interval, self.lost_after),
            state=lambda: (self.step, self.signals.received),
        )
        self._heartbeat.start()
        return everyone

    def compare(self, name: str, facts: Facts) -> list[Facts]:
        """Meet again later, and compare facts.

        Args:
            name: Name of the meeting; each can be used once.
            facts: Facts of this process.

        Returns:
            The facts of all processes, by rank.

        Raises:
            ConfigurationError: If facts differ, or a process refuses to continue.
            TemporaryError: If processes are missing after the time limit.
        """
        everyone = self._gather(name, facts)
        self._refuse(name, everyone)
        return everyone

    def gather(self, facts: Facts) -> list[Facts]:
        """Return facts of all processes, by rank, which may differ."""
        return self._gather("show", facts)

    def _gather(self, name: str, facts: Facts) -> list[Facts]:
        facts = {**facts, "host": socket.gethostname()}
        if self._store is None:
            return [facts]
        return gather(self._store, name, self.rank, self.world, facts, self.limit)

    def _refuse(self, name: str, everyone: list[Facts]) -> None:
        found = differences(everyone)
        if not found:
            return
        if self._store is None:
            raise ConfigurationError(str(everyone[0]["refusal"]))
        if "config" in everyone[0]:
            first = everyone[0]["config"]
            for rank, facts in enumerate(everyone):
                where = 0 if facts["config"] == first else rank
                facts["config"] = json.loads(self._store.get(f"config/{where}"))
            found = differences(everyone)
        with contextlib.suppress(TemporaryError):  # the store may end with the first process
            gather(self._store, f"{name}: seen", self.rank, self.world, {}, GRACE)
        own = found if self.rank == 0 else [s for s in found if s.startswith(f"rank {self.rank} ")]
        reason = ":\n  " + "\n  ".join(own) if own else "; rank 0 reports the reason"
        raise ConfigurationError(f"the processes cannot run together{reason}")

    # ------------------------------------------------------------------------------ under way, end

    def received_signal(self) -> int:
        """Return the number of a signal that any process has received, as far as known; or 0."""
        others = 0 if self._heartbeat is None else self._heartbeat.signal
        return self.signals.received or others

    def leave(self) -> None:
        """Stop the heartbeat at the end of a command that succeeded, or that all stopped."""
        if self._heartbeat is not None:
            self._heartbeat.leave()

    def fail(self, error: BaseException, status: int) -> TemporaryError | None:
        """Note the failure of this process, and tell the others.

        Args:
            error: The exception that ends it.
            status: Its exit status.

        Returns:
            The error to raise instead, if another process is the reason.

        Raises:
            RepeatedError: If the first process reports the same for all.
        """
        if self.world == 1:
            return None
        text = _plain(error)
        why, blamed = f"{type(error).__name__}: {text}", None
        if is_broken_link(error):
            found = None if self._heartbeat is None else self._heartbeat.explain()
            reason, status = found or ("all other processes still send heartbeats", LOST)
            why = f"{reason} (a connection broke: {text})"
            blamed = TemporaryError(why, status)
        if self.folder is not None:
            write_failure_note(self.folder, self.rank, f"{why}, last at step {self.step}")
        if self._heartbeat is not None:
            self._heartbeat.leave(why, status)
            if self.folder is None and self.rank > 0 and self._heartbeat.first_reports(why):
                raise RepeatedError(status) from error
        return blamed


def is_broken_link(error: BaseException) -> bool:
    """Return whether an exception means that another process, or the connection to it, is lost."""
    if isinstance(error, dist.DistError):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and ("gloo/transport" in text or "NCCL" in text)


def _plain(error: BaseException) -> str:
    # On one line, without gloo's source position and advice.
    text = re.sub(r"\[/\S+:\d+\] ", "", " ".join(str(error).split()))
    return text.partition(" This is typically caused by")[0][:300]


def _environment(trainer: Trainer) -> Any:
    strategy = trainer.strategy
    return strategy.cluster_environment if isinstance(strategy, ParallelStrategy) else None
