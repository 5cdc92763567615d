"""Results: stored and replaced numbers, the table, damaged files."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from rich.table import Table

from callbacks.metrics.base import Metric
from callbacks.metrics.pixels import PSNR, SSIM
from callbacks.metrics.swd import SWD
from callbacks.results.files import (
    Result,
    columns,
    load_images,
    load_results,
    made_by,
    write_results,
)
from callbacks.results.results import Evaluation, Results, margins, over_seeds, table
from files.method import Method
from tests.callbacks.tiny import Images, Tiny, loader, trainer

FILES = ("results.json", "images.json")


def result(**changes: Any) -> Result:
    base: Any = {
        "dataset": "set5",
        "scale": 2.0,
        "metric": "psnr",
        "value": 38.0,
        "n": 5,
        "protocol": {"color": "y", "border": "scale"},
        "checkpoint": "a.ckpt",
        "higher_is_better": True,
    }
    return base | changes


def evaluated(root: Path, source: str | None = "a.ckpt", verb: str = "test") -> None:
    class Trained(Method, Tiny):
        weights_source = source

    model = Trained()
    run = trainer(root, PSNR(), SSIM(), Results())
    getattr(run, verb)(model, [loader(), loader(Images(3, "other", 4))], verbose=False)


@pytest.mark.parametrize("verb", ["validate", "test"])
def test_numbers_with_protocol_and_weights(tmp_path: Path, verb: str) -> None:
    evaluated(tmp_path, verb=verb)
    content = load_results(tmp_path / "results.json")
    assert set(content) == {"results", "command", "commit", "versions", "arithmetic"}
    assert content["versions"]["torch"] == torch.__version__.partition("+")[0] or (
        content["versions"]["torch"] == torch.__version__
    )
    found = [(r["dataset"], r["scale"], r["metric"], r["n"]) for r in content["results"]]
    assert found == [
        ("tiny", 2.0, "psnr", 7),
        ("other", 4.0, "psnr", 3),
        ("tiny", 2.0, "ssim", 7),
        ("other", 4.0, "ssim", 3),
    ]
    first = content["results"][0]
    assert set(first) == set(result())
    assert first["protocol"] == PSNR().protocol()
    assert first["checkpoint"] == "a.ckpt"


def test_only_what_is_measured_again_is_replaced(tmp_path: Path) -> None:
    evaluated(tmp_path)
    evaluated(tmp_path)
    assert len(load_results(tmp_path / "results.json")["results"]) == 4
    evaluated(tmp_path, source=None)
    assert len(load_results(tmp_path / "results.json")["results"]) == 8


@pytest.mark.parametrize("metric", [PSNR(), SWD(levels=1)], ids=["of images", "of sets"])
@pytest.mark.parametrize("changed", ["nothing", "weights", "hr", "lr"])
def test_a_row_is_of_one_training_and_of_the_same_images(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, changed: str, metric: Metric
) -> None:
    class Others(Images):
        def __getitem__(self, index: int) -> dict[str, Any]:
            sample = super().__getitem__(index)
            return {**sample, changed: sample.get(changed, 0) / 2}

    class Trained(Method, Tiny):
        weights_source: str | None

    metrics = [PSNR(), SSIM(), SWD(levels=1)]
    for name in ("other.pth", "m.pth"):
        (tmp_path / name).write_text("before")
        Trained.weights_source = f"{tmp_path / name} (EMA)"
        trainer(tmp_path, *metrics, Results()).test(Trained(), loader(), verbose=False)
    (tmp_path / "m.pth").write_text("after" if changed == "weights" else "before")
    trainer(tmp_path, metric, Results()).test(Trained(), loader(Others()), verbose=False)
    names = [m.name for m in metrics]
    kept = names if changed == "nothing" else [metric.name]
    for numbers in (load_results(tmp_path / "results.json")["results"], load_images(tmp_path)):
        assert sorted(n["metric"] for n in numbers) == sorted([*names, *kept])
    gone = next(name for name in names if name != metric.name)
    assert (f"no longer among the results: {gone} on tiny x2" in caplog.text) == (len(kept) == 1)
    assert ("are replaced: tiny x2" in caplog.text) == (changed in ("hr", "lr"))


@pytest.mark.parametrize(
    ("weights", "options", "expected"),
    [
        ("a.ckpt", {}, "a.ckpt"),
        ("a.ckpt", {"color_fix": "adain", "steps": 3}, "a.ckpt, color_fix adain, steps 3"),
        (None, {}, None),
    ],
)
def test_options_are_part_of_what_a_number_stands_for(
    weights: str | None, options: dict[str, Any], expected: str | None
) -> None:
    class Made(Method):
        weights_source = weights
        output_settings = options  # type: ignore[assignment]

    assert made_by(Made()) == expected


@pytest.mark.parametrize("bad", [0, 1])
def test_a_number_that_a_seed_lacks_is_no_mean_of_the_others(bad: int) -> None:
    """A metric of sets may have further numbers for some outputs only, such as `flicker`."""
    seeds = [
        Evaluation(
            seed,
            [result(metric="swd", value=math.nan)]
            if seed == bad
            else [result(metric="swd"), result(metric="swd_2")],
            [],
        )
        for seed in range(3)
    ]
    found = over_seeds(seeds)
    assert [r["metric"] for r in found] == ["swd", "swd_2"]
    assert all(math.isnan(r["value"]) and math.isnan(r["std"]) for r in found)


@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_values_that_are_not_finite_are_strict_json(tmp_path: Path, value: float) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    write_results(tmp_path / "r.json", [result(value=value)])
    json.loads((tmp_path / "r.json").read_text(), parse_constant=refuse)
    assert str(load_results(tmp_path / "r.json")["results"][0]["value"]) == str(value)


@pytest.mark.parametrize("content", ["{", '{"results": [{"value": 1}]}'])
def test_a_damaged_file_is_moved_aside(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, content: str
) -> None:
    path = tmp_path / "results.json"
    for number in (0, 1):
        path.write_text(content)
        with pytest.raises(ValueError, match="is no file of results, or damaged"):
            load_results(path)
        with caplog.at_level(logging.WARNING):
            evaluated(tmp_path)
        aside = tmp_path / f"results.json.damaged-{number}"
        assert aside.read_text() == content
        assert str(aside) in caplog.text
        assert len(load_results(path)["results"]) == 4


@pytest.mark.parametrize("changed", [{"n": "5"}, {"scale": "2"}, {"protocol": ["y"]}])
def test_a_field_of_another_kind_is_damage(tmp_path: Path, changed: dict[str, Any]) -> None:
    """For example in a file edited by hand; the tables would fail later."""
    path = tmp_path / "results.json"
    write_results(path, [result(), {**result(), **changed}])  # type: ignore[typeddict-item]
    with pytest.raises(ValueError, match=f"damaged: .*{next(iter(changed))} is"):
        load_results(path)


def test_nothing_is_stored_in_fit_or_without_metrics(tmp_path: Path) -> None:
    trainer(tmp_path, PSNR(), Results()).fit(Tiny(), loader(), loader())
    trainer(tmp_path, Results()).test(Tiny(), loader(), verbose=False)
    assert not any((tmp_path / name).exists() for name in FILES)


def shown(results: list[Result], kind: Callable[[list[Result]], Table] = table) -> str:
    console = Console(width=120, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(kind(results))
    return console.export_text()


def test_numbers_of_different_protocols_are_in_different_columns() -> None:
    rgb = {"color": "rgb", "border": 0}
    results = [
        result(),
        result(dataset="set14", value=33.63, protocol={"border": "scale", "color": "y"}),
        result(dataset="div2k", value=36.0, protocol=rgb),
        result(dataset="set5", value=35.9, protocol=rgb),
        result(metric="ssim", value=0.96),
    ]
    text = shown(results)
    heading = next(line for line in text.splitlines() if "dataset" in line)
    assert [c.strip() for c in heading.split("┃")[1:-1]] == [
        *("dataset", "scale", "psnr (1)", "psnr (2)", "ssim", "n", "checkpoint")
    ]
    rows = [[c.strip() for c in line.split("│")[1:-1]] for line in text.splitlines() if "│" in line]
    assert [row[2:5] for row in rows] == [
        ["38.0000", "35.9000", "0.9600"],
        ["33.6300", "-", "-"],
        ["-", "36.0000", "-"],
    ]
    assert "psnr (1): color y, border scale" in text
    assert "psnr (2): color rgb, border 0" in text
    assert [heading for heading, _ in columns(results).values()] == ["psnr (1)", "psnr (2)", "ssim"]


def test_fit_says_how_far_it_is_from_bicubic(tmp_path: Path, caplog: Any) -> None:
    caplog.set_level(logging.INFO, logger="callbacks.results.results")
    metric = PSNR(control=True)
    run = trainer(tmp_path, metric, SSIM(), Results(), max_steps=2, val_check_interval=2)
    run.fit(Tiny(), loader(), [loader()])
    lines = [r.getMessage() for r in caplog.records if "bicubic" in r.getMessage()]
    ours, bicubic = metric.records[0]["value"], metric.control_records[0]["value"]
    compared = f"psnr {ours:.4f}, bicubic {bicubic:.4f}: {ours - bicubic:+.4f}, worse"
    assert lines[-1] == f"step 2, tiny x2: {compared}"
    assert not (tmp_path / "results.json").exists()


@pytest.mark.parametrize(
    ("higher", "value", "word"),
    [
        *((True, 2.0, ", better"), (True, 0.5, ", worse"), (False, 0.5, ", better")),
        *((False, 2.0, ", worse"), (True, 1.00001, ", equal"), (True, math.nan, "")),
        *((True, math.inf, ""), (False, 1.0, ", equal")),
    ],
)
def test_better_is_higher_or_lower_by_the_metric(higher: bool, value: float, word: str) -> None:
    metric = PSNR(control=True)
    metric.higher_is_better = higher
    metric.records = [result(value=value)]  # type: ignore[list-item]
    metric.control_records = [result(value=1.0)]  # type: ignore[list-item]
    (line,) = margins([metric])
    assert line.endswith(f"{value - 1:+.4f}{word}")
