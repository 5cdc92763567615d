"""Training and testing for the benchmarks of plans: rows of their table, once, in runs/plans."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast

import enlarger
from benchmarks.miniature.__main__ import Line
from benchmarks.miniature.data import VARIABLE, write_images
from benchmarks.miniature.jobs import REPOSITORY, run_jobs
from benchmarks.miniature.table import Plan, load
from benchmarks.plans import photos
from lightning_modules.casarbi import CasArbi

TABLE = REPOSITORY / "benchmarks/configs/plans.yaml"
RUNS = Path("runs/plans")
SEEDS = 2  # of sampling
CALLS = (14, 11, 8, 6, 3, 0)  # timesteps of a stage: six calls, by DPM-Solver++(2M)


def done(rows: Sequence[str]) -> tuple[Plan, str]:
    """Train and test what rows need; what is done is not done again.

    Args:
        rows: Their names.

    Returns:
        The plan of these rows, and where the images of cars are from.
    """
    plan, line = Plan(load(TABLE), RUNS, SEEDS, only=tuple(rows)), Line()
    data, folder = write_images(plan.data), RUNS / "photos"
    photos.write_photos(folder)
    environment = {VARIABLE: str(plan.data.resolve()), photos.VARIABLE: str(folder.resolve())}
    run_jobs(plan.jobs(), 1, line.show, environment)
    line.end()
    return plan, data


def of_photographs() -> tuple[Plan, str, CasArbi]:
    """Return ``done`` of the cascade of photographs, and the cascade itself."""
    plan, data = done(["photos"])
    model = enlarger.load(plan.trained("photos"), device="cpu", timesteps=list(CALLS)).module
    return plan, data, cast(CasArbi, model)
