"""The quickstart with a discriminator, beside none: `python -m benchmarks.quickstart_gan`.

Trains what `benchmarks/configs/quickstart_gan.yaml` lists and tests it on degraded squares of
photographs. Writes `quickstart_gan.json` and `quickstart_gan.webp` into benchmarks/results. About
15 CPU minutes; typed again, it goes on where it ended, in runs/quickstart_gan.
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.miniature import report as tables
from benchmarks.miniature import sheet
from benchmarks.miniature.__main__ import Line
from benchmarks.miniature.jobs import REPOSITORY, run_jobs
from benchmarks.miniature.table import Plan, load
from benchmarks.report import RESULTS, without_options, write_report

TABLE = REPOSITORY / "benchmarks/configs/quickstart_gan.yaml"
RUNS = Path("runs/quickstart_gan")
SIDE = 192  # of the squares in pixels
EVERY = 6  # squares, so that each photograph is shown


def main() -> None:
    """Train, test, and write JSON and image."""
    plan, line = Plan(load(TABLE), RUNS, seeds=1), Line()  # no row draws noise
    run_jobs(plan.jobs(), 1, line.show)
    line.end()
    data = "scikit-image and scikit-learn: china, rocket and camera"
    write_report("quickstart_gan", tables.collect(plan, data), seed=0)
    ((title, found),) = sheet.lines(plan, [row.name for row in plan.rows])
    some = [(label, files[::EVERY]) for label, files in found]
    sheet.sheet([(title, some)], SIDE).save(RESULTS / "quickstart_gan.webp", quality=90)


if __name__ == "__main__":
    without_options(__doc__)
    main()
