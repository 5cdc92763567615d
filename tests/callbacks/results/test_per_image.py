"""Numbers of single images: stored, replaced, damaged files; and the CSV table."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from callbacks.metrics.pixels import PSNR
from callbacks.results.files import (
    ImageNumbers,
    load_images,
    load_results,
    store,
    write_images,
)
from callbacks.results.results import Results
from files.method import Method
from files.owned import write_whole
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


# ------------------------------------------------------------------------ what replaces what


def test_numbers_of_other_images_are_replaced_with_a_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """For example, validation and test may both name their dataset photos."""
    write_images(tmp_path, [numbers(), numbers(metric="ssim")])
    store(tmp_path, [], [numbers(), numbers(scale=4.0, values={"set5/head": 1.0})])
    assert not caplog.records
    others = [numbers(metric=m, values={"set5/head": 1.0}) for m in ("psnr", "ssim")]
    store(tmp_path, [], others)
    (got,) = [record.getMessage() for record in caplog.records]
    assert "other images of the same name" in got
    assert "set5 x2 (set5/baby, set5/bird, set5/head)" in got
    assert load_images(tmp_path) == [numbers(scale=4.0, values={"set5/head": 1.0}), *others]


@pytest.mark.parametrize("written", [0, 1, 2])
@pytest.mark.parametrize("again", ["00000001", "00000002"])
def test_a_kill_between_two_writes_mixes_no_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: int, again: str
) -> None:
    """Of other images than before, or of the first ones, PSNR alone is measured again."""

    def measured(digest: str, *metrics: str) -> None:
        images = [numbers(metric=m, digests={"set5/baby": digest}) for m in metrics]
        store(tmp_path, [result(metric=m, value=int(digest)) for m in metrics], images)

    measured("00000001", "psnr", "ssim")
    done = iter([write_whole] * written)
    with monkeypatch.context() as patch, contextlib.suppress(StopIteration):
        patch.setattr("callbacks.results.files.write_whole", lambda *file: next(done)(*file))
        measured("00000002", "psnr")
    measured(again, "psnr")
    found = load_results(tmp_path / "results.json")["results"]
    assert {r["value"] for r in found} == {int(again)}


# -------------------------------------------------------------------------------- several seeds


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
