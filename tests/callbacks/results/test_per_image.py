"""Numbers of single images: stored, replaced, damaged files; and the CSV table."""

from __future__ import annotations

import csv
import json
import logging
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from callbacks.metrics.pixels import PSNR
from callbacks.metrics.swd import SWD
from callbacks.results.files import (
    ImageNumbers,
    load_images,
    load_results,
    merge_images,
    update_images,
    write_csv,
    write_images,
)
from callbacks.results.results import Evaluation, Results, images_of, over_seeds
from files.method import Method
from tests.callbacks.results.test_results import result
from tests.callbacks.tiny import Images, Tiny, loader, trainer


def numbers(**changes: Any) -> ImageNumbers:
    base: Any = {
        "dataset": "set5",
        "scale": 2.0,
        "metric": "psnr",
        "protocol": {"color": "y"},
        "checkpoint": "a.ckpt",
        "seed": 0,
        "values": {"set5/baby": 38.0, "set5/bird": 40.0},
    }
    return base | changes


class Stochastic(Method, Tiny):
    """A model whose outputs depend on a seed, as of methods with noise."""

    _drew_noise = True

    def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Tensor]:
        sr = super().test_step(batch, batch_idx)["sr"]
        return {"sr": (sr + 0.01 * self.noise_seed).clamp(0, 1)}


# ---------------------------------------------------------------------------- what is written


def test_every_image_and_those_of_bicubic(tmp_path: Path) -> None:
    metric = PSNR(control=True)
    datasets = [loader(), loader(Images(3, "other", 4))]
    trainer(tmp_path, metric, Results()).test(Tiny(), datasets, verbose=False)
    images = load_images(tmp_path)
    assert [(n["dataset"], n["checkpoint"], len(n["values"])) for n in images] == [
        ("tiny", None, 7),
        ("other", None, 3),
        ("tiny", "bicubic", 7),
        ("other", "bicubic", 3),
    ]
    assert all(n["seed"] is None for n in images)
    assert all(n["protocol"] == metric.protocol() for n in images)
    assert list(images[0]["values"]) == Images().keys
    # Their means are the datasets' numbers.
    results = load_results(tmp_path / "results.json")["results"]
    for stored, found in zip(results, images, strict=True):
        assert stored["checkpoint"] == found["checkpoint"]
        assert stored["value"] == sum(found["values"].values()) / stored["n"]


def test_a_limit_is_of_the_images_too(tmp_path: Path) -> None:
    trainer(tmp_path, PSNR(limit=2), Results()).test(Tiny(), loader(), verbose=False)
    (found,) = load_images(tmp_path)
    assert list(found["values"]) == ["tiny/00", "tiny/01"]
    assert found["protocol"]["images"] == 2


def test_a_number_of_a_set_has_no_images(tmp_path: Path) -> None:
    trainer(tmp_path, SWD(), Results()).test(Tiny(), loader(Images(side=64)), verbose=False)
    assert load_images(tmp_path) == []
    assert load_results(tmp_path / "results.json")["results"]


def test_strict_json_of_what_is_not_finite(tmp_path: Path) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    values = {"a": math.inf, "b": math.nan, "c": 1.5}
    write_images(tmp_path, [numbers(values=values)])
    text = (tmp_path / "images.json").read_text()
    stored = json.loads(text, parse_constant=refuse)["images"][0]["values"]
    assert stored == {"a": "inf", "b": "nan", "c": 1.5}
    found = load_images(tmp_path)[0]["values"]
    assert found["a"] == math.inf
    assert math.isnan(found["b"])


# ------------------------------------------------------------------------ what replaces what


def test_only_what_is_measured_again_is_replaced() -> None:
    other = numbers(dataset="set14")
    new = numbers(values={"set5/baby": 39.0})
    assert merge_images([numbers(), other], [new]) == [other, new]


def test_numbers_of_other_images_are_replaced_with_a_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """For example, validation and test may both name their dataset photos."""
    write_images(tmp_path, [numbers(), numbers(metric="ssim")])
    update_images(tmp_path, [numbers(), numbers(scale=4.0, values={"set5/head": 1.0})])
    assert not caplog.records
    update_images(
        tmp_path, [numbers(metric=m, values={"set5/head": 1.0}) for m in ("psnr", "ssim")]
    )
    (got,) = [record.getMessage() for record in caplog.records]
    assert "set5 x2 replace those of other images" in got
    assert "of 2 (set5/baby, ...) before, of 1 (set5/head, ...) now" in got


def test_seeds_of_an_earlier_evaluation_do_not_stay() -> None:
    """They may have other settings of the method: a mean over both would be meaningless."""
    old = [numbers(seed=seed) for seed in range(5)]
    new = [numbers(seed=seed, values={"set5/baby": 20.0}) for seed in range(2)]
    assert merge_images(old, new) == new


def test_a_damaged_file_is_moved_aside(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "images.json").write_text('{"images": [{"dataset": 1}]}')
    with pytest.raises(ValueError, match=r"images\.json is damaged .*run test \(or validate\)"):
        load_images(tmp_path)
    with caplog.at_level(logging.WARNING):
        update_images(tmp_path, [numbers()])
    assert load_images(tmp_path) == [numbers()]
    assert (tmp_path / "images.json.damaged-0").exists()
    assert "images.json.damaged-0" in caplog.text


def test_a_folder_is_not_said_to_be_missing(tmp_path: Path) -> None:
    (tmp_path / "images.json").mkdir()
    with pytest.raises(ValueError, match=r"images\.json is damaged"):
        load_images(tmp_path)


def test_there_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"images\.json: run test .* with this version"):
        load_images(tmp_path)


# -------------------------------------------------------------------------------- several seeds


def evaluation(seed: int | None, value: float) -> Evaluation:
    bicubic = result(checkpoint="bicubic", value=33.0)
    controls = numbers(checkpoint="bicubic", seed=None)
    return Evaluation(seed, [result(value=value), bicubic], [numbers(seed=seed), controls])


def test_mean_and_deviation_over_seeds() -> None:
    found = over_seeds([evaluation(seed, value) for seed, value in ((3, 1.0), (4, 2.0), (5, 6.0))])
    expected = result(value=3.0, seeds=[3, 4, 5])
    assert found[0].pop("std") == pytest.approx(math.sqrt(7))
    assert found == [expected, result(checkpoint="bicubic", value=33.0)]


def test_one_seed_has_no_deviation() -> None:
    assert over_seeds([evaluation(3, 1.0)])[0] == result(value=1.0, seeds=[3])
    assert over_seeds([evaluation(None, 1.0)])[0] == result(value=1.0)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_seed_without_a_number(bad: float) -> None:
    (found, _) = over_seeds([evaluation(0, 1.0), evaluation(1, bad)])
    assert str(found["value"]) == str(bad)
    assert math.isnan(found["std"])


def test_images_of_bicubic_are_there_once() -> None:
    found = images_of([evaluation(0, 1.0), evaluation(1, 2.0)])
    assert [(n["checkpoint"], n["seed"]) for n in found] == [
        ("a.ckpt", 0),
        ("bicubic", None),
        ("a.ckpt", 1),
    ]


def test_evaluations_that_belong_together(tmp_path: Path, capsys: Any) -> None:
    model, keeper = Stochastic(), Results()
    run = trainer(tmp_path, PSNR(control=True), keeper)
    keeper.repeats = 3
    single = []
    for seed in (4, 5, 6):
        model.set_noise_seed(seed)
        run.test(model, loader(), verbose=False)
        single.append(run.callback_metrics["test/psnr"].item())
        so_far = load_results(tmp_path / "results.json")["results"][0]
        assert so_far["seeds"] == list(range(4, seed + 1))  # an interrupt would leave these
    assert len(set(single)) == 3
    stored = load_results(tmp_path / "results.json")["results"]
    assert stored[0]["value"] == pytest.approx(sum(single) / 3, rel=1e-6)
    assert stored[0]["std"] == pytest.approx(torch.tensor(single).double().std().item(), rel=1e-4)
    assert "seeds" not in stored[1]  # bicubic
    seeds = [n["seed"] for n in load_images(tmp_path)]
    assert sorted(map(str, seeds)) == ["4", "5", "6", "None"]
    assert capsys.readouterr().out.count("checkpoint") == 1  # one table, at the end

    # Another evaluation replaces them.
    run.test(model, loader(), verbose=False)
    assert load_results(tmp_path / "results.json")["results"][0]["seeds"] == [6]


# -------------------------------------------------------------------------------------- the CSV


def test_a_table_that_programs_read(tmp_path: Path) -> None:
    results = [
        result(seeds=[0, 1], std=0.25),
        result(metric="ssim", value=0.96, seeds=[0, 1], std=0.01),
        result(checkpoint="bicubic", value=33.7),
        result(dataset="div2k, hard", n=100, protocol={"color": "rgb"}, value=math.inf),
    ]
    write_csv(tmp_path / "results.csv", results)
    rows = list(csv.DictReader((tmp_path / "results.csv").open()))
    assert list(rows[0]) == [
        *("dataset", "scale", "checkpoint", "seeds"),
        *("psnr (1)", "psnr (1)_std", "psnr (1)_n", "psnr (2)", "psnr (2)_n"),
        *("ssim", "ssim_std", "ssim_n"),
    ]
    assert rows[0] == {
        **{"dataset": "set5", "scale": "2", "checkpoint": "a.ckpt", "seeds": "0 1"},
        **{"psnr (1)": "38.0", "psnr (1)_std": "0.25", "psnr (1)_n": "5"},
        **{"psnr (2)": "", "psnr (2)_n": "", "ssim": "0.96", "ssim_std": "0.01", "ssim_n": "5"},
    }
    assert (rows[1]["checkpoint"], rows[1]["psnr (1)_std"]) == ("bicubic", "")
    assert (rows[2]["dataset"], rows[2]["psnr (2)"]) == ("div2k, hard", "inf")
    protocols = list(csv.reader((tmp_path / "results_protocols.csv").open()))
    assert protocols == [
        ["column", "protocol"],
        ["psnr (1)", "color y, border scale"],
        ["psnr (2)", "color rgb"],
        ["ssim", "color y, border scale"],
    ]


def test_a_deviation_that_is_a_metric_of_its_own_keeps_its_column(tmp_path: Path) -> None:
    over = {"seeds": [0, 1]}
    write_csv(
        tmp_path / "results.csv",
        [
            result(metric="kid", value=1.0, std=0.25, **over),
            result(metric="kid_std", value=7.0, std=0.5, **over),
        ],
    )
    (names, cells) = csv.reader((tmp_path / "results.csv").open())
    assert len(set(names)) == len(names)
    row = dict(zip(names, cells, strict=True))
    assert (row["kid"], row["kid_std_over_seeds"]) == ("1.0", "0.25")
    assert (row["kid_std"], row["kid_std_std"]) == ("7.0", "0.5")


def test_the_table_holds_earlier_numbers_too(tmp_path: Path) -> None:
    trainer(tmp_path, PSNR(), Results()).test(Tiny(), loader(), verbose=False)
    other = loader(Images(3, "other", 4))
    trainer(tmp_path, PSNR(), Results()).test(Tiny(), other, verbose=False)
    rows = list(csv.DictReader((tmp_path / "results.csv").open()))
    stored = load_results(tmp_path / "results.json")["results"]
    assert [(r["dataset"], float(r["psnr"])) for r in rows] == [
        (r["dataset"], r["value"]) for r in stored
    ]
