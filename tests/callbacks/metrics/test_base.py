"""ImageMetric: names, exactness, limits, counting, messages."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from callbacks.evaluation import MetricProtocol, are_finite
from callbacks.metrics.base import ImageMetric
from callbacks.metrics.pixels import PSNR
from tests.callbacks.tiny import Double, Images, NoHR, Tiny, collate, loader, outputs, trainer


class MeanDifference(ImageMetric):
    name = "mae"
    higher_is_better = False

    def protocol(self) -> MetricProtocol:
        return {"implementation": "test", "weights": None}

    def compute(self, sr: Tensor, hr: Tensor, batch: Any) -> Tensor:
        return (sr - hr).abs().mean((1, 2, 3))


class Brightness(MeanDifference):
    name = "brightness"
    needs_hr = False

    def compute(self, sr: Tensor, hr: Tensor, batch: Any) -> Tensor:
        return sr.mean((1, 2, 3))


def expected(n: int = 7) -> float:
    """Return the mean absolute error of Tiny."""
    sr, hr = outputs(n)
    return (sr - hr).abs().mean().item()


@pytest.mark.parametrize("batch_size", [1, 2, 3, 7])
def test_mean_of_images_for_any_batch_size(tmp_path: Path, batch_size: int) -> None:
    metric = MeanDifference()
    run = trainer(tmp_path, metric)
    run.validate(Tiny(), loader(batch_size=batch_size), verbose=False)
    record = metric.records[0]
    assert record["value"] == pytest.approx(expected(), rel=1e-6)
    assert {**record, "value": 0.0} == {
        "dataset": "tiny",
        "scale": 2.0,
        "metric": "mae",
        "value": 0.0,
        "n": 7,
        "protocol": {"implementation": "test", "weights": None},
    }
    assert set(run.callback_metrics) == {"val/mae"}
    assert run.callback_metrics["val/mae"].item() == pytest.approx(record["value"], rel=1e-6)


def test_a_metric_of_a_user_may_write_into_the_images(tmp_path: Path) -> None:
    class Spoils(MeanDifference):
        def compute(self, sr: Tensor, hr: Tensor, batch: Any) -> Tensor:
            difference = hr.sub_(sr).abs().mean((1, 2, 3))
            sr.zero_()
            return difference

    def measured(*metrics: Any) -> list[Any]:
        for metric in metrics:
            metric.control = True
        trainer(tmp_path, *metrics).validate(Tiny(), loader(), verbose=False)
        return [(metric.records, metric.control_records) for metric in metrics]

    assert measured(Spoils(), PSNR(border=0)) == measured(MeanDifference(), PSNR(border=0))


def test_compute_sees_the_scale_of_its_dataset(tmp_path: Path) -> None:
    class Scale(MeanDifference):
        def compute(self, sr: Tensor, hr: Tensor, batch: Any) -> Tensor:
            return torch.full((len(sr),), self.scale)

    metric = Scale()
    loaders = [loader(Images(3, "a")), loader(Images(3, "b", scale=4))]
    trainer(tmp_path, metric).test(Tiny(), loaders, verbose=False)
    assert [r["value"] for r in metric.records] == [2.0, 4.0]


def test_a_repeated_image_counts_once(tmp_path: Path) -> None:
    padded = DataLoader(Images(), 2, sampler=[0, 1, 2, 3, 4, 5, 6, 0], collate_fn=collate)
    metric = MeanDifference()
    trainer(tmp_path, metric).validate(Tiny(), padded, verbose=False)
    assert metric.records[0]["n"] == 7
    assert metric.records[0]["value"] == pytest.approx(expected(), rel=1e-6)


def test_a_part_of_the_dataset_is_in_the_protocol(tmp_path: Path) -> None:
    metric = MeanDifference()
    run = trainer(tmp_path, metric, limit_val_batches=2)
    run.validate(Tiny(), loader(), verbose=False)
    assert metric.records[0]["n"] == 4
    assert metric.records[0]["value"] == pytest.approx(expected(4), rel=1e-6)
    assert metric.records[0]["protocol"]["images"] == 4


def test_images_without_hr(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with_reference, without = MeanDifference(), Brightness()
    run = trainer(tmp_path, with_reference, without)
    with caplog.at_level(logging.WARNING):
        run.validate(Double(), loader(NoHR()), verbose=False)
    assert with_reference.records == []
    assert without.records[0]["n"] == 7
    assert "no mae on tiny: no image with HR" in caplog.text


def test_values_that_are_not_finite_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(MeanDifference):
        def compute(self, sr: Tensor, hr: Tensor, batch: Any) -> Tensor:
            return torch.tensor([float("nan") if k == "tiny/03" else 1.0 for k in batch["key"]])

    metric = Broken()
    with caplog.at_level(logging.WARNING):
        trainer(tmp_path, metric).validate(Tiny(), loader(), verbose=False)
    (record,) = metric.records
    assert (record["value"], record["n"], record["not_finite"]) == (1.0, 7, 1)
    got = "not finite for 1 of 7 images of tiny, and the mean is of the other 6: tiny/03 (nan)"
    assert caplog.text.count(got) == 1


def test_an_output_with_a_broken_pixel_is_not_left_out_of_the_mean(tmp_path: Path) -> None:
    """Otherwise a model that fails at hard images would be the best one."""

    class Half(Tiny):
        def validation_step(self, batch: Any, *indices: int) -> dict[str, Tensor]:
            sr = super().validation_step(batch, *indices)["sr"]
            for i, key in enumerate(batch["key"]):
                sr[i, 0, 0, 0] = torch.nan if key == "tiny/02" else 0.5
            return {"sr": sr}

    metric = MeanDifference()
    trainer(tmp_path, metric).validate(Half(), loader(), verbose=False)
    assert math.isnan(metric.records[0]["value"])
    assert metric.records[0]["not_finite"] == 1


def test_a_metric_that_gives_one_number_a_batch(tmp_path: Path) -> None:
    class Pooled(MeanDifference):
        def compute(self, sr: Tensor, hr: Tensor, batch: Any) -> Tensor:
            return (sr - hr).abs().mean()

    with pytest.raises(ValueError, match=r"Pooled.compute gave the shape \(\); expected one value"):
        trainer(tmp_path, Pooled()).validate(Tiny(), loader(), verbose=False)


def test_two_metrics_of_one_name(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"two metrics .* named 'psnr'; .* `label`"):
        trainer(tmp_path, PSNR(), PSNR(color="rgb")).validate(Tiny(), loader(), verbose=False)
    both = [PSNR(), PSNR(color="rgb", label="psnr_rgb")]
    run = trainer(tmp_path, *both)
    run.validate(Tiny(), loader(), verbose=False)
    assert set(run.callback_metrics) == {"val/psnr", "val/psnr_rgb"}


def test_two_datasets_of_one_name(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="two datasets are named 'tiny'"):
        trainer(tmp_path, PSNR()).test(Tiny(), [loader(), loader(Images(3))], verbose=False)


def test_large_sums_are_finite() -> None:
    images = torch.full((2, 3, 300, 300), 1.0, dtype=torch.float16)
    images[1, 0, 7, 7] = torch.nan
    assert are_finite(images).tolist() == [True, False]
