"""Report and index of a packing, written from its journal stage by stage."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from datamodules.pack.inputs import Inputs
from datamodules.pack.journal import Journal, Stage, counted
from datamodules.pack.places import Entry, Refused
from files.owned import whole_file

log = logging.getLogger(__name__)
SHOWN = 5  # refused inputs on the screen; all are in the file


@dataclass(frozen=True)
class Files:
    """The files beside the shards.

    Attributes:
        report: Options, counts, refused inputs and duplicates, as JSON.
        index: A line of JSON for each shard: its name, bytes, samples and checksum (xxh3_128).
    """

    report: Path
    index: Path

    @classmethod
    def of(cls, out: Path, name: str) -> Files:
        """Return the files of shards with a name."""
        return cls(out / f"{name}.report.json", out / f"{name}.index.jsonl")


class Summary(NamedTuple):
    """The start of a report.

    Attributes:
        options: Options of the command.
        counts: Numbers of inputs, samples, shards and so on.
        refused: The first refused inputs.
        duplicate: The first duplicate, if any.
    """

    options: dict[str, Any]
    counts: dict[str, Any]
    refused: list[Refused]
    duplicate: dict[str, str] | None


def write_report(journal: Journal, inputs: Inputs, out: Path, name: str) -> Summary:
    """Write report and index of a finished packing, and print a summary.

    Args:
        journal: Its journal.
        inputs: Its inputs.
        out: Folder of the shards.
        name: Prefix of their names.

    Raises:
        OSError: If they cannot be written.
    """
    summary, files = _summary(journal, inputs), Files.of(out, name)
    for path, pieces in (
        (files.index, _index(journal)),
        (files.report, _report(journal, inputs, summary)),
    ):
        with whole_file(path) as file:
            file.writelines(piece.encode() for piece in pieces)
    _print(summary, files.report)
    return summary


def _refused(journal: Journal, inputs: Inputs) -> Iterator[Refused]:
    yield from inputs.refused
    for stage in journal.stages:
        for number, reason, message in stage.refused:
            entry = inputs.entries[number]
            yield Refused(entry.key, _path(entry), reason, message)


def _duplicates(journal: Journal, inputs: Inputs) -> Iterator[dict[str, str]]:
    for stage in journal.stages:
        for number, other, _ in stage.duplicates:
            entry, first = inputs.entries[number], inputs.entries[other]
            yield {"key": entry.key, "path": _path(entry), "same_as": first.key}


def _path(entry: Entry) -> str:
    return next(iter(entry.members.values())).where


def _summary(journal: Journal, inputs: Inputs) -> Summary:
    packed = captioned = refused = duplicates = 0
    reasons, notes = Counter(one.reason for one in inputs.refused), Counter[str]()
    for stage in journal.stages:
        packed += len(stage.kept)
        captioned += sum(":" in digest for _, digest in stage.kept)
        refused += len(stage.refused)
        duplicates += len(stage.duplicates)
        reasons.update(reason for _, reason, _ in stage.refused)
        notes.update({what: len(numbers) for what, numbers in stage.notes.items()})
    if captioned < packed and (captioned or journal.job["options"].get("--captions")):
        notes["images without a caption"] = packed - captioned
    finished = journal.finished
    counts = {
        "inputs": len(inputs.entries) + len(inputs.refused),
        "packed": packed,
        "samples": sum(stage.samples for stage in finished),
        "shards": len(finished),
        "bytes": sum(stage.size for stage in finished),
        "refused": refused + len(inputs.refused),
        "duplicates": duplicates,
        "refused_by_reason": dict(reasons.most_common()),
        "notes": dict(sorted(notes.items())),
    }
    first = [one for one, _ in zip(_refused(journal, inputs), range(SHOWN), strict=False)]
    duplicate = next(_duplicates(journal, inputs), None)
    return Summary(journal.job["options"], counts, first, duplicate)


def _index(journal: Journal) -> Iterator[str]:
    for stage in journal.finished:
        yield json.dumps(_facts(stage)) + "\n"


def _facts(stage: Stage) -> dict[str, Any]:
    return {
        **{"shard": stage.shard, "bytes": stage.size, "samples": stage.samples},
        "checksum": stage.checksum or None,
    }


def _report(journal: Journal, inputs: Inputs, summary: Summary) -> Iterator[str]:
    """Yield ``json.dumps(report, indent=1)`` in pieces, as millions of inputs may be refused."""
    yield "{\n"
    for name in ("options", "counts"):
        yield f' "{name}": {_json(getattr(summary, name), 1)},\n'
    lists: dict[str, Iterator[Any]] = {
        "refused": (one._asdict() for one in _refused(journal, inputs)),
        "duplicates": _duplicates(journal, inputs),
        "shards": (stage.shard for stage in journal.finished),
    }
    for name, items in lists.items():
        yield f' "{name}": ['
        empty, comma = True, ""
        for item in items:
            yield f"{comma}\n  {_json(item, 2)}"
            empty, comma = False, ","
        yield ("]" if empty else "\n ]") + ("\n}\n" if name == "shards" else ",\n")


def _json(content: Any, depth: int) -> str:
    return json.dumps(content, indent=1, ensure_ascii=False).replace("\n", "\n" + " " * depth)


def _print(summary: Summary, path: Path) -> None:
    counts = summary.counts
    for one in summary.refused:
        log.error("refused (%s): %s", one.reason, one.message)
    if summary.refused:
        reasons = ", ".join(f"{n} {reason}" for reason, n in counts["refused_by_reason"].items())
        log.error("refused by reason: %s; all are listed in %s", reasons, path)
    if summary.duplicate is not None:
        log.info(
            "%s: the same bytes as an earlier one, and %s, such as %s, which is %s",
            counted(counts["duplicates"], "image"),
            "kept" if summary.options["--keep-duplicates"] else "left out",
            summary.duplicate["key"],
            summary.duplicate["same_as"],
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
