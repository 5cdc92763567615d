"""Results: stored and replaced numbers, the table, damaged files."""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from callbacks.metrics.base import Metric
from callbacks.metrics.pixels import PSNR, SSIM
from callbacks.metrics.swd import SWD
from callbacks.results.files import append, made_by, read_file
from callbacks.results.results import Results
from callbacks.results.rows import over_seeds
from files.method import Method
from tests.callbacks.results.measured import row
from tests.callbacks.tiny import Images, Tiny, loader, trainer

FILES = ("results.json", "images.json")


def evaluated(root: Path, source: str | None = "a.ckpt", verb: str = "test") -> None:
    class Trained(Method, Tiny):
        weights_source = source

    model = Trained()
    run = trainer(root, PSNR(), SSIM(), Results())
    getattr(run, verb)(model, [loader(), loader(Images(3, "other", 4))], verbose=False)


@pytest.mark.parametrize("verb", ["validate", "test"])
def test_numbers_with_protocol_and_weights(tmp_path: Path, verb: str) -> None:
    evaluated(tmp_path, verb=verb)
    content = json.loads((tmp_path / "results.json").read_text())
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
    described = {"dataset", "scale", "metric", "value", "n", "protocol", "checkpoint"}
    assert set(first) == described | {"higher_is_better", "not_finite", "digest"}
    assert first["protocol"] == PSNR().protocol()
    assert first["checkpoint"] == "a.ckpt"


def test_only_what_is_measured_again_is_replaced(tmp_path: Path) -> None:
    evaluated(tmp_path)
    evaluated(tmp_path)
    assert len(read_file(tmp_path / "results.json")) == 4
    evaluated(tmp_path, source=None)
    assert len(read_file(tmp_path / "results.json")) == 8


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
    numbers = read_file(tmp_path / "results.json")
    assert sorted(row.metric for row in numbers) == sorted([*names, *kept])
    of_images = [name for name in (*names, *kept) if name != "swd"]
    images = read_file(tmp_path / "images.json")
    assert sorted(row.metric for row in images if row.image == "tiny/00") == sorted(of_images)
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
    evaluations = []
    for seed in range(3):
        if seed == bad:
            evaluations.append([row(metric="swd", value=math.nan, seed=seed)])
        else:
            evaluations.append([row(metric=name, seed=seed) for name in ("swd", "swd_2")])
    numbers = over_seeds(evaluations)
    assert [row.metric for row in numbers] == ["swd", "swd_2"]
    assert [str((row.value, row.std)) for row in numbers] == ["(nan, nan)"] * 2


@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_values_that_are_not_finite_are_strict_json(tmp_path: Path, value: float) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    append(tmp_path, [row(value=value), row(value=value, image="set5/baby")])
    for name in FILES:
        json.loads((tmp_path / name).read_text(), parse_constant=refuse)
        assert str(read_file(tmp_path / name)[0].value) == str(value)


@pytest.mark.parametrize("content", ["{", '{"results": [{"value": 1}]}'])
def test_a_damaged_file_is_moved_aside(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, content: str
) -> None:
    path = tmp_path / "results.json"
    for number in (0, 1):
        path.write_text(content)
        with pytest.raises(ValueError, match=r"results\.json is damaged"):
            read_file(path)
        with caplog.at_level(logging.WARNING):
            evaluated(tmp_path)
        aside = tmp_path / f"results.json.damaged-{number}"
        assert aside.read_text() == content
        assert str(aside) in caplog.text
        assert len(read_file(path)) == 4


def test_nothing_is_stored_in_fit_or_without_metrics(tmp_path: Path) -> None:
    trainer(tmp_path, PSNR(), Results()).fit(Tiny(), loader(), loader())
    trainer(tmp_path, Results()).test(Tiny(), loader(), verbose=False)
    assert not any((tmp_path / name).exists() for name in FILES)
