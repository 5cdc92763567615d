"""Pack images into shards: ``python main.py pack``."""

from __future__ import annotations

import argparse
import logging
import shlex
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from datamodules.pack.blocks import Blocks, Report
from datamodules.pack.inputs import Inputs
from datamodules.pack.options import check, inputs_of, job_of, parser
from datamodules.pack.packing import pack, print_report, report_of
from datamodules.pack.places import Entry, TarMember
from datamodules.shards.writer import find_shards
from files.paths import expand_path

log = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: Command-line arguments; by default those of this process.

    Returns:
        0 if all images were packed, or a part was made; 1 if some were refused, 2 after an error,
        130 after Ctrl-C.
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


def _run(options: argparse.Namespace) -> int:
    check(options)
    out = Path(expand_path(options.out, "OUT"))
    inputs = inputs_of(options)
    _check_apart(inputs.entries, out, options.name)
    job = job_of(options, inputs)
    blocks = Blocks(out, options.name, len(inputs.entries), options.samples_per_shard, job)
    part, parts = options.part or (1, 1)
    blocks.begin(options.overwrite, None if options.finish else parts)
    if not options.finish:
        _pack(blocks, blocks.of_part(part, parts), inputs, options)
        if options.part is not None:
            log.info("part %d/%d is packed; --finish instead joins all parts", part, parts)
            return 0
    report = blocks.join(partial(report_of, inputs))
    print_report(report, blocks.report)
    return _end(report, out, options.name)


def _pack(blocks: Blocks, part: range, inputs: Inputs, options: argparse.Namespace) -> None:
    """Pack what is missing of a part."""
    todo = blocks.todo(part)
    if len(todo) < len(part):
        log.info("continuing with %d of %d blocks", len(todo), len(part))
    if todo:
        pack(blocks, todo, inputs.entries, options)


def _end(report: Report, out: Path, name: str) -> int:
    if report["shards"]:
        shards = shlex.quote(str(out.resolve() / f"{name}-*.tar"))
        experiment = "--config configs/experiment/edsr_shards.yaml"
        log.info("to train on them: main.py fit %s --data.train.urls %s", experiment, shards)
    return 1 if report["refused"] else 0


def _check_apart(entries: Sequence[Entry], out: Path, name: str) -> None:
    """Raise if a tar to read would be overwritten."""
    shards = {path.resolve() for path in find_shards(out, name)}
    places = [next(iter(entry.members.values())) for entry in entries]
    for tar in {place.path for place in places if isinstance(place, TarMember)}:
        if Path(tar).resolve() in shards:
            raise ValueError(f"{tar} is an input and would be replaced: give another OUT or --name")


if __name__ == "__main__":
    sys.exit(main())
