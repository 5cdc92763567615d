"""Plans of CasArbi's cascade, and what its stages lose: `python -m benchmarks.plans`.

Trains what `benchmarks/configs/plans.yaml` lists, on one core for about 40 CPU minutes. On
photographs, it measures what the best plan of each image gains, and cascades to x32; on
CIFAR-10's automobiles, it tests a cascade in latents beside one in pixels. Writes `plans.json`,
`plans_extreme.webp` and `plans_latents.webp` into benchmarks/results. Typed again, it goes on where
it ended, in runs/plans. It needs BSDS400 and Kodak's photographs in $ENLARGER_DATA, and the images
of `benchmarks.miniature`.
"""

from __future__ import annotations

from pathlib import Path
from typing import cast

import enlarger
from benchmarks.miniature import report as tables
from benchmarks.miniature import sheet
from benchmarks.miniature.__main__ import Line
from benchmarks.miniature.data import VARIABLE, write_images
from benchmarks.miniature.jobs import REPOSITORY, run_jobs
from benchmarks.miniature.table import Plan, load
from benchmarks.plans import extreme, photos
from benchmarks.plans.bound import bound
from benchmarks.report import RESULTS, without_options, write_report
from lightning_modules.casarbi import CasArbi

TABLE = REPOSITORY / "benchmarks/configs/plans.yaml"
RUNS = Path("runs/plans")
SEEDS = 2  # of sampling, in the tests of cars
SCALES = (3.3, 4, 6)
CALLS = (14, 11, 8, 6, 3, 0)  # timesteps of a stage: six calls, by DPM-Solver++(2M)


def main() -> None:
    """Train, test, and write JSON and images."""
    plan, line = Plan(load(TABLE), RUNS, SEEDS), Line()
    data, folder = write_images(plan.data), RUNS / "photos"
    photos.write_photos(folder)
    environment = {VARIABLE: str(plan.data.resolve()), photos.VARIABLE: str(folder.resolve())}
    run_jobs(plan.jobs(), 1, line.show, environment)
    line.end()
    loaded = enlarger.load(plan.trained("photos"), device="cpu", timesteps=list(CALLS))
    model = cast(CasArbi, loaded.module)
    errors, shown = extreme.extreme(model)
    results = {
        **tables.collect(plan, data),
        "plans": {f"x{scale:g}": bound(model, scale) for scale in SCALES},
        "extreme scales": errors,
    }
    write_report("plans", results, seed=0)
    extreme.sheet(shown).save(RESULTS / "plans_extreme.webp", lossless=True)
    rows = {row.name for row in plan.rows if row.shown and row.task != "photos"}
    sheet.sheet(sheet.lines(plan, rows)).save(RESULTS / "plans_latents.webp", lossless=True)


if __name__ == "__main__":
    without_options(__doc__)
    main()
