"""Anatomy of a miniature's outputs: `python -m benchmarks.miniature.anatomy RUNS`.

Two things that PSNR and SWD mix. How far the mean of a row's samples is from HR, without what the
samples differ by: a row can lose PSNR by sampling more widely alone. And how much detail an output
has in each octave of frequencies that its LR lacks, as a share of HR's, and how much of it is
right: a distance from photographs can come of too little detail, of too much, or of other detail.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.miniature.callbacks import HR, OUTPUTS
from benchmarks.miniature.jobs import REPOSITORY
from benchmarks.miniature.rows import METHODS
from benchmarks.report import RESULTS, placed, write_report
from callbacks.metrics.pixels import psnr, to_pixels
from callbacks.metrics.sets import read_image

OCTAVES = 4  # from the finest, 1/4 to 1/2 cycle a pixel
SUFFIX = "_anatomy"  # of a JSON's name
MARKS = ("<!-- anatomy -->", "<!-- end of anatomy -->")
PAGES = REPOSITORY / "docs" / "methods"
NUMBERS = {2: "two", 3: "three"}


def of_mean(samples: Tensor, hr: Tensor) -> tuple[float, float]:
    """PSNR of samples, and an estimate of that of the mean of all that could be drawn.

    The error of a sample is, on average, that of the mean and the variance of samples; the variance
    is estimated from a few of them without bias.

    Args:
        samples: (S, 1, H, W) float64 in [0, 255].
        hr: (1, 1, H, W), the same.

    Returns:
        Two numbers in dB; of one sample, its own twice.
    """
    own = float(psnr(samples, hr).mean())
    if len(samples) == 1:
        return own, own
    error = (samples - hr).square().mean() - samples.var(0).mean()
    return own, float(10 * (255**2 / error.clamp(min=1e-9)).log10())


def octaves(samples: Tensor, hr: Tensor) -> Tensor:
    """Power of samples and of HR in each octave, and what they have in common.

    Args:
        samples: (S, 1, H, W) float64.
        hr: (1, 1, H, W), the same.

    Returns:
        (3, ``OCTAVES``): mean power of the samples, power of HR, and the mean of the real part of
        their products.
    """
    h, w = hr.shape[-2:]
    window = torch.outer(*(torch.hann_window(n, dtype=hr.dtype) for n in (h, w)))
    ours, theirs = (
        torch.fft.fft2((x - x.mean((-2, -1), keepdim=True)) * window) for x in (samples, hr)
    )
    frequency = torch.maximum(torch.fft.fftfreq(h).abs()[:, None], torch.fft.fftfreq(w).abs())
    octave = (-(2 * frequency).log2()).floor()  # 0 is the finest; infinite at the mean
    products = torch.stack(
        [
            part.mean((0, 1))
            for part in (ours.abs().square(), theirs.abs().square(), (ours * theirs.conj()).real)
        ]
    )
    bands = [products[:, octave == number].sum(1) for number in range(OCTAVES)]
    return torch.stack(bands, 1) / (h * w)


def anatomy(folder: Path, datasets: dict[str, float]) -> dict[str, Any]:
    """Of one row, by scale.

    Args:
        folder: Of the row, which has kept its outputs.
        datasets: The scale of each.
    """
    keys = defaultdict(list)
    for path in sorted((folder / OUTPUTS / HR).rglob("*.png")):
        key = path.relative_to(folder / OUTPUTS / HR)
        keys[datasets[key.parts[0]]].append(key)
    seeds = sorted(p for p in (folder / OUTPUTS).iterdir() if p.name != HR)
    found = {}
    for scale, own in sorted(keys.items()):
        psnrs, power = [], torch.zeros(3, OCTAVES, dtype=torch.float64)
        for key in own:
            hr, *samples = (
                to_pixels(read_image(place / key), "y", math.ceil(scale))
                for place in (folder / OUTPUTS / HR, *seeds)
            )
            psnrs.append(of_mean(torch.cat(samples), hr))
            power += octaves(torch.cat(samples), hr)
        ours, theirs, common = power
        found[f"x{scale:g}"] = {
            "scale": scale,
            "pictures": len(psnrs),
            "samples": len(seeds),
            "psnr": statistics.fmean(one for one, _ in psnrs),
            "psnr of the mean": statistics.fmean(mean for _, mean in psnrs),
            "power": (ours / theirs).tolist(),
            "right": (common / (ours * theirs).sqrt()).tolist(),
        }
    return found


def measure(table: Path, rows: list[str] | None = None) -> dict[str, Any]:
    """Of each row.

    Args:
        table: The folder of a miniature's rows.
        rows: Of them; by default all that have kept outputs.

    Raises:
        FileNotFoundError: None has.
    """
    names = rows or sorted(p.name for p in table.iterdir() if (p / OUTPUTS / HR).is_dir())
    if not names:
        raise FileNotFoundError(f"{table} has no outputs of rows: run the miniature first")
    found = {}
    for name in names:
        results = json.loads((table / name / "results.json").read_text(encoding="utf-8"))["results"]
        scales = {line["dataset"]: line["scale"] for line in results}
        found[name] = anatomy(table / name, scales)
    return found


# ---------------------------------------------------------------------------------------- its page
def text_of(path: Path) -> str:
    """What stands between the marks of a method's page.

    Args:
        path: The JSON.
    """
    report = json.loads(path.read_text(encoding="utf-8"))
    rows = report["results"]
    method = METHODS.get(path.stem.removesuffix(SUFFIX))
    labels = {row.name: row.label for row in method.rows} if method else {}
    scales = sorted({name for row in rows.values() for name in row}, key=lambda n: float(n[1:]))
    cells = [of for row in rows.values() for of in row.values()]
    draws = max(of["samples"] for of in cells)
    lines = [
        f"`{report['command']}` ([JSON](../../benchmarks/results/{path.name})), "
        f"commit {report['commit'][:7]}, {cells[0]['pictures']} crops a scale. "
        "PSNR-Y of samples and, after the arrow, of the mean of all that could be drawn, as "
        f"estimated from {NUMBERS.get(draws, draws)} draws; then the power of details in the "
        "octaves that LR lacks, from the finest on, in % of HR's, and in brackets their "
        "correlation with HR's.",
        "",
        f"| | {' | '.join(scales)} |",
        f"|---|{'---|' * len(scales)}",
    ]
    for name, row in rows.items():
        shown = " | ".join(_cell(row[scale]) if scale in row else "-" for scale in scales)
        lines.append(f"| {labels.get(name, name)} | {shown} |")
    return "\n".join([*lines, ""])


def _cell(of: dict[str, Any]) -> str:
    missing = min(OCTAVES, max(1, math.ceil(math.log2(of["scale"]))))
    bands = list(zip(of["power"], of["right"], strict=True))[:missing]
    details = ", ".join(f"{100 * power:.0f} ({right:.2f})" for power, right in bands)
    mean = f" → {of['psnr of the mean']:.2f}" if of["samples"] > 1 else ""
    return f"{of['psnr']:.2f}{mean}; {details}"


def main() -> None:
    """Measure, write the result, and its text into the method's page where that has its marks."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.miniature.anatomy",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("table", type=Path, help="rows of a miniature, as runs/miniature_casarbi")
    parser.add_argument("--rows", nargs="+", metavar="ROW", help="these only, in this order")
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = measure(options.table, options.rows)
    name = options.table.name.removeprefix("miniature_")
    path = write_report("anatomy", found, 0, RESULTS / f"{name}{SUFFIX}.json")
    page = PAGES / f"{name}.md"
    if page.is_file() and MARKS[0] in page.read_text(encoding="utf-8"):
        page.write_text(
            placed(page.read_text(encoding="utf-8"), text_of(path), MARKS), encoding="utf-8"
        )


if __name__ == "__main__":
    main()
