"""The table of the miniature: that its commands are those of `main.py`, and how it is read."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.miniature.table import Plan, Table, Training, load, with_steps

RUNS = Path("/nowhere/cars")
CARS = load()
JOBS = Plan(CARS, RUNS, steps=0.01).jobs()


def test_a_mistake_in_one_would_be_seen(accepted: Callable[..., None]) -> None:
    with pytest.raises(AssertionError):
        accepted(*JOBS[0].arguments, "--trainer.max_stepz", "3")


def test_every_training_is_needed_by_a_row_and_comes_before_it() -> None:
    assert [job.name for job in JOBS[: len(CARS.trainings)]] == [
        f"fit {training.name}" for training in CARS.trainings
    ]
    before: set[str] = set()
    for job in JOBS:
        assert before.issuperset(job.needs)
        before.add(job.name)


def test_trainings_fit_the_time() -> None:
    """Three hours of two cores, and forty minutes of one a training."""
    jobs = Plan(CARS, RUNS).jobs()
    assert sum(job.minutes for job in jobs) <= 2 * 180
    assert max(job.minutes for job in jobs) <= 40


def test_every_generative_row_has_claims() -> None:
    rows = {claim.row for claim in CARS.all_claims()}
    assert rows >= {row.name for row in CARS.rows if row.generative}


def test_only_what_a_row_needs() -> None:
    jobs = Plan(CARS, RUNS, only=("casarbi_x2",)).jobs()
    assert [job.name for job in jobs] == ["fit liif", "fit casarbi", "test casarbi_x2"]
    test = jobs[-1].arguments
    base = test[test.index("--model.init_args.base_weights") + 1]
    weights = test[test.index("--model.init_args.weights") + 1]
    assert (base, weights) == (f"{RUNS}/trainings/liif", f"{RUNS}/trainings/casarbi")


def test_other_steps_move_all_that_counts_them() -> None:
    schedule = {"class_path": "x", "init_args": {"steps": 1000, "warm_up": 50}}
    config = {
        "trainer": {"max_steps": 1000},
        "model": {
            "init_args": {
                "lr_scheduler": schedule,
                "sampling": {"steps": 5},
                "training": {"adversarial_start": 600},
            }
        },
    }
    above = "--model.init_args"
    assert with_steps(config, Training("t"), 1) == []
    assert with_steps(config, Training("t", steps=500), 0.1) == [
        *("--trainer.max_steps", "50"),
        *(f"{above}.lr_scheduler.init_args.steps", "50"),
        *(f"{above}.lr_scheduler.init_args.warm_up", "2"),
        *(f"{above}.training.adversarial_start", "30"),
    ]


TABLE = """
tasks:
  x2: {title: x2, data: x2.yaml, bicubic: bicubic, regression: bicubic}
words: {small: &small --model.init_args.width 8}
trainings:
  - {name: base}
  - {name: top, options: [*small, "--model.init_args.base_weights {base} --seed_everything 1"]}
rows:
  - {name: bicubic, label: bicubic, task: x2}
  - {name: ours, label: ours, task: x2, of: top, generative: true}
claims: [{text: it helps, row: ours, metric: psnr, than: bicubic, margin: 3}]
"""


def read(folder: Path, text: str) -> Table:
    path = folder / "table.yaml"
    path.write_text(text)
    return load(path)


def test_a_file_is_read(tmp_path: Path) -> None:
    table = read(tmp_path, TABLE)
    assert table.trainings[1].options[:2] == ("--model.init_args.width", "8")
    claims = [(c.row, c.metric, c.than, c.margin) for c in table.all_claims()]
    assert claims == [
        ("ours", "psnr", "bicubic", 3),
        *(("ours", metric, "bicubic", 0) for metric in ("swd", "swd_2", "swd")),
    ]
    plan = Plan(table, tmp_path, steps=1)
    test = plan._test(table.rows[1])
    assert test.needs == ("fit top", "fit base")
    assert f"{tmp_path}/trainings/base" in test.arguments
    assert "--seed_everything 1" not in " ".join(test.arguments)


@pytest.mark.parametrize(
    ("was", "now", "message"),
    [
        ("title: x2", "titel: x2", "titel"),
        ("than: bicubic", "than: cubic", "'cubic'; expected one of bicubic, ours"),
        ("{base}", "{bass}", "training 'top' names 'bass'"),
        ("of: top", "of: tops", "'tops'"),
        ("task: x2, of", "task: x3, of", "'x3'"),
        ("name: top", "name: base", "base is there twice"),
    ],
)
def test_a_mistake_is_named(tmp_path: Path, was: str, now: str, message: str) -> None:
    assert TABLE.count(was) == 1
    with pytest.raises(ValueError, match=re.escape(message)):
        read(tmp_path, TABLE.replace(was, now))
