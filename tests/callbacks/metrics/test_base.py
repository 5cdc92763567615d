"""Metrics of images: which images count, what is logged and recorded, and what is refused."""

from __future__ import annotations

import importlib
import math

import pytest
import torch
import yaml
from torch.utils.data import DataLoader

from callbacks.evaluation import are_finite
from callbacks.metrics.base import ImageMetric
from callbacks.metrics.pixels import PSNR
from tests.callbacks.tiny import Double, Images, NoHR, Tiny, collate, loader, outputs, trainer
from tests.conftest import REPO


class MeanDifference(ImageMetric):
    """A metric as a user writes it."""

    name = "mae"
    higher_is_better = False

    def protocol(self):
        return {"implementation": "test", "weights": None}

    def compute(self, sr, hr, batch):
        return (sr - hr).abs().mean((1, 2, 3))


def mean_difference(count=7):
    """What it gives for the tiny model."""
    sr, hr = outputs(count)
    return (sr - hr).abs().mean().item()


@pytest.mark.parametrize("batch_size", [1, 3])
def test_the_mean_of_all_images_is_logged_and_recorded(tmp_path, batch_size):
    metric = MeanDifference()
    run = trainer(tmp_path, metric)

    run.validate(Tiny(), loader(batch_size=batch_size), verbose=False)

    [record] = metric.records
    value = record.pop("value")
    assert value == pytest.approx(mean_difference(), rel=1e-6)
    assert record == {
        "dataset": "tiny",
        "scale": 2.0,
        "metric": "mae",
        "n": 7,
        "protocol": {"implementation": "test", "weights": None},
    }
    assert run.callback_metrics["val/mae"].item() == pytest.approx(value, rel=1e-6)


def test_a_metric_of_a_user_may_write_into_the_images(tmp_path):
    class Spoils(MeanDifference):
        def compute(self, sr, hr, batch):
            difference = hr.sub_(sr).abs().mean((1, 2, 3))
            sr.zero_()
            return difference

    psnr = PSNR(border=0)
    alone = PSNR(border=0)

    trainer(tmp_path, Spoils(), psnr).validate(Tiny(), loader(), verbose=False)
    trainer(tmp_path, alone).validate(Tiny(), loader(), verbose=False)

    assert psnr.records == alone.records


def test_compute_sees_the_scale_of_its_dataset(tmp_path):
    class Scale(MeanDifference):
        def compute(self, sr, hr, batch):
            return torch.full((len(sr),), self.scale)

    metric = Scale()
    datasets = [loader(Images(3, "a")), loader(Images(3, "b", scale=4))]

    trainer(tmp_path, metric).test(Tiny(), datasets, verbose=False)

    assert [record["value"] for record in metric.records] == [2.0, 4.0]


def test_a_repeated_image_counts_once(tmp_path):
    padded = DataLoader(Images(), 2, sampler=[0, 1, 2, 3, 4, 5, 6, 0], collate_fn=collate)
    metric = MeanDifference()

    trainer(tmp_path, metric).validate(Tiny(), padded, verbose=False)

    assert metric.records[0]["n"] == 7
    assert metric.records[0]["value"] == pytest.approx(mean_difference(), rel=1e-6)


def test_a_part_of_the_dataset_is_in_the_protocol(tmp_path):
    metric = MeanDifference()

    trainer(tmp_path, metric, limit_val_batches=2).validate(Tiny(), loader(), verbose=False)

    assert metric.records[0]["value"] == pytest.approx(mean_difference(4), rel=1e-6)
    assert metric.records[0]["protocol"]["images"] == 4


def test_images_without_hr_have_metrics_that_need_none(tmp_path, caplog):
    class Brightness(MeanDifference):
        name = "brightness"
        needs_hr = False

        def compute(self, sr, hr, batch):
            return sr.mean((1, 2, 3))

    with_reference = MeanDifference()
    without = Brightness()

    trainer(tmp_path, with_reference, without).validate(Double(), loader(NoHR()), verbose=False)

    assert with_reference.records == []
    assert without.records[0]["n"] == 7
    assert "no mae on tiny: no image with HR" in caplog.text


def test_a_value_that_is_not_finite_is_left_out_and_named(tmp_path, caplog):
    class Undefined(MeanDifference):
        def compute(self, sr, hr, batch):
            return torch.tensor([math.nan if key == "tiny/03" else 1.0 for key in batch["key"]])

    metric = Undefined()

    trainer(tmp_path, metric).validate(Tiny(), loader(), verbose=False)

    [record] = metric.records
    assert record["value"] == 1.0
    assert record["n"] == 7
    assert record["not_finite"] == 1
    assert "the mean is of the other 6: tiny/03 (nan)" in caplog.text


def test_an_output_with_a_broken_pixel_is_not_left_out_of_the_mean(tmp_path):
    """Otherwise a model that fails at hard images would be the best one."""

    class BrokenOnce(Tiny):
        def validation_step(self, batch, *indices):
            sr = super().validation_step(batch, *indices)["sr"]
            if "tiny/02" in batch["key"]:
                sr[0, 0, 0, 0] = torch.nan
            return {"sr": sr}

    metric = MeanDifference()

    trainer(tmp_path, metric).validate(BrokenOnce(), loader(), verbose=False)

    assert math.isnan(metric.records[0]["value"])
    assert metric.records[0]["not_finite"] == 1


def test_large_images_of_float16_are_finite():
    """Also where their sum is not."""
    images = torch.full((2, 3, 300, 300), 1.0, dtype=torch.float16)
    images[1, 0, 7, 7] = torch.nan

    assert are_finite(images).tolist() == [True, False]


class Pooled(MeanDifference):
    def compute(self, sr, hr, batch):
        return (sr - hr).abs().mean()


@pytest.mark.parametrize(
    ("metrics", "names", "words"),
    [
        ([PSNR(), PSNR(color="rgb")], ["a"], "two metrics .* named 'psnr'; .* `label`"),
        ([PSNR()], ["a", "a"], "two datasets are named 'a'"),
        ([Pooled()], ["a"], r"Pooled.compute gave the shape \(\); expected one value"),
    ],
)
def test_refusals(tmp_path, metrics, names, words):
    datasets = [loader(Images(3, name)) for name in names]

    with pytest.raises(ValueError, match=words):
        trainer(tmp_path, *metrics).test(Tiny(), datasets, verbose=False)


# ------------------------------------------------------------------ presets of configs/callbacks


def protocols(preset):
    """The protocols of a preset's metrics, by their names."""
    result = {}
    for entry in yaml.safe_load((REPO / f"configs/callbacks/{preset}.yaml").read_text()):
        if isinstance(entry, str):
            entry = {"class_path": entry}
        module, _, name = entry["class_path"].rpartition(".")
        metric = getattr(importlib.import_module(module), name)(**entry.get("init_args", {}))
        result[metric.name] = metric.protocol() | {"needs_hr": metric.needs_hr}
    return result


@pytest.mark.parametrize(
    ("preset", "metric", "expected"),
    [
        ("liif-div2k", "psnr", {"color": "rgb", "border": "scale+6", "round_8bit": False}),
        ("idm-faces", "psnr", {"color": "rgb", "border": 0}),
        ("idm-faces", "lpips", {"net": "alex"}),
        *[
            (preset, metric, {"color": "y", "border": 0})
            for preset in ("invsr-imagenet", "resshift", "nsarm-real")
            for metric in ("psnr", "ssim")
        ],
        ("selfcascade-fid", "fid", {"preset": "clean-fid", "needs_hr": False}),
        ("selfcascade-fid", "kid", {"needs_hr": False}),
        ("selfcascade-fid", "pfid", {"needs_hr": False}),
        ("clean-fid", "fid", {"preset": "clean-fid"}),
        ("torch-fidelity", "fid", {"preset": "torch-fidelity"}),
    ],
)
def test_presets_measure_as_in_their_papers(preset, metric, expected):
    protocol = protocols(preset)[metric]

    assert {name: protocol[name] for name in expected} == expected
