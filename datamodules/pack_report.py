"""Report of a packing: a few lines on the screen, and everything in ``NAME.report.json``."""

from __future__ import annotations

import json
import logging
from collections import Counter
from pathlib import Path
from typing import Any

from datamodules.pack_inputs import Entry, Inputs, Refused
from datamodules.pack_journal import Journal
from files.owned import write_whole

log = logging.getLogger(__name__)

SHOWN = 5  # refused inputs on the screen; all are in the file


def make_report(journal: Journal, inputs: Inputs) -> dict[str, Any]:
    """Return the report of a finished packing.

    Args:
        journal: Its journal.
        inputs: Its inputs.
    """
    refused = list(inputs.refused)
    duplicates, notes = [], Counter[str]()
    for stage in journal.stages:
        for number, reason, message in stage.refused:
            entry = inputs.entries[number]
            refused.append(Refused(entry.key, _path(entry), reason, message))
        for number, other in stage.duplicates:
            entry, first = inputs.entries[number], inputs.entries[other]
            duplicates.append({"key": entry.key, "path": _path(entry), "same_as": first.key})
        notes.update(stage.notes)
    finished = journal.finished
    return {
        "options": journal.job["options"],
        "counts": {
            "inputs": len(inputs.entries) + len(inputs.refused),
            "packed": sum(len(stage.kept) for stage in finished),
            "samples": sum(stage.samples for stage in finished),
            "shards": len(finished),
            "bytes": sum(stage.size for stage in finished),
            "refused": len(refused),
            "duplicates": len(duplicates),
            "refused_by_reason": dict(Counter(r.reason for r in refused).most_common()),
            "notes": dict(sorted(notes.items())),
        },
        "refused": [one._asdict() for one in refused],
        "duplicates": duplicates,
        "shards": [stage.shard for stage in finished],
    }


def _path(entry: Entry) -> str:
    return next(iter(entry.members.values())).where


def save_report(report: dict[str, Any], path: Path) -> None:
    """Write the report atomically.

    Raises:
        OSError: If it cannot be written.
    """
    write_whole(path, json.dumps(report, indent=1, ensure_ascii=False) + "\n")


def print_report(report: dict[str, Any], path: Path) -> None:
    """Log a summary of the report.

    Args:
        report: The result of ``make_report``.
        path: File of the whole report.
    """
    counts, refused, duplicates = report["counts"], report["refused"], report["duplicates"]
    for one in refused[:SHOWN]:
        log.error("refused (%s): %s", one["reason"], one["message"])
    if refused:
        reasons = ", ".join(f"{n} {reason}" for reason, n in counts["refused_by_reason"].items())
        log.error("refused by reason: %s; all are listed in %s", reasons, path)
    if duplicates:
        one = duplicates[0]
        log.info(
            "%s: the same bytes as an earlier one, and %s, such as %s, which is %s",
            counted(len(duplicates), "image"),
            "kept" if report["options"]["--keep-duplicates"] else "left out",
            one["key"],
            one["same_as"],
        )
    for note, count in counts["notes"].items():
        log.info("%s: %d", note, count)
    samples = ""
    if counts["samples"] != counts["packed"]:
        samples = f" as {counted(counts['samples'], 'sample')}"
    log.info(
        "%s packed%s into %s (%.1f MB), %d refused",
        counted(counts["packed"], "image"),
        samples,
        counted(counts["shards"], "shard"),
        counts["bytes"] / 1e6,
        counts["refused"],
    )


def counted(number: int, what: str) -> str:
    """Return ``1 shard`` or ``2 shards``."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
