"""What a packing reports: counts, and the refused inputs."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from datamodules.pack.blocks import Record, Report
from datamodules.pack.inputs import Inputs
from datamodules.pack.places import Refused

log = logging.getLogger(__name__)
SHOWN = 5  # refused inputs on the screen; all are in the file
NO_CAPTION = "images without a caption"


def report_of(inputs: Inputs, records: Sequence[Record]) -> Report:
    """Return counts and refused inputs.

    Args:
        inputs: All inputs.
        records: Those of all blocks.
    """
    refused, notes = list(inputs.refused), Counter[str]()
    for record in records:
        for number, reason, message in record.refused:
            entry = inputs.entries[number]
            refused.append(Refused(entry.key, entry.where, reason, message))
        notes.update(record.notes)
    shards = [shard for record in records for shard in record.shards]
    packed = sum(record.packed for record in records)
    if notes[NO_CAPTION] == packed:
        del notes[NO_CAPTION]
    counts = {
        "inputs": len(inputs.entries) + len(inputs.refused),
        "packed": packed,
        "samples": sum(shard.samples for shard in shards),
        "shards": len(shards),
        "bytes": sum(shard.bytes for shard in shards),
        "refused": len(refused),
        "refused_by_reason": dict(Counter(one.reason for one in refused).most_common()),
        "notes": dict(sorted(notes.items())),
    }
    return {"counts": counts, "refused": [one._asdict() for one in refused]}


def print_report(report: Report, path: Path) -> None:
    """Log a summary of a report, which is at ``path``."""
    counts = report["counts"]
    for one in report["refused"][:SHOWN]:
        log.error("refused (%s): %s", one["reason"], one["message"])
    if report["refused"]:
        reasons = ", ".join(f"{n} {reason}" for reason, n in counts["refused_by_reason"].items())
        log.error("refused by reason: %s; all are listed in %s", reasons, path)
    for note, count in counts["notes"].items():
        log.info("%s: %d", note, count)
    log.info(
        "%d images packed into %d shards (%d samples, %.1f MB), %d refused",
        counts["packed"],
        counts["shards"],
        counts["samples"],
        counts["bytes"] / 1e6,
        counts["refused"],
    )
