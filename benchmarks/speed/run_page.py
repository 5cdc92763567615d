"""Time that `report.html` takes in a run: `ENLARGER_DATA=... python -m benchmarks.speed.run_page`.

Milliseconds for each kept image, in the first validation and in later ones, on photographs of
Kodak at x2 whose outputs are all new; and seconds to read logs and to write the page.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor

from benchmarks.report import without_options, write_report
from callbacks.files import provenance
from callbacks.metrics.sets import find_images, read_image
from callbacks.report.images import Evaluation, ImageStore, ReportImage, write_index
from callbacks.report.page import Limits, page
from callbacks.report.runs import read_run
from degradations.bicubic import resize

IMAGES, SIDE, VALIDATIONS, SEED = 8, 384, 4, 0
TAGS, VALUES = 8, 10_000  # of the logs: each tag has so many values


def seconds(work: Callable[[], Any]) -> float:
    """How long something takes."""
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def validations(run: Path, paths: list[Path]) -> list[list[float]]:
    """Milliseconds of each image in each validation; leaves the index of the last."""
    store, generator = ImageStore(run, SIDE), torch.Generator().manual_seed(SEED)
    dataset = SimpleNamespace(name="kodak", scale=2.0)
    hrs = [read_image(path) for path in paths]
    lrs = [resize(hr, [side // 2 for side in hr.shape[-2:]]).clamp(0, 1) for hr in hrs]
    spent: list[list[float]] = []
    kept: list[ReportImage] = []

    def keep(path: Path, sr: Tensor, lr: Tensor, hr: Tensor) -> None:
        kept.append(store.keep(dataset, path.stem, sr, lr, hr))

    for _ in range(VALIDATIONS):
        kept.clear()
        spent.append([])
        for path, lr, hr in zip(paths, lrs, hrs, strict=True):
            sr = (hr + 0.01 * torch.randn(hr.shape, generator=generator)).clamp(0, 1)
            spent[-1].append(1000 * seconds(lambda: keep(path, sr, lr, hr)))  # noqa: B023
    evaluation: Evaluation = {
        "dataset": "kodak",
        "scale": 2.0,
        "stage": "validation",
        "step": 0,
        "checkpoint": None,
        "protocols": {},
        "images": kept,
    }
    write_index(run, [evaluation], provenance())
    return spent


def log(run: Path) -> None:
    """Logs as those of a long training."""
    logger = TensorBoardLogger(run, name="", version="tensorboard")
    for step in range(VALUES):
        logger.log_metrics({f"train/{tag}": 1 / (1 + step + tag) for tag in range(TAGS)}, 50 * step)
    logger.finalize("success")


def main() -> None:
    """Measure and write the result."""
    root = os.environ.get("ENLARGER_DATA")
    if root is None:
        sys.exit("set ENLARGER_DATA to the folder that holds kodak24")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder)
        spent = validations(run, find_images([Path(root, "kodak24")])[:IMAGES])
        later = [value for validation in spent[1:] for value in validation]
        results: dict[str, Any] = {
            "first_validation_ms_an_image": round(statistics.median(spent[0]), 1),
            "later_validations_ms_an_image": round(statistics.median(later), 1),
            "page_seconds": round(seconds(lambda: page([read_run(run, "a")], Limits())), 3),
        }
        log(run)
        read_run(run, "a")  # the import of TensorBoard
        results[f"logs_of_{TAGS * VALUES}_values_seconds"] = round(
            seconds(lambda: read_run(run, "a")), 2
        )
        size = len(page([read_run(run, "a")], Limits()).encode())
        results["page_megabytes"] = round(size / 1e6, 2)
    write_report("run_page", results, SEED)


if __name__ == "__main__":
    without_options(__doc__)
    main()
