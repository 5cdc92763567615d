"""The processes of one run: how they meet, hear of signals, and notice that one of them is gone."""

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
from commands.lifeline import GRACE, LOST, Lifeline, last_words
from commands.meeting import Facts, gather, open_store
from commands.open_files import too_few, too_few_for_torchrun
from commands.preflight import differences
from commands.signals import Signals

log = logging.getLogger(__name__)


class Company:
    """All processes of a run; alone, nothing but this one.

    Args:
        folder: The run's directory, for the last words; None for a command that leaves nothing
            behind, whose processes have one verdict together.
        limit: Seconds to wait for the others at a meeting.
        heartbeat: Seconds between two signs of life.
        lost_after: Seconds without a sign after which a process counts as lost.
    """

    def __init__(
        self, folder: Path | None, limit: float, heartbeat: float, lost_after: float
    ) -> None:
        self.folder, self.limit = folder, limit
        self.heartbeat, self.lost_after = heartbeat, lost_after
        self.signals = Signals()
        self.step = 0  # kept up to date by `Stops`
        self.rank, self.world = 0, 1
        self.met = False
        self._store: Store | None = None
        self._lifeline: Lifeline | None = None

    # ------------------------------------------------------------------------------------- meeting

    def may_meet(self, trainer: Trainer) -> bool:
        """Whether all processes run by now: those that Lightning starts itself come later."""
        environment = _environment(trainer)
        if trainer.world_size == 1 or environment is None:
            return False
        return dist.is_initialized() or not isinstance(environment, LightningEnvironment)

    def meet(self, trainer: Trainer, facts: Facts) -> list[Facts]:
        """Meet all processes, compare what must be the same, and watch each other from here on.

        Args:
            trainer: The trainer of this process.
            facts: What holds here; see `preflight.py`.

        Returns:
            The facts of all processes, by rank.

        Raises:
            ConfigurationError: They differ, one of them refuses to start, or this one may open too
                few files for its connections.
            TemporaryError: Some did not come in time.
        """
        environment = _environment(trainer)
        if environment is None:
            raise RuntimeError("there is nobody to meet; ask may_meet first")
        self.rank, self.world = trainer.global_rank, trainer.world_size
        if reason := too_few(self.world):  # or the connections that fail would blame the network
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
        self._store.set(f"config/{self.rank}", config)  # long, and needed only where they differ
        facts = {**facts, "config": hashlib.sha256(config.encode()).hexdigest()[:16]}
        everyone = self._gather("start", facts)
        self.met = True
        # Compared before the watch begins, so that all say the same and none ends another.
        self._refuse("start", everyone)
        hosts = [str(theirs["host"]) for theirs in everyone]
        self._lifeline = Lifeline(  # with a connection of its own
            *(self._store.clone(), self.rank, hosts),
            *(self.folder, self.heartbeat, self.lost_after),
            state=lambda: (self.step, self.signals.received),
        )
        self._lifeline.start()
        return everyone

    def compare(self, name: str, facts: Facts) -> list[Facts]:
        """Meet once more, later.

        Args:
            name: What about; each name once.
            facts: What holds here.

        Returns:
            The facts of all processes, by rank.

        Raises:
            ConfigurationError: They differ, or one of them refuses to go on.
            TemporaryError: Some did not come in time.
        """
        everyone = self._gather(name, facts)
        self._refuse(name, everyone)
        return everyone

    def show(self, facts: Facts) -> list[Facts]:
        """The facts of all processes, by rank, that may differ."""
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
        with contextlib.suppress(TemporaryError):  # the store may end with the first of us
            gather(self._store, f"{name}: told", self.rank, self.world, {}, GRACE)
        own = found if self.rank == 0 else [s for s in found if s.startswith(f"rank {self.rank} ")]
        told = ":\n  " + "\n  ".join(own) if own else "; rank 0 says why"
        raise ConfigurationError(f"the processes cannot run together{told}")

    # ------------------------------------------------------------------------------ under way, end

    def heard(self) -> int:
        """Number of a signal that this process, or as far as known another, received; or 0."""
        others = 0 if self._lifeline is None else self._lifeline.signal
        return self.signals.received or others

    def leave(self) -> None:
        """Take leave at the end of a command that went well, or was stopped by all together."""
        if self._lifeline is not None:
            self._lifeline.leave()

    def fail(self, error: BaseException, status: int) -> TemporaryError | None:
        """Say the last words of a process that ends by an exception, and tell the others.

        Args:
            error: What ends it.
            status: The status that it ends with.

        Returns:
            What to say instead, where the reason is another process.

        Raises:
            RepeatedError: The first process says the same, for all.
        """
        if self.world == 1:
            return None
        said = _plain(error)
        why, blamed = f"{type(error).__name__}: {said}", None
        if is_broken_link(error):
            found = None if self._lifeline is None else self._lifeline.explain()
            reason, status = found or ("all others still gave signs of life", LOST)
            why = f"{reason} (a connection broke: {said})"
            blamed = TemporaryError(why, status)
        if self.folder is not None:
            last_words(self.folder, self.rank, f"{why}, last at step {self.step}")
        if self._lifeline is not None:
            self._lifeline.leave(why, status)
            if self.folder is None and self.rank > 0 and self._lifeline.first_says(why):
                raise RepeatedError(status) from error
        return blamed


def is_broken_link(error: BaseException) -> bool:
    """Whether an exception says that another process, or the way to it, is gone."""
    if isinstance(error, dist.DistError):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and ("gloo/transport" in text or "NCCL" in text)


def _plain(error: BaseException) -> str:
    # In one line, and without where in gloo's sources it was noticed and what it advises.
    text = re.sub(r"\[/\S+:\d+\] ", "", " ".join(str(error).split()))
    return text.partition(" This is typically caused by")[0][:300]


def _environment(trainer: Trainer) -> Any:
    strategy = trainer.strategy
    return strategy.cluster_environment if isinstance(strategy, ParallelStrategy) else None
