"""Options of ``main.py pack``: their parser, their checks, and what shards depend on."""

from __future__ import annotations

import argparse
import os
import re
from pathlib import Path
from typing import Any

from datamodules.files.pairs import fill_scale
from datamodules.pack.images import KEEP, Recipe, parse_encoding
from datamodules.pack.inputs import Inputs, find_inputs
from files.numbers import positive
from files.paths import expand_path

DESCRIPTION = """\
Pack images into WebDataset shards (tars), each with its index. Every image is decoded once, and
broken ones are refused and listed. By default the files are kept unchanged, in the order of their
paths."""
EXAMPLES = """\
examples:
  a folder with its files unchanged, 500 in each shard:
    python main.py pack my/photos my/shards --images-per-shard 500
  sub-images of pairs, as BasicSR cuts them:
    python main.py pack DIV2K_train_HR shards --lr DIV2K_train_LR_bicubic/X2 \\
      --lr-suffix x2 --scale 2 --crop 480 --step 240 --encode webp --images-per-shard 50

A command that was killed, or stopped at a full disk, continues when it is run again. The same input
and options give the same bytes, for any number of workers, parts and interruptions.

exit status: 0 all packed, 1 some inputs were refused, 2 an error stopped it, 130 Ctrl-C
"""

# On these the shards do not depend, or `settings_of_shards` names them otherwise.
INDEPENDENT = ("part", "workers", "out", "source", "lr")


def usable_cores() -> int:
    """Return the number of cores that this process may use."""
    known = hasattr(os, "sched_getaffinity")  # on Linux
    return len(os.sched_getaffinity(0)) if known else os.cpu_count() or 1


def _zero_or_positive(text: str) -> int:
    """Return a whole number that is not negative, for argparse."""
    return 0 if text == "0" else positive(text)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command."""
    command = argparse.ArgumentParser(
        prog="main.py pack",
        usage="%(prog)s SOURCE OUT [options]",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    command.add_argument(
        "source",
        metavar="SOURCE",
        help="a folder (with its subfolders), a pattern of images, a text file with a path on "
        "each line (also BasicSR's meta_info, with sizes), or tars: 'old/train-{000..099}.tar'",
    )
    command.add_argument("out", metavar="OUT", help="folder to write the shards to")
    _add_inputs(command.add_argument_group("inputs"))
    _add_images(command.add_argument_group("processing of an image, in this order"))
    _add_shards(command.add_argument_group("shards"))
    return command


def _add_inputs(group: Any) -> None:
    """Add the options of the inputs to a group of the parser."""
    group.add_argument(
        "--lr", metavar="SOURCE", help="the LR images, with the same names; needs --scale"
    )
    group.add_argument(
        "--scale",
        type=float,
        metavar="N",
        help="how many times larger than their LR images are; pairs of other sizes are refused",
    )
    group.add_argument(
        "--lr-suffix",
        default="",
        metavar="TEXT",
        help="what an LR name has after the HR's, such as x2 or x{scale}",
    )


def _add_images(group: Any) -> None:
    """Add the options of an image's processing to a group of the parser."""
    group.add_argument(
        "--crop",
        type=positive,
        metavar="N",
        help="cut images into squares of this side, as BasicSR's extract_subimages: a_s001, ...",
    )
    group.add_argument(
        "--step",
        type=positive,
        metavar="N",
        help="distance between squares (default: --crop)",
    )
    group.add_argument(
        "--encode",
        type=parse_encoding,
        default=KEEP,
        metavar="HOW",
        help="keep: unchanged files, and PNG for cut images (default); webp: lossless; png; "
        "jpeg:QUALITY, for HR only: LR is always lossless",
    )


def _add_shards(group: Any) -> None:
    """Add the options of the shards, and of their making, to a group of the parser."""
    group.add_argument(
        "--images-per-shard",
        type=positive,
        default=1000,
        metavar="N",
        help="images in each shard, with all their squares (default: %(default)s)",
    )
    group.add_argument(
        "--name",
        default="shard",
        help="shards are named NAME-000000.tar (default: %(default)s)",
    )
    group.add_argument(
        "--part",
        default="0/1",
        metavar="I/N",
        help="make each N-th shard, from shard I on (I from 0 to N-1); the others can be made "
        "anywhere, at any time. OUT must be a folder that all machines share",
    )
    group.add_argument(
        "--workers",
        type=_zero_or_positive,
        default=usable_cores(),
        metavar="N",
        help="processes (default: one per core, here %(default)s); 0 decodes in this one",
    )


def check_options(options: argparse.Namespace) -> None:
    """Check that options fit together.

    Raises:
        ValueError: If they contradict each other.
    """
    if os.environ.get("WORLD_SIZE", "1") not in ("", "1"):
        raise ValueError("pack runs in one process: use --part")
    if not re.fullmatch(r"\w[\w.-]*", options.name, re.ASCII):
        raise ValueError(
            f"--name {options.name!r} is not a name of shards; expected letters, digits, and _ . - "
            "within"
        )
    if options.lr is not None and options.scale is None:
        raise ValueError("--lr needs --scale, to check the sizes of the pairs")
    if options.crop is None and options.step is not None:
        raise ValueError("--step applies to --crop, which is not given")
    if options.crop is None or options.scale is None:
        return
    scale, step = options.scale, options.step or options.crop
    if scale < 1 or scale % 1 or options.crop % scale or step % scale:
        raise ValueError(
            f"--crop {options.crop} and --step {step} are not multiples of a whole --scale "
            f"(it is {scale:g}), so the LR would be cut between pixels"
        )


def recipe_of(options: argparse.Namespace) -> Recipe:
    """Return the processing of an image."""
    return Recipe(*(getattr(options, name) for name in Recipe._fields))


def inputs_of(options: argparse.Namespace) -> Inputs:
    """Return the inputs of a command line.

    Raises:
        ValueError: As ``find_inputs``.
    """
    suffix = fill_scale(options.lr_suffix, options.scale) if options.lr_suffix else ""
    return find_inputs(*_sources(options), suffix)


def _sources(options: argparse.Namespace) -> tuple[str, str | None]:
    """Return SOURCE, and --lr if it is given, as absolute paths.

    Parts are made in different working directories, and compare these paths.
    """
    lr = None if options.lr is None else _absolute_path(options.lr, "--lr")
    return _absolute_path(options.source, "SOURCE"), lr


def _absolute_path(path: str, name: str) -> str:
    """Return a path with its variables expanded, as an absolute one; ``name`` is for errors."""
    # Not abspath, which drops `link/..` as text.
    return str(Path(expand_path(path, name)).absolute())


def settings_of_shards(options: argparse.Namespace, inputs: Inputs) -> dict[str, Any]:
    """Return what the shards depend on: the options, and the names and sizes of the inputs."""
    source, lr = _sources(options)
    job = {"SOURCE": source, "--lr": lr}
    for name, value in sorted(vars(options).items()):
        if name not in INDEPENDENT:
            job[f"--{name.replace('_', '-')}"] = str(value) if name == "encode" else value
    job["images"] = f"{len(inputs.entries)} of names and sizes {inputs.digest()}"
    return job
