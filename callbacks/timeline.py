"""Shares of a run's time, from marks on a timeline."""

from __future__ import annotations

import itertools
import time
from collections import defaultdict
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from datamodules.clock import Seconds

OF_TRAINING = ("waiting", "degrading", "stepping", "validating", "saving")  # beside "other"
OF_WORKERS = ("reading", "decoding", "cropping")


class Timeline:
    """Seconds between marks, by the clock of the training device.

    On a GPU marks are events in its queue: the host, which runs ahead, does not wait for them until
    they are read.

    Args:
        device: The training device.
    """

    def __init__(self, device: torch.device) -> None:
        self._stream: Any = torch.cuda.current_stream(device) if device.type == "cuda" else None
        self._marks: list[tuple[str, Any]] = [("", self._now())]

    def mark(self, part: str) -> None:
        """Assign the time since the last mark to ``part``."""
        self._marks.append((part, self._now()))

    def read(self) -> dict[str, float]:
        """Return seconds by part since the last reading; waits for the marks."""
        if self._stream is not None:
            self._marks[-1][1].synchronize()
        spent: defaultdict[str, float] = defaultdict(float)
        for (_, begun), (part, ended) in itertools.pairwise(self._marks):
            spent[part] += self._between(begun, ended)
        self._marks = self._marks[-1:]
        return spent

    def _now(self) -> Any:
        if self._stream is None:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        return self._stream.record_event(event)

    def _between(self, begun: Any, ended: Any) -> float:
        return float(ended - begun if self._stream is None else begun.elapsed_time(ended) / 1000)


class Budget:
    """Seconds of a run so far, by part.

    Args:
        workers: Processes that prepare batches; 0 if this one does.
    """

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._spent: defaultdict[str, float] = defaultdict(float)  # by this process, in sequence
        self._prepared: defaultdict[str, float] = defaultdict(float)  # by workers, concurrently
        self._steps = self._saves = 0  # batches

    def add(self, spent: dict[str, float]) -> None:
        """Add the seconds of a timeline."""
        for part, seconds in spent.items():
            self._spent[part] += seconds

    def count(self, saved: bool) -> None:
        """Count a batch: ``stepping``, or ``saving`` and then stepping."""
        self._saves += saved
        self._steps += not saved

    def add_prepared(self, batch: Iterable[Seconds]) -> None:
        """Add the seconds that workers spent on a batch."""
        for piece in batch:
            for part, seconds in piece._asdict().items():
                self._prepared[part] += seconds

    def shares(self) -> dict[str, float]:
        """Return shares of all the time by part; those of workers are shares of their time."""
        whole = sum(self._spent.values())
        if not whole:
            return {}
        spent = {"waiting": 0.0, "stepping": 0.0, "validating": 0.0, "saving": 0.0, **self._spent}
        # A batch with a checkpoint steps as long as the others; the rest of its time is saving.
        each = spent["stepping"] / max(self._steps, 1)
        stepped = min(self._saves * each, spent["saving"])
        spent["stepping"] += stepped
        spent["saving"] -= stepped
        if not self.workers:
            spent["waiting"] = max(spent["waiting"] - sum(self._prepared.values()), 0.0)
        prepared = {p: s / max(self.workers, 1) for p, s in self._prepared.items()}
        return {part: seconds / whole for part, seconds in {**spent, **prepared}.items()}

    def sentence(self) -> str:
        """Return the shares in one line; empty if nothing was timed, as in a run of one step."""
        shares = self.shares()
        if not shares:
            return ""
        training, workers = (
            ", ".join(f"{part} {shares[part]:.1%}" for part in parts if shares.get(part))
            for parts in (OF_TRAINING, OF_WORKERS)
        )
        count = f"{self.workers} workers" if self.workers > 1 else "the worker"
        beside = f"; {count}, beside it: {workers}" if self.workers else f", {workers}"
        return f"time of training: {training}{beside if workers else ''}"
