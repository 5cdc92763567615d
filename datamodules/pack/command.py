"""Pack images into shards: ``python main.py pack``."""

from __future__ import annotations

import argparse
import logging
import shlex
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from torch.utils.data import Dataset

from datamodules.pack.images import Recipe, process
from datamodules.pack.inputs import Inputs
from datamodules.pack.options import (
    build_parser,
    check_options,
    inputs_of,
    recipe_of,
    settings_of_shards,
)
from datamodules.pack.places import Entry, TarMember
from datamodules.pack.shard_set import Outcome, Refused, ShardSet, parse_part
from datamodules.pack.workers import read_in_order
from datamodules.shards.writer import find_shards
from files.paths import expand_path

log = logging.getLogger(__name__)
SHOWN = 5  # refused inputs on the screen; all are in the files
WAIT_MINUTES = 10  # longest time without an input from the workers
CHUNK = 4  # inputs that a worker sends at once: a message costs as much as a tiny image


def main(arguments: Sequence[str] | None = None) -> int:
    """Pack images into shards, as the arguments say, and log what became of them.

    Args:
        arguments: Command-line arguments; by default those of this process.

    Returns:
        0 if all images were packed, 1 if some were refused.

    Raises:
        ValueError: If options or inputs cannot be used; ``main.py`` prints the message.
        OSError: If a file cannot be written.
    """
    options = build_parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    check_options(options)
    part, parts = parse_part(options.part)
    out = Path(expand_path(options.out, "OUT"))
    inputs = inputs_of(options)
    _refuse_own_outputs(inputs.entries, out, options.name)
    shards = ShardSet(out, options.name, len(inputs.entries), options.images_per_shard)
    shards.begin(settings_of_shards(options, inputs))
    missing_of_part = shards.missing(part, parts)
    shards_of_part = range(part, len(shards), parts)
    if len(missing_of_part) < len(shards_of_part):
        log.info("continuing with %d of %d shards", len(missing_of_part), len(shards_of_part))
    if missing_of_part:
        _write_shards(shards, missing_of_part, inputs.entries, options)
    refused = _log_summary(shards, shards_of_part, inputs)
    missing = shards.missing()
    if missing:
        log.info("%d of %d shards are missing: make the other parts", len(missing), len(shards))
    elif find_shards(out, options.name):
        urls = shlex.quote(str(out.resolve() / f"{options.name}-*.tar"))
        experiment = "--config configs/experiment/edsr_shards.yaml"
        log.info("to train on them: main.py fit %s --data.train.urls %s", experiment, urls)
    return 1 if refused else 0


class Outcomes(Dataset[Outcome]):
    """What becomes of each input, computed when it is asked for.

    Args:
        entries: The inputs.
        recipe: Settings of their processing.
    """

    def __init__(self, entries: Sequence[Entry], recipe: Recipe) -> None:
        self.entries, self.recipe = entries, recipe

    def __getitem__(self, number: int) -> Outcome:
        """Return the samples of an input, or why it is refused."""
        return process(self.recipe, self.entries[number])


def _refuse_own_outputs(entries: Sequence[Entry], out: Path, name: str) -> None:
    """Raise if a tar to read would be overwritten."""
    shards = {path.resolve() for path in find_shards(out, name)}
    places = [next(iter(entry.members.values())) for entry in entries]
    for tar in {place.path for place in places if isinstance(place, TarMember)}:
        if Path(tar).resolve() in shards:
            raise ValueError(f"{tar} is an input and would be replaced: give another OUT or --name")


def _write_shards(
    shards: ShardSet, numbers: Sequence[int], entries: Sequence[Entry], options: argparse.Namespace
) -> None:
    """Process the inputs of some shards in worker processes, and write these shards."""
    outcomes = read_in_order(
        Outcomes(entries, recipe_of(options)),
        [number for shard in numbers for number in shards.inputs_of(shard)],
        options.workers,
        WAIT_MINUTES,
        lambda number: entries[number].where,
        CHUNK,
    )
    shards.write(numbers, outcomes)


def _log_summary(shards: ShardSet, numbers: Iterable[int], inputs: Inputs) -> list[Refused]:
    """Log what became of the inputs of some shards, and return the refused inputs."""
    records = [record for record in map(shards.record, numbers) if record is not None]
    refused = list(inputs.refused)
    notes = Counter[str]()
    for record in records:
        refused += record.refused
        notes.update(record.notes)
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
        sum(record.inputs for record in records),
        sum(record.samples > 0 for record in records),
        sum(record.samples for record in records),
        sum(record.bytes for record in records) / 1e6,
        len(refused),
    )
    return refused
