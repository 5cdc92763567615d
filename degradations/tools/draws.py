"""Table of what a degradation draws: ``python main.py draws --config FILE``."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch
from tqdm import tqdm

from degradations.base import Degradation
from degradations.tools.configure import degradation_of
from degradations.tools.preview import add_common_arguments, own_of, positive, scale_of, stages_of

log = logging.getLogger(__name__)
CHUNK = 250  # images whose parameters are drawn at once
QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: Command line; by default that of this process.

    Returns:
        0; 2 after an error, which is logged in one sentence.
    """
    options = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        degradation = degradation_of(options.config, scale_of(options))
        values = drawn(degradation, options.draws, options.crop, options.seed)
    except (ValueError, OSError) as error:
        log.error("error: %s", error)
        return 2
    log.info("%s", table(values))
    return 0


def drawn(
    degradation: Degradation, draws: int, crop: int, seed: int = 0
) -> dict[str, npt.NDArray[np.float64]]:
    """Draw the parameters of many images.

    Seeds of noise fields and parameters of several numbers per image (matrices, orders) are
    omitted.

    Args:
        degradation: The degradation; one that draws once per batch gets batches of one image.
        draws: Number of images.
        crop: Side of their HR in pixels.
        seed: Seed of the first image; the others follow.

    Returns:
        (draws,) by the names of streams and parameter, e.g. ``noise / gaussian / levels``, in the
        order of the stages; including images that do not use the parameter.
    """
    shared = any(getattr(module, "faithful", False) for module in degradation.modules())
    chunk = 1 if shared else CHUNK
    found: dict[str, list[npt.NDArray[np.float64]]] = {}
    for start in tqdm(range(seed, seed + draws, chunk), "draws", unit_scale=chunk, disable=None):
        seeds = torch.arange(start, min(start + chunk, seed + draws))
        params = degradation.params_of(seeds, torch.Size((len(seeds), 3, crop, crop)))
        for names, _, own in stages_of(degradation, params):
            for key, value in own_of(own).items():
                values = np.broadcast_to(np.asarray(value, np.float64), (len(seeds),))
                found.setdefault(" / ".join([*names, key]), []).append(values)
    return {name: np.concatenate(parts) for name, parts in found.items()}


def table(values: Mapping[str, npt.NDArray[np.float64]]) -> str:
    """Format one line per parameter: mean and quantiles of its values (draws,)."""
    width = max(map(len, ["parameter", *values]))
    heads = ("mean", "min", *(f"{q:.0%}" for q in QUANTILES[1:-1]), "max")
    lines = [f"{'parameter':<{width}}" + "".join(f"{head:>10}" for head in heads)]
    for name, drawn_values in values.items():
        numbers = [drawn_values.mean(), *np.quantile(drawn_values, QUANTILES)]
        lines.append(f"{name:<{width}}" + "".join(f"{number:>10.4g}" for number in numbers))
    return "\n".join(lines)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="main.py draws",
        description="Draw the parameters of many images and print a table of their means and "
        "quantiles.",
        epilog="example: python main.py draws --config configs/degradation/bsrgan.yaml",
    )
    add_common_arguments(parser)
    parser.add_argument(
        "--draws",
        type=positive,
        default=10000,
        metavar="N",
        help="number of images (default: 10000)",
    )
    parser.add_argument(
        "--crop",
        type=positive,
        default=512,
        metavar="PX",
        help="side of the HR in pixels (default: 512)",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
