"""The table of the quickstart with a discriminator: its trainings differ in the loss alone."""

from __future__ import annotations

from benchmarks.miniature.table import Plan, load, read_whole
from benchmarks.quickstart_gan import REPOSITORY, RUNS, TABLE


def test_trainings_differ_in_the_loss_alone() -> None:
    table = load(TABLE)
    assert len({training.file for training in table.trainings}) == 1
    options = {training.name: training.options for training in table.trainings}
    assert options["gan"] == ()
    assert options["both"] == ("--model.init_args.discriminator", "null")
    assert options["pixels"] == (*options["both"], "--model.init_args.losses.frequency", "null")
    losses = read_whole(REPOSITORY / table.trainings[0].file)["model"]["init_args"]["losses"]
    assert losses.keys() == {"pixel", "frequency"}
    jobs = {job.name: job.arguments for job in Plan(table, RUNS, 1).jobs()}
    tested = [jobs[f"test {name}"] for name in ("pixels", "both", "gan")]
    assert len({words[words.index("--data") + 1] for words in tested}) == 1
