"""``main.py measure``: numbers of a folder of images, such as another program's outputs.

python main.py measure outputs --reference my/hr --scale 4
python main.py measure outputs --metric niqe --json numbers.json
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from callbacks.results.files import storable
from callbacks.results.rows import Row
from callbacks.results.tables import described
from commands.interface.measuring import by_metric, measured_rows
from commands.process import prepare_output
from files.owned import write_whole


def main(words: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        words: Command-line arguments; those of this process by default.

    Returns:
        0.

    Raises:
        ValueError: If images or weights are missing, or a metric is unknown.
    """
    options = _parser().parse_args(words)
    prepare_output()
    numbers = by_metric(measured(options.outputs, options))
    for name, number in numbers.items():
        protocol = described(number["protocol"])
        print(f"{name:<12} {number['value']:<10.5g} of {number['n']} images  ({protocol})")
    if options.json is not None:
        write_whole(options.json, json.dumps(storable(numbers), indent=1, allow_nan=False).encode())
    return 0


def add_options(parser: argparse._ActionsContainer) -> None:
    """Add the options that ``measured`` needs beside ``--metric``.

    Args:
        parser: A parser, or a group of one.
    """
    parser.add_argument("--reference", metavar="FOLDER", help="the HR images, under the same names")
    parser.add_argument(
        "--scale",
        type=float,
        default=1,
        help="factor by which they were enlarged: the border that PSNR and SSIM leave out",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or mps (default: auto)")


def measured(folder: str, options: argparse.Namespace) -> list[Row]:
    """Return the numbers of a folder of images.

    Args:
        folder: The folder.
        options: Values of ``--metric`` and of ``add_options``.
    """
    metrics = options.metric or (["psnr", "ssim"] if options.reference else ["niqe"])
    return measured_rows(folder, options.reference, metrics, options.scale, options.device)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="main.py measure",
        description="Measure images as main.py test does; each number is printed with its "
        "protocol.",
        allow_abbrev=False,
    )
    parser.add_argument("outputs", metavar="OUTPUTS", help="folder of the images")
    parser.add_argument(
        "--metric",
        action="append",
        help="psnr, ssim, lpips, niqe, fid, ...; may be repeated (default: psnr and ssim with "
        "--reference, niqe without)",
    )
    add_options(parser)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write all numbers there")
    return parser
