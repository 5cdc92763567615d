"""Gain of the best plan of each image in CasArbi's cascade: `python -m benchmarks.plans`.

Trains a cascade on photographs for about 15 CPU minutes, in runs/plans, and divides x3.3 and x4 by
every order and fixed factor. Writes `plans.json` into benchmarks/results. It needs BSDS400 and
Kodak's photographs in $ENLARGER_DATA, and the images of `benchmarks.miniature`.
"""

from __future__ import annotations

from benchmarks.miniature import report as tables
from benchmarks.plans.bound import bound
from benchmarks.plans.trained import of_photographs
from benchmarks.report import without_options, write_report

SCALES = (3.3, 4)


def main() -> None:
    """Train, measure, and write JSON."""
    plan, data, model = of_photographs()
    gains = {f"x{scale:g}": bound(model, scale) for scale in SCALES}
    write_report("plans", {**tables.collect(plan, data), "plans": gains}, seed=0)


if __name__ == "__main__":
    without_options(__doc__)
    main()
