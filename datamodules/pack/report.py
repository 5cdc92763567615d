"""Report and index of a packing, written from its journal."""

from __future__ import annotations

import json
import logging
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

from datamodules.pack.inputs import Inputs
from datamodules.pack.journal import Journal
from datamodules.pack.packing import NO_CAPTION
from datamodules.pack.places import Refused
from files.owned import write_whole

Report = dict[str, Any]
log = logging.getLogger(__name__)
SHOWN = 5  # refused inputs on the screen; all are in the file


class Files(NamedTuple):
    """The files beside the shards.

    Attributes:
        report: Options, counts and refused inputs, as JSON.
        lines: A line of JSON for each shard: its name, bytes, samples and checksum (xxh3_128).
    """

    report: Path
    lines: Path

    @classmethod
    def of(cls, out: Path, name: str) -> Files:
        """Return the files of shards with a name."""
        return cls(out / f"{name}.report.json", out / f"{name}.index.jsonl")


def write_report(journal: Journal, inputs: Inputs, out: Path, name: str) -> Report:
    """Write report and index of a finished packing, and print a summary.

    Args:
        journal: Its journal.
        inputs: Its inputs.
        out: Folder of the shards.
        name: Prefix of their names.

    Returns:
        The report.

    Raises:
        OSError: If they cannot be written.
    """
    report, files = _report(journal, inputs), Files.of(out, name)
    facts = [
        {"shard": one.shard, "bytes": one.size, "samples": one.samples, "checksum": one.checksum}
        for one in journal.finished
    ]
    write_whole(files.lines, "".join(json.dumps(one) + "\n" for one in facts))
    write_whole(files.report, json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    _print(report, files.report)
    return report


def _report(journal: Journal, inputs: Inputs) -> Report:
    entries, stages, finished = inputs.entries, journal.stages, journal.finished
    refused = list(inputs.refused)
    notes = Counter[str]()
    for stage in stages:
        for number, reason, message in stage.refused:
            entry = entries[number]
            refused.append(Refused(entry.key, entry.where, reason, message))
        notes.update(stage.notes)
    packed = sum(stage.inputs for stage in stages)
    if notes[NO_CAPTION] == packed and not journal.job["options"].get("--captions"):
        del notes[NO_CAPTION]
    counts = {
        "inputs": len(entries) + len(inputs.refused),
        "packed": packed,
        "samples": sum(stage.samples for stage in finished),
        "shards": len(finished),
        "bytes": sum(stage.size for stage in finished),
        "refused": len(refused),
        "refused_by_reason": dict(Counter(one.reason for one in refused).most_common()),
        "notes": dict(sorted(notes.items())),
    }
    return {
        "options": journal.job["options"],
        "counts": counts,
        "refused": [one._asdict() for one in refused],
        "shards": [stage.shard for stage in finished],
    }


def _print(report: Report, path: Path) -> None:
    counts = report["counts"]
    for one in report["refused"][:SHOWN]:
        log.error("refused (%s): %s", one["reason"], one["message"])
    if report["refused"]:
        reasons = ", ".join(f"{n} {reason}" for reason, n in counts["refused_by_reason"].items())
        log.error("refused by reason: %s; all are listed in %s", reasons, path)
    for note, count in counts["notes"].items():
        log.info("%s: %d", note, count)
    samples = ""
    if counts["samples"] != counts["packed"]:
        samples = f" as {_counted(counts['samples'], 'sample')}"
    log.info(
        "%s packed%s into %s (%.1f MB), %d refused",
        _counted(counts["packed"], "image"),
        samples,
        _counted(counts["shards"], "shard"),
        counts["bytes"] / 1e6,
        counts["refused"],
    )


def _counted(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
