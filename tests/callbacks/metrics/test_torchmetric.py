"""TorchMetric: numbers of torchmetrics called by hand."""

from __future__ import annotations

from functools import partial

import pytest
import torch
import torchmetrics
from torch import nn
from torchmetrics.image import (
    LearnedPerceptualImagePatchSimilarity,
    PeakSignalNoiseRatio,
    StructuralSimilarityIndexMeasure,
    TotalVariation,
    UniversalImageQualityIndex,
    VisualInformationFidelity,
)

from callbacks.metrics.pixels import to_pixels
from callbacks.metrics.torchmetric import TorchMetric
from callbacks.results.files import read_file
from callbacks.results.results import Results
from tests.callbacks.tiny import Double, Images, NoHR, Tiny, loader, outputs, trainer
from tests.make import keys

SIDE = 48  # VIF needs 41
PSNR = partial(PeakSignalNoiseRatio, data_range=1.0)
SSIM = partial(StructuralSimilarityIndexMeasure, data_range=1.0)


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
        (PSNR, "peak_signal_noise_ratio"),
        (SSIM, "structural_similarity_index_measure"),
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

    metric = TorchMetric(PSNR, inputs=("sr", "lr"))

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
        self.inner = PSNR()

    def update(self, sr, hr):
        self.inner.update(sr, hr)

    def compute(self):
        return self.inner.compute() / 2


def test_no_metric_waits_for_other_processes(monkeypatch):
    """Also none within another: processes have different numbers of images."""
    monkeypatch.setattr("torchmetrics.metric.jit_distributed_available", lambda: True)
    sr, hr = rounded(1)
    whole = TorchMetric(PSNR)
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
    metric = TorchMetric(SSIM)
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
