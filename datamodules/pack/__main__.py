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
    if out.exists() and not out.is_dir():
        raise ValueError(f"OUT {str(out)!r} is a file; expected a folder")
    inputs = inputs_of(options)
    _check_apart(inputs.entries, out, options.name)
    job = job_of(options, inputs)
    blocks = Blocks(out, options.name, len(inputs.entries), options.samples_per_shard, job)
    part = options.part or (1, 1)
    blocks.begin(options.overwrite, None if options.finish else part[1])
    if not options.finish:
        refused = _pack(blocks, part, inputs, options)
        if options.part is not None:
            done = "was packed already" if refused is None else f"is packed, {refused} refused"
            log.info("part %d/%d %s; --finish instead joins all parts", *part, done)
            return 0
    report = blocks.join(partial(report_of, inputs))
    print_report(report, blocks.report)
    return _end(report, out, options.name)


def _pack(
    blocks: Blocks, part: tuple[int, int], inputs: Inputs, options: argparse.Namespace
) -> int | None:
    """Pack what is missing of a part; return the number of refused inputs, or None."""
    own = blocks.of_part(*part)
    todo = blocks.todo(own)
    if not todo:
        log.info("everything was packed already")
        return None
    if len(todo) < len(own):
        log.info("continuing with %d of %d blocks", len(todo), len(own))
    return pack(blocks, todo, inputs.entries, options)


def _end(report: Report, out: Path, name: str) -> int:
    if report["shards"]:
        shards = shlex.quote(str(out.resolve() / f"{name}-*.tar"))
        experiment = "--config configs/experiment/edsr_shards.yaml"
        log.info("to train on them: main.py fit %s --data.train.urls %s", experiment, shards)
    return 1 if report["refused"] else 0


def _check_apart(entries: Sequence[Entry], out: Path, name: str) -> None:
    """Raise if a tar to read would be overwritten."""
    ours = {path.resolve() for path in find_shards(out, name)}
    read = {p.path for entry in entries for p in entry.members.values() if isinstance(p, TarMember)}
    for path in sorted(read):
        if Path(path).resolve() in ours:
            raise ValueError(
                f"{path} is an input and would be replaced: give another OUT or --name"
            )


if __name__ == "__main__":
    sys.exit(main())
