"""What a metric is: means, values that are not finite, parts of a set; torchmetrics' ones."""

from __future__ import annotations

import importlib
import math
from functools import partial

import pytest
import torch
import torchmetrics
import yaml
from torch import nn
from torch.utils.data import DataLoader
from torchmetrics.image import (
    LearnedPerceptualImagePatchSimilarity,
    PeakSignalNoiseRatio,
    StructuralSimilarityIndexMeasure,
    TotalVariation,
    UniversalImageQualityIndex,
    VisualInformationFidelity,
)

from callbacks.evaluation import are_finite
from callbacks.metrics.base import ImageMetric
from callbacks.metrics.pixels import PSNR, to_pixels
from callbacks.metrics.torchmetric import TorchMetric
from callbacks.results.files import read_file
from callbacks.results.results import Results
from tests.callbacks.tiny import Double, Images, NoHR, Tiny, collate, loader, outputs, trainer
from tests.conftest import REPO
from tests.make import keys


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


# ------------------------------------------------------------------------------------- TorchMetric


SIDE = 48  # VIF needs 41
THEIR_PSNR = partial(PeakSignalNoiseRatio, data_range=1.0)
THEIR_SSIM = partial(StructuralSimilarityIndexMeasure, data_range=1.0)


def rounded(count=7):
    """The tiny model's outputs, and HR, of whole levels."""
    return [(x * 255).round() / 255 for x in outputs(count, SIDE)]


def by_hand(make, sr, hr):
    """The library's number of each image."""
    values = []
    for n in range(len(sr)):
        metric = make()
        metric.update(sr[n : n + 1], hr[n : n + 1])
        values.append(float(metric.compute()))
    return values


def evaluated(folder, metric, batch_size=2):
    """The metric's number of each image."""
    data = loader(Images(7, side=SIDE), batch_size)
    trainer(folder, metric).test(Tiny(), data, verbose=False)
    return list(metric.images["tiny"].values())


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize(
    ("make", "name"),
    [
        (THEIR_PSNR, "peak_signal_noise_ratio"),
        (THEIR_SSIM, "structural_similarity_index_measure"),
        (UniversalImageQualityIndex, "universal_image_quality_index"),
        (VisualInformationFidelity, "visual_information_fidelity"),
    ],
)
def test_the_mean_of_the_librarys_numbers(tmp_path, make, name, batch_size):
    metric = TorchMetric(make)

    values = evaluated(tmp_path, metric, batch_size)

    expected = by_hand(make, *rounded())
    assert metric.name == name
    assert values == pytest.approx(expected, rel=1e-6)
    assert metric.records[0]["value"] == pytest.approx(sum(expected) / 7, rel=1e-6)


@pytest.mark.parametrize(
    ("settings", "data_range", "change"),
    [
        ({"color": "y"}, 1.0, lambda x: to_pixels(x, "y").float() / 255),
        ({"pixels": "signed"}, 1.0, lambda x: x * 2 - 1),
        ({"pixels": "uint8"}, 255.0, lambda x: (x * 255).round().byte()),
    ],
)
def test_the_library_sees_other_colours_and_ranges(tmp_path, settings, data_range, change):
    seen = []

    class Seen(PeakSignalNoiseRatio):
        def update(self, sr, hr):
            seen.append(sr)
            super().update(sr.float(), hr.float())

    make = partial(Seen, data_range=data_range)
    images = [change(x) for x in rounded()]

    values = evaluated(tmp_path, TorchMetric(make, **settings))

    assert seen[0].dtype == images[0].dtype
    torch.testing.assert_close(torch.cat(seen), images[0])
    assert values == pytest.approx(by_hand(make, *images), rel=1e-5)


def test_outputs_alone(tmp_path):
    metric = TorchMetric(partial(TotalVariation, reduction="mean"), inputs=("sr",))

    trainer(tmp_path, metric).validate(Double(), loader(NoHR(3)), verbose=False)

    assert metric.records[0]["n"] == 3
    assert not metric.higher_is_better


def test_outputs_beside_lr_of_their_size(tmp_path):
    class Darker(Tiny):
        def test_step(self, batch, *indices):
            return {"sr": batch["lr"] * 0.5}

    class SameSize(Images):
        def __getitem__(self, index):
            sample = super().__getitem__(index)
            return sample | {"hr": sample["lr"]}

    metric = TorchMetric(THEIR_PSNR, inputs=("sr", "lr"))

    trainer(tmp_path, metric).test(Darker(), loader(SameSize(3)), verbose=False)

    lr = torch.stack([SameSize(3)[n]["lr"] for n in range(3)])
    difference = ((lr * 255).round() - (lr * 0.5 * 255).round()) / 255
    expected = -10 * difference.square().mean((1, 2, 3)).log10()
    values = list(metric.images["tiny"].values())
    assert values == pytest.approx(expected.tolist(), rel=1e-5)


class Half(torchmetrics.Metric):
    """Half of PSNR, by a metric in it."""

    higher_is_better = True

    def __init__(self):
        super().__init__()
        self.inner = THEIR_PSNR()

    def update(self, sr, hr):
        self.inner.update(sr, hr)

    def compute(self):
        return self.inner.compute() / 2


def test_no_metric_waits_for_other_processes(monkeypatch):
    """Also none within another: processes have different numbers of images."""
    monkeypatch.setattr("torchmetrics.metric.jit_distributed_available", lambda: True)
    sr, hr = rounded(1)
    whole = TorchMetric(THEIR_PSNR)
    whole.load()
    half = TorchMetric(Half)
    half.load()

    assert half.compute(sr, hr, keys(1)) == whole.compute(sr, hr, keys(1)) / 2


def test_what_a_metric_draws_is_the_same_for_each_image_in_any_batch(tmp_path):
    class Drawn(Half):
        def compute(self):
            return torch.rand(())

    values = evaluated(tmp_path, TorchMetric(Drawn), batch_size=3)

    assert len(set(values)) == 1


def test_the_protocol_has_all_arguments(tmp_path):
    metric = TorchMetric(THEIR_SSIM)
    data = loader(Images(2, side=SIDE))

    trainer(tmp_path, metric, Results()).test(Tiny(), data, verbose=False)

    [row] = read_file(tmp_path / "results.json")
    name = "torchmetrics.image.ssim.StructuralSimilarityIndexMeasure"
    assert row.protocol["implementation"] == f"torchmetrics {torchmetrics.__version__}, {name}"
    assert row.protocol["data_range"] == 1.0
    assert row.protocol["sigma"] == 1.5
    assert row.protocol["k2"] == 0.03
    assert row.protocol["per"] == "image"
    assert row.protocol["inputs"] == "sr, hr"
    assert row.protocol["pixels"] == "float32 in [0, 1]"


def test_other_weights_are_another_protocol():
    def lpips():
        make = partial(LearnedPerceptualImagePatchSimilarity, net_type=nn.Linear(2, 2))
        return TorchMetric(make, higher_is_better=False)

    assert lpips().protocol() != lpips().protocol()
