"""InvSR at scales 1, 2 and 4 against regressions: `python -m benchmarks.invsr_scales`.

Trains on CIFAR-10's automobiles what `benchmarks/configs/invsr_scales.yaml` lists, and tests each
predictor from the start that its scale's rule gives and from the last one it was trained for.
Writes `invsr_scales.json` and `invsr_scales.webp` into benchmarks/results. About 40 CPU minutes;
typed again, it goes on where it ended, in runs/invsr_scales. Images as for `benchmarks.miniature`.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.miniature import report as tables
from benchmarks.miniature import sheet
from benchmarks.miniature.__main__ import Line
from benchmarks.miniature.data import VARIABLE, write_images
from benchmarks.miniature.jobs import REPOSITORY, run_jobs
from benchmarks.miniature.table import Claim, Plan, Table, load
from benchmarks.report import RESULTS, without_options, write_report
from commands.run.files import FOLDER, best_or_newest
from lightning_modules.backbone.schedule import Schedule
from lightning_modules.invsr import starts_beyond

TABLE = REPOSITORY / "benchmarks/configs/invsr_scales.yaml"
RUNS = Path("runs/invsr_scales")
SEEDS = 2  # of sampling


def main() -> None:
    """Train, test, and write JSON and image."""
    plan = Plan(load(TABLE), RUNS, SEEDS)
    data, line = write_images(plan.data), Line()
    environment = {VARIABLE: str(plan.data.resolve())}
    trainings = [job for job in plan.jobs() if job.name.startswith("fit ")]
    run_jobs(trainings, 1, line.show, environment)
    distances = {
        row.name: distance_of(plan.trained(row.of))
        for row in plan.rows
        if row.of.startswith("invsr")
    }
    plan = plan._replace(table=with_last_starts(plan.table, distances))
    run_jobs(plan.jobs(), 1, line.show, environment)
    line.end()
    results = {
        **tables.collect(plan, data),
        "starts": {
            name: {"distance of the latents": round(d, 4), "starts": list(starts_of(d))}
            for name, d in distances.items()
        },
    }
    write_report("invsr_scales", results, seed=0)
    shown = [row.name for row in plan.rows if row.shown]
    sheet.sheet(sheet.lines(plan, shown)).save(RESULTS / "invsr_scales.webp", lossless=True)


def with_last_starts(table: Table, distances: dict[str, float]) -> Table:
    """Return the table with a row from the last trained start below each InvSR's, and claims on it.

    Args:
        table: The table.
        distances: The distance that each InvSR's row measured before training.
    """
    rows, claims = [], list(table.claims)
    for row in table.rows:
        rows.append(row)
        if row.name not in distances:
            continue
        starts = starts_of(distances[row.name])
        options = (*row.options, "--model.init_args.sampling.start", str(starts[-1]))
        last = replace(
            row,
            name=f"{row.name}_last",
            label=f"InvSR, start {starts[-1]}",
            options=options,
            generative=False,
            shown=False,
        )
        rows[-1] = replace(row, label=f"InvSR, start {starts[0]}")
        rows.append(last)
        text = "the start that hides the distance brings more detail than the last one"
        claims.append(Claim(text, row.name, "swd", last.name))
    return replace(table, rows=tuple(rows), claims=tuple(claims))


def starts_of(distance: float) -> tuple[int, ...]:
    """Return the starts that a distance gives in the process of the cars' base."""
    return starts_beyond(Schedule(variance="exploding"), distance)


def distance_of(run: Path) -> float:
    """Return the distance between the latents of LR and HR that a training measured.

    Args:
        run: The run's folder.

    Raises:
        FileNotFoundError: If it has no checkpoint.
    """
    found = best_or_newest(run / FOLDER)
    if found is None:
        raise FileNotFoundError(f"{run} has no checkpoint: remove it and start again")
    state: dict[str, Any] = torch.load(found[0], weights_only=True)["state_dict"]
    return float(state["distance"])


if __name__ == "__main__":
    without_options(__doc__)
    main()
