"""Ranks that watch each other, so that a lost one ends the run.

Each process repeatedly writes a number into the shared store and reads those of the others, in
threads beside the training. Else training would hang in a collective operation until the watchdog
of NCCL or gloo ends it, after ten or thirty minutes and without naming a process. So the process
ends itself, and its launcher can start it again.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch.distributed as dist
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import ParallelStrategy
from torch.distributed import Store  # type: ignore[attr-defined]

from callbacks.evaluation import FailedElsewhereError
from commands.distributed.preflight import SHOWN, Facts, differences, gather, open_store, taken_port
from commands.errors import ConfigurationError, RepeatedError, TemporaryError
from commands.signals import Signals
from datamodules.loading import end_workers
from files.waits import WAITS
from files.words import first_of

BEATS = 6  # heartbeats in the time without one after which a process is lost
LOST = 75  # exit status after another process was lost: EX_TEMPFAIL, start again
GRACE = 5.0  # seconds in which a process may still end by itself after another one failed
TOGETHER = 2.0  # seconds within which processes fail for the same reason
FAILED, SIGNAL = "failed", "signal"  # keys of the first failure and of a signal in the store
ASKED = "asked"  # and of a process that wants to know who is lost
FINISHED = "finished"  # number of processes that only wait for the end of the others


class Heartbeat:
    """Send heartbeats to the other processes, and notice when theirs stop.

    Args:
        store: A connection of its own to the shared store.
        rank: Rank of this process.
        hosts: Host names of all processes, by rank.
        interval: Seconds between two heartbeats.
        limit: Seconds without a heartbeat after which a process is lost.
        state: Returns of this process the ``step``, the number of a received ``signal`` or 0,
            whether it is ``idle`` since, and what it ``waits`` for.
        hear: Called with the number of a signal that any process has received.
        end: Ends this process, by reason and status.
    """

    def __init__(
        self,
        store: Store,
        rank: int,
        hosts: list[str],
        interval: float,
        limit: float,
        state: Callable[[], dict[str, Any]],
        hear: Callable[[int], Any],
        end: Callable[[str, int], Any],
    ) -> None:
        self.store, self.rank, self.hosts = store, rank, hosts
        self.interval, self.limit = interval, limit
        self._tick = min(1.0, interval / 2)
        self.state, self.hear, self.end = state, hear, end
        self._signal = 0  # received by any process
        self._last: dict[int, dict[str, Any]] = {r: {} for r in range(len(hosts)) if r != rank}
        self._answered = time.monotonic()  # by the store
        self._seen = dict.fromkeys(self._last, self._answered)
        self.first: tuple[int, str, int] | None = None  # failure: its rank, reason, status
        self._noticed = 0.0  # when
        self._asks = False  # who is lost
        self._done = False  # whether this process only waits for the end of the others
        self._over = threading.Event()

    # ------------------------------------------------------------------------------------- the ends

    def start(self) -> None:
        """Send the first heartbeat; all processes call this together, right after they met."""
        # The watch ends this process, not a time-out of the store with pages of C++ frames.
        self.store.set_timeout(timedelta(hours=1))
        self._send(self.store, "here")
        for work in (self._exchange, self._watch):  # the store may not answer
            threading.Thread(target=work, daemon=True).start()

    def fail(self, why: str, status: int) -> None:
        """Tell the others that this process fails, after which they stop, too.

        Args:
            why: The reason.
            status: Exit status of this process and of the others.
        """
        if self._over.is_set():
            return
        self._over.set()
        if self.first is not None and self.rank > 0:
            return  # all know, and the store may be lost
        thread = threading.Thread(target=self._send_failure, args=(why, status), daemon=True)
        thread.start()
        thread.join(GRACE)  # a lost store must not block this process

    def _send_failure(self, why: str, status: int) -> None:
        with contextlib.suppress(RuntimeError):  # the store is lost
            store = self.store.clone()
            failure = json.dumps([self.rank, why, status])
            self.first = json.loads(store.compare_set(FAILED, "", failure))
            self._send(store, why)
            if self.rank == 0:  # the store may end with this process
                deadline = time.monotonic() + TOGETHER
                keys = [_key(rank) for rank in self._last]
                while time.monotonic() < deadline and b'"here"' in b"".join(store.multi_get(keys)):
                    time.sleep(0.05)

    def finish(self) -> tuple[str, int] | None:
        """Wait until all other processes are done, too.

        Returns:
            Message and exit status, if one has failed instead.
        """
        self._done = True
        with contextlib.suppress(RuntimeError):  # the watch notices a lost store
            store = self.store.clone()
            self._send(store, "done")
            finished = store.add(FINISHED, 1)
            while finished < len(self.hosts):
                if store.check([FAILED]):
                    rank, why, status = json.loads(store.get(FAILED))
                    self.fail(why, status)
                    return f"{self._name(rank)} stopped ({why})", status
                time.sleep(0.05)
                finished = store.add(FINISHED, 0)
        self._over.set()  # nothing is left to send, and the store is gone once rank 0 exits
        return None

    # -------------------------------------------------------------------------------------- sending

    def _exchange(self) -> None:
        with contextlib.suppress(RuntimeError):  # the watch notices the silence
            store, due = self.store.clone(), 0.0
            while not self._over.wait(self._tick):
                now, signal = time.monotonic(), self.state()["signal"]
                if self._asks:
                    store.set(ASKED, "")
                # A signal is sent at once, and an answer to `explain`. After a signal all watch who
                # still works.
                if now >= due or signal or store.check([ASKED]):
                    due = now + self.interval
                    self._send(store, "done" if self._done else "here")
                    self._receive(store.multi_get([_key(rank) for rank in self._last]))
                # Not with the heartbeats: a process that leaves by a signal does not wait for them.
                if not self._signal and store.check([SIGNAL]):
                    self._signal = int(store.get(SIGNAL))
                    self.hear(self._signal)
                if store.check([FAILED]):
                    self._noticed, self.first = now, json.loads(store.get(FAILED))
                    return

    def _send(self, store: Store, word: str) -> None:
        sign = {**self.state(), "beat": time.monotonic_ns(), "word": word}
        store.set(_key(self.rank), json.dumps(sign))
        if sign["signal"]:
            store.set(SIGNAL, str(sign["signal"]))

    def _receive(self, values: list[bytes]) -> None:
        now = time.monotonic()
        self._answered = now
        for rank, value in zip(self._last, values, strict=True):
            sign = json.loads(value)
            if sign != self._last[rank]:
                self._last[rank], self._seen[rank] = sign, now

    # ------------------------------------------------------------------------------------- watching

    def _watch(self) -> None:
        while not self._over.wait(self._tick):
            grace = 0.0 if self._signal else GRACE
            verdict = self._judge(time.monotonic(), self.limit, grace)
            if verdict is not None:
                self.end(*verdict)
                return

    def explain(self) -> tuple[str, int] | None:
        """Find the process that is the reason for a broken connection.

        Returns:
            Message and exit status; None if all others still send heartbeats.
        """
        # Soon enough for torchrun, which kills 30 seconds after another process has ended.
        self._asks = True
        # A lost process's last heartbeat may be read after this; a busy machine may be late itself.
        deadline = time.monotonic() + 12 * self._tick
        while self.first is None and time.monotonic() < deadline:
            time.sleep(self._tick / 10)
        return self._judge(time.monotonic(), 8 * self._tick, grace=0.0)

    def all_idle(self) -> bool:
        """Return whether all other processes only wait, or are silent, after a signal."""
        early = time.monotonic() - 3 * self._tick
        return all(
            sign.get("idle") or sign.get("word") == "done" or self._seen[rank] < early
            for rank, sign in self._last.items()
        )

    def others(self) -> str:
        """Return where the other processes are, in words."""
        words = []
        for rank, sign in self._last.items():
            waits = f", waiting for {sign['waits']}" if sign.get("waits") else ""
            words.append(f"{self._name(rank)}, after step {sign.get('step', 0)}{waits}")
        return first_of(words, SHOWN)

    def _judge(self, now: float, limit: float, grace: float) -> tuple[str, int] | None:
        if self.first is not None:
            rank, why, status = self.first
            ended = now - self._noticed > grace
            return (f"{self._name(rank)} stopped ({why})", status) if ended else None
        silent = now - self._answered
        if silent > limit:
            return (
                f"no answer from the shared store (on {self.hosts[0]}) for {silent:.0f} s, so no "
                "heartbeat of any other process"
            ), LOST
        present = [rank for rank, sign in self._last.items() if sign.get("word") != "done"]
        gone = [rank for rank in present if now - self._seen[rank] > limit]
        if not gone:
            return None
        oldest = now - min(self._seen[rank] for rank in gone)
        step = max(self._last[rank].get("step", 0) for rank in gone)
        names = first_of(map(self._name, gone), SHOWN)
        return f"no heartbeat of {names} for {oldest:.0f} s, the last at its step {step}", LOST

    def _name(self, rank: int) -> str:
        return f"rank {rank} (on {self.hosts[rank]})"


def _key(rank: int) -> str:
    return f"alive/{rank}"


class Ranks:
    """All processes of a run; one process alone needs no connection.

    Args:
        limit: Seconds to wait for the others at a meeting.
        lost_after: Seconds without a heartbeat after which a process is lost.
    """

    def __init__(self, limit: float, lost_after: float) -> None:
        self.limit, self.lost_after = limit, lost_after
        self.signals = Signals(self._end_wait, self._others_idle)
        self.step = 0  # kept up to date by `Stops`
        self.rank, self.world = 0, 1
        self.met = False
        self._store: Store | None = None
        self._heartbeat: Heartbeat | None = None
        self._ends = False  # whether a thread ends this process

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
            trainer: The trainer of this process, for which ``may_meet`` is true.
            facts: Facts of this process; see ``preflight.py``.

        Returns:
            The facts of all processes, by rank.

        Raises:
            ConfigurationError: If facts differ, or a process refuses to start.
            TemporaryError: If processes are missing after the time limit.
        """
        environment = _environment(trainer)
        self.rank, self.world = trainer.global_rank, trainer.world_size
        self._store = open_store(
            environment.global_rank(),
            environment.world_size(),
            environment.main_address,
            environment.main_port,
            self.limit,
        )
        everyone = self.gather(facts, "start")
        self.met = True
        # Compared before the heartbeat starts, so that all report it and none ends another.
        self._refuse("start", everyone)
        hosts = [str(theirs["host"]) for theirs in everyone]
        self._heartbeat = Heartbeat(  # with a connection of its own
            self._store.clone(),
            self.rank,
            hosts,
            self.lost_after / BEATS,
            self.lost_after,
            self._state,
            self.signals.pass_on,
            self._end,
        )
        self._heartbeat.start()
        return everyone

    def compare(self, name: str, facts: Facts) -> None:
        """Meet again later, and compare facts.

        Args:
            name: Name of the meeting; each can be used once.
            facts: Facts of this process.

        Raises:
            ConfigurationError: If facts differ, or a process refuses to continue.
            TemporaryError: If processes are missing after the time limit.
        """
        self._refuse(name, self.gather(facts, name))

    def gather(self, facts: Facts, name: str = "show") -> list[Facts]:
        """Return facts of all processes, by rank, which may differ."""
        facts = {**facts, "host": socket.gethostname()}
        if self._store is None:
            return [facts]
        return gather(self._store, name, self.rank, self.world, facts, self.limit)

    def _refuse(self, name: str, everyone: list[Facts]) -> None:
        sentences = differences(everyone)
        if not sentences:
            return
        if self._store is None:
            raise ConfigurationError(str(everyone[0]["refusal"]))
        with contextlib.suppress(TemporaryError):  # the store may end with the first process
            gather(self._store, f"{name}: seen", self.rank, self.world, {}, GRACE)
        if self.rank > 0:
            sentences = [text for text in sentences if text.startswith(f"rank {self.rank} ")]
        reason = "".join(f"\n  {text}" for text in sentences) or " rank 0 reports the reason"
        raise ConfigurationError(f"the processes cannot run together:{reason}")

    # ------------------------------------------------------------------------------ under way, end

    def _state(self) -> dict[str, Any]:
        received, idle = self.signals.received, self.signals.idle
        return {"step": self.step, "signal": received, "idle": idle, "waits": WAITS.current}

    def _others_idle(self) -> bool:
        return self._heartbeat is None or self._heartbeat.all_idle()

    def _end_wait(self, name: str, status: int) -> None:
        self._end(f"{name} while it waited for {self._awaited()}", status)

    def _awaited(self) -> str:
        if WAITS.current:
            return WAITS.current
        heartbeat = self._heartbeat
        return "a disk or a server" if heartbeat is None else heartbeat.others()

    def _signed(self, why: str) -> str:
        return f"rank {self.rank} on {socket.gethostname()}: {why}, after step {self.step}"

    def _end(self, why: str, status: int) -> None:
        self._ends = True
        try:
            line = f"{self._signed(why)}: stopping\n"
            os.write(2, line.encode("utf-8", "backslashreplace"))  # it may name any file
            end_workers()
            if self._heartbeat is not None:
                self._heartbeat.fail(why, status)
        finally:  # else a closed stderr would leave the process waiting
            os._exit(status)

    def finish(self) -> tuple[str, int] | None:
        """Wait for the end of all others, after a command that succeeded or that all stopped.

        Returns:
            Message and exit status, if another one failed meanwhile: only together they succeed.
        """
        failure = None if self._heartbeat is None else self._heartbeat.finish()
        if failure is None:
            return None
        why, status = failure
        return self._signed(why), status

    def fail(self, error: BaseException, status: int) -> TemporaryError | None:
        """Tell the others that this process fails.

        Args:
            error: The exception that ends it.
            status: Its exit status.

        Returns:
            The error to raise instead, if another process is the reason.

        Raises:
            RepeatedError: If another process reports the same for all.
        """
        if self.world == 1:  # Lightning's own processes have not met yet
            return taken_port(error)
        while self._ends:  # with its own reason, of which this error is a consequence
            time.sleep(1.0)
        heartbeat = self._heartbeat
        text = _plain(error)
        why = f"{type(error).__name__}: {text}"
        blamed: TemporaryError | None = None
        is_elsewhere = isinstance(error, FailedElsewhereError)
        if is_elsewhere or is_broken_link(error):
            explanation = None if heartbeat is None else heartbeat.explain()
            reason, status = explanation or (f"it waited for {self._awaited()}", LOST)
            why = text if is_elsewhere else f"{reason} (a connection broke: {text})"
            blamed = TemporaryError(self._signed(why), status)
        if heartbeat is not None:
            heartbeat.fail(why, status)
            first, reason, _ = heartbeat.first or (self.rank, why, status)
            if first != self.rank and reason == why:
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
