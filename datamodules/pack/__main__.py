"""Pack images into shards: ``python main.py pack``."""

from __future__ import annotations

import argparse
import logging
import shlex
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from torch.utils.data import Dataset

from datamodules.pack.images import NO_CAPTION, Recipe, process
from datamodules.pack.inputs import Inputs
from datamodules.pack.options import check, inputs_of, job_of, parser, recipe_of
from datamodules.pack.places import Entry, TarMember
from datamodules.pack.shard_set import Outcome, Refused, ShardSet, parse_part
from datamodules.pack.workers import read_in_order
from datamodules.shards.writer import find_shards
from files.paths import expand_path

log = logging.getLogger(__name__)
SHOWN = 5  # refused inputs on the screen; all are in the files
CHUNK = 4  # inputs that a worker sends at once: a message costs as much as a tiny image


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: Command-line arguments; by default those of this process.

    Returns:
        0 if all images were packed, 1 if some were refused, 2 after an error, 130 after Ctrl-C.
    """
    options = parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        return _run(options)
    except (ValueError, OSError) as error:
        log.error("error: %s", error)
        return 2
    except KeyboardInterrupt:
        log.error("stopped: the same command continues")
        return 130


class Processed(Dataset[Outcome]):
    """The results of some inputs.

    Args:
        entries: The inputs.
        recipe: Settings of their processing.
    """

    def __init__(self, entries: Sequence[Entry], recipe: Recipe) -> None:
        self.entries, self.recipe = entries, recipe

    def __getitem__(self, number: int) -> Outcome:
        """Return the result of an input."""
        return process(self.recipe, self.entries[number])


def _run(options: argparse.Namespace) -> int:
    check(options)
    part, parts = parse_part(options.part)
    out = Path(expand_path(options.out, "OUT"))
    inputs = inputs_of(options)
    _check_apart(inputs.entries, out, options.name)
    shards = ShardSet(out, options.name, len(inputs.entries), options.images_per_shard)
    shards.begin(job_of(options, inputs))
    todo = shards.missing(part, parts)
    of_part = range(part, len(shards), parts)
    if len(todo) < len(of_part):
        log.info("continuing with %d of %d shards", len(todo), len(of_part))
    if todo:
        _pack(shards, todo, inputs.entries, options)
    refused = _report(shards, of_part, inputs)
    missing = shards.missing()
    if missing:
        log.info("%d of %d shards are missing: make the other parts", len(missing), len(shards))
    elif find_shards(out, options.name):
        urls = shlex.quote(str(out.resolve() / f"{options.name}-*.tar"))
        experiment = "--config configs/experiment/edsr_shards.yaml"
        log.info("to train on them: main.py fit %s --data.train.urls %s", experiment, urls)
    return 1 if refused else 0


def _check_apart(entries: Sequence[Entry], out: Path, name: str) -> None:
    """Raise if a tar to read would be overwritten."""
    shards = {path.resolve() for path in find_shards(out, name)}
    places = [next(iter(entry.members.values())) for entry in entries]
    for tar in {place.path for place in places if isinstance(place, TarMember)}:
        if Path(tar).resolve() in shards:
            raise ValueError(f"{tar} is an input and would be replaced: give another OUT or --name")


def _pack(
    shards: ShardSet, todo: Sequence[int], entries: Sequence[Entry], options: argparse.Namespace
) -> None:
    """Pack some shards."""
    outcomes = read_in_order(
        Processed(entries, recipe_of(options)),
        [number for shard in todo for number in shards.inputs_of(shard)],
        options.workers,
        options.wait_minutes,
        lambda number: entries[number].where,
        CHUNK,
    )
    shards.write(todo, outcomes)


def _report(shards: ShardSet, numbers: Iterable[int], inputs: Inputs) -> list[Refused]:
    """Log a summary of some shards, and return the refused inputs."""
    records = [record for record in map(shards.record, numbers) if record is not None]
    refused = list(inputs.refused)
    notes = Counter[str]()
    for record in records:
        refused += record.refused
        notes.update(record.notes)
    packed = sum(record.inputs for record in records)
    if notes[NO_CAPTION] == packed:
        del notes[NO_CAPTION]
    for one in refused[:SHOWN]:
        log.error("refused (%s): %s", one.reason, one.message)
    if refused:
        reasons = Counter(one.reason for one in refused).most_common()
        log.error(
            "refused by reason: %s; %s-*.json list them",
            ", ".join(f"{count} {reason}" for reason, count in reasons),
            shards.out / shards.name,
        )
    for note, count in sorted(notes.items()):
        log.info("%s: %d", note, count)
    log.info(
        "%d images packed into %d shards (%d samples, %.1f MB), %d refused",
        packed,
        sum(record.samples > 0 for record in records),
        sum(record.samples for record in records),
        sum(record.bytes for record in records) / 1e6,
        len(refused),
    )
    return refused


if __name__ == "__main__":
    sys.exit(main())
