"""The table of NSARM's passes: its rows differ in what they compare, and in nothing else."""

from __future__ import annotations

from benchmarks.miniature.table import Plan, load, of_model, read_whole
from benchmarks.nsarm_passes import (
    BITS,
    GRIDS,
    KNOWN,
    REPOSITORY,
    RUNS,
    SEEDS,
    TABLE,
    Shape,
    times_of,
)


def test_rows_differ_in_their_passes_alone() -> None:
    table = load(TABLE)
    jobs = {job.name: job for job in Plan(table, RUNS, SEEDS).jobs()}
    trained = {training.name: list(training.options) for training in table.trainings}
    reads = ["--model.init_args.transformer.init_args.reads_noise", "true"]
    assert trained["student"] == [*trained["deaf"], *reads]
    steps = {training.name: training.steps for training in table.trainings}
    assert steps["student"] == steps["deaf"]
    plain, together = (of_model(jobs[f"test {row}"].arguments) for row in ("teacher", "together"))
    assert together == [*plain, "--model.init_args.passes", "[3]"]
    for row in ("deaf", "student"):
        words = jobs[f"test {row}"].arguments
        at = words.index("--model.init_args.teacher_weights")
        assert words[at + 1] == str(RUNS / "trainings" / "nsarm_nsarm")


def test_times_are_of_the_shapes_in_the_table() -> None:
    model = read_whole(REPOSITORY / "benchmarks/configs/cars/nsarm_nsarm.yaml")["model"]
    space = model["init_args"]["space"]["init_args"]
    assert [tuple(grid) for grid in space["grids"]] == GRIDS
    assert space["vae"]["init_args"]["bits"] == BITS
    stage2 = next(t for t in load(TABLE).trainings if t.name == "nsarm_nsarm")
    grids = stage2.options[stage2.options.index("--model.init_args.mapper.init_args.grids") + 1]
    assert grids == str([list(grid) for grid in GRIDS[:KNOWN]]).replace(" ", "")
    found = times_of(Shape(1, 64, 4), repeats=1)
    assert found.keys() == {"batch of 1", "batch of 16"}
    assert all(times["three"] > 0 and times["one"] > 0 for times in found.values())
