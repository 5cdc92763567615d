"""``best.json``: which checkpoints a run has written, and how good they are."""

from __future__ import annotations

import json
import logging
from collections.abc import Collection
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal, TypedDict

from commands.run.files import is_whole, newest_whole, read_json, write_atomically

log = logging.getLogger(__name__)
FILE = "best.json"  # in the folder of the checkpoints


class Score(TypedDict):
    """The number of one checkpoint.

    monitor: The name of the logged value.
    value: The value.
    measured: Digest of what it was measured on, of ``measured_on``.
    """

    monitor: str
    value: float
    measured: str


@dataclass
class Ranking:
    """The content of the file.

    Args:
        monitor: The logged value that ranks checkpoints.
        mode: Whether the largest or the smallest value is best.
        best: Names of the best checkpoints, best first. After them follow the best ones of earlier
            measurements, which are kept.
        scores: Of the checkpoints that were validated, by name.
        written: Names of the checkpoints that this run wrote: only these may be deleted.
    """

    monitor: str = ""
    mode: Literal["min", "max"] = "max"
    best: list[str] = field(default_factory=list)
    scores: dict[str, Score] = field(default_factory=dict)
    written: list[str] = field(default_factory=list)

    def newest(self, count: int) -> list[str]:
        """Return the names of the newest checkpoints."""
        return sorted(self.written)[-count:]

    def best_of(self, measured: str, count: int) -> list[str]:
        """Return the names of the best checkpoints of one measurement, best first.

        Args:
            measured: As in ``Score``: other scores cannot be compared with these.
            count: How many; of equal ones the newer one is better.
        """
        sign = 1 if self.mode == "max" else -1
        names = [name for name in self.scores if self.scores[name]["measured"] == measured]
        names.sort(key=lambda name: (sign * self.scores[name]["value"], name), reverse=True)
        return names[:count]

    def without(self, names: Collection[str]) -> Ranking:
        """Return a copy that does not mention some checkpoints, by their names."""
        best = [name for name in self.best if name not in names]
        scores = {name: score for name, score in self.scores.items() if name not in names}
        written = [name for name in self.written if name not in names]
        return Ranking(self.monitor, self.mode, best, scores, written)

    def write(self, folder: Path) -> None:
        """Write the file.

        Raises:
            OSError: If it could not be written; an earlier one is kept.
        """
        write_atomically(folder / FILE, json.dumps(asdict(self), indent=2).encode())


def read_ranking(folder: Path) -> Ranking:
    """Return the content of ``best.json``; empty if nothing was ranked or it is damaged."""
    content = read_json(folder / FILE)
    if not content.keys() >= {"monitor", "best", "scores"}:
        return Ranking()
    scores = content["scores"]
    # Earlier versions have numbers alone.
    for name, score in scores.items():
        if not isinstance(score, dict):
            scores[name] = {"monitor": content["monitor"], "value": score, "measured": ""}
    best = [name for name in content["best"] if name in scores]
    mode, written = content.get("mode", "max"), content.get("written", [])
    return Ranking(content["monitor"], mode, best, scores, written)


def best_or_newest(folder: Path) -> tuple[Path, str] | None:
    """Return the best intact checkpoint, else the newest one.

    Args:
        folder: The folder of the checkpoints.

    Returns:
        The checkpoint, and why it was chosen, such as ``best val/psnr 30.1234`` or ``the newest``;
        None if there is no intact one.
    """
    ranking = read_ranking(folder)
    for name in ranking.best:
        path = folder / name
        if is_whole(path):
            score = ranking.scores[name]
            return path, f"best {score['monitor']} {score['value']:.4f}"
        state = "does not match its checksum" if path.is_file() else "is missing"
        log.error("DAMAGED CHECKPOINT: the best one, %s, %s", path, state)
    newest = newest_whole(folder)
    return None if newest is None else (newest, "the newest")
