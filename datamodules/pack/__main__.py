"""Pack images into shards: ``python main.py pack``."""

from __future__ import annotations

import argparse
import logging
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from datamodules.pack import cluster, joining, parts
from datamodules.pack.options import check, inputs_of, job_of, parse, parse_size, settings_of
from datamodules.pack.packing import LOST
from datamodules.pack.places import Entry, TarMember
from datamodules.pack.report import Report
from datamodules.shards.writer import find_shards
from files.paths import expand_path

__all__ = ["LOST", "main", "parse_size"]
log = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: Command-line arguments; by default those of this process.

    Returns:
        0 if all images were packed, or a part was made; 1 if some were refused, 2 after an error,
        130 after Ctrl-C.
    """
    options = parse(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        if options.finish is not None:
            out = Path(expand_path(options.finish, "--finish"))
            return _end(joining.finish(out, options.name), out, options.name)
        return _run(options)
    except (ValueError, OSError) as error:
        log.error("error: %s", error)
        return 2
    except KeyboardInterrupt:
        log.error("stopped: the same command continues")
        return 130


def _run(options: argparse.Namespace) -> int:
    check(options)
    out, settings = Path(expand_path(options.out, "OUT")), settings_of(options)
    if out.exists() and not out.is_dir():
        raise ValueError(f"OUT {str(out)!r} is a file; expected a folder")
    inputs = inputs_of(options)
    _check_apart(inputs.entries, out, options.name)
    job = job_of(options, inputs)
    part = parts.part_of_task(os.environ) if options.engine == "slurm" else options.part
    if part is not None:
        refused = parts.pack_part(part, job, inputs, out, settings)
        done = "was packed already" if refused is None else f"is packed, {refused} refused"
        log.info("part %d/%d %s; main.py pack --finish joins all parts", *part, done)
        return 0
    blocks = parts.Blocks.of(job, out, options.name, options.samples_per_shard)
    parts.begin(blocks, job, options.overwrite)
    if parts.is_finished(blocks, job):
        log.info("everything was packed already")
    elif options.engine == "ray":
        cluster.pack_parts(job, inputs, Path(os.path.abspath(out)), settings)
    else:
        parts.pack_part((1, 1), job, inputs, out, settings)
    return _end(joining.join(job, inputs, out, settings), out, options.name)


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
