"""Every metric leaves out images below its window: the test goes on, they are named and counted."""

from __future__ import annotations

import logging

import pytest
from torch.testing import assert_close
from torchmetrics.image import UniversalImageQualityIndex

from callbacks.metrics.base import ImageMetric
from callbacks.metrics.fid import InceptionMetric, PatchMetric
from callbacks.metrics.iqa import IQA
from callbacks.metrics.pixels import PSNR
from callbacks.metrics.sets import SetMetric
from callbacks.metrics.torchmetric import TorchMetric
from callbacks.results.files import read_file
from callbacks.results.results import Results
from tests.callbacks.random_inception import inception, inception_file, small_inception
from tests.callbacks.tiny import Images, Tiny, loader, trainer
from tests.contracts import discovery
from tests.contracts.arguments import build
from tests.contracts.test_set_metrics import EXAMPLES as OF_SETS

__all__ = ["inception", "inception_file", "small_inception"]

EXAMPLES = {
    **OF_SETS,
    IQA: lambda: IQA("musiq"),
    TorchMetric: lambda: TorchMetric(UniversalImageQualityIndex, smallest=11),
}
LARGE = 208  # four blocks of NIQE
# Metrics that measure a small image, too, by its side.
MEASURED = {
    2: {"FID", "KID", "LRConsistency"},
    24: {"KIDThumb", "LRConsistency", "PSNR", "SSIM", "TorchMetric"},
}


def kind_of(cls, small):
    if issubclass(cls, PatchMetric):
        return "of_crops"
    return "fitting" if cls.__name__ in MEASURED[small] else "windowed"


def pytest_generate_tests(metafunc):
    """Give each test the metrics of its kind, with the sides of a small image."""
    classes = discovery.concrete_subclasses(ImageMetric, "callbacks")
    classes += discovery.concrete_subclasses(SetMetric, "callbacks")
    (kind,) = {"of_crops", "fitting", "windowed"}.intersection(metafunc.fixturenames)
    cases = [
        pytest.param((cls, small), id=f"{cls.__name__}-{small}")
        for small in MEASURED
        for cls in classes
        if kind_of(cls, small) == kind
        if cls.target == "hr"  # those of clips: see test_video.py
        if small == 2 or not issubclass(cls, InceptionMetric)  # whose network takes its time
    ]
    metafunc.parametrize(kind, cases)


class Sized(Images):
    """Square images with these sides."""

    def __init__(self, *sides):
        super().__init__(len(sides))
        self.sides = sides

    def __getitem__(self, index):
        self.side = self.sides[index]
        return super().__getitem__(index)


def evaluate(folder, sides, *metrics):
    trainer(folder, *metrics).test(Tiny(), loader(Sized(*sides), batch_size=1), verbose=False)


def measured(case, folder, caplog):
    """The metric of a case after a test of four images, and warnings that name the small one."""
    cls, small = case
    metric = build(cls, EXAMPLES, f"EXAMPLES in {__name__}")
    psnr = PSNR(label="other", border=0)
    with caplog.at_level(logging.WARNING):
        evaluate(folder, [LARGE, LARGE, LARGE, small], metric, psnr, Results())
    if metric.absent():
        pytest.skip(metric.absent())
    assert [record["n"] for record in psnr.records] == [4]  # other metrics go on with all
    return metric, [line for line in caplog.messages if "left out" in line and "tiny/03" in line]


@pytest.mark.usefixtures("small_inception")
def test_a_metric_measures_a_small_image_that_is_not_below_its_window(fitting, tmp_path, caplog):
    metric, warnings = measured(fitting, tmp_path, caplog)
    assert metric.records[0]["n"] == 4
    assert not warnings


@pytest.mark.usefixtures("inception")
def test_a_metric_of_crops_has_no_number_of_images_below_a_crop(of_crops, tmp_path, caplog):
    """Its crops have 299 pixels a side, so that even the large images are left out."""
    metric, warnings = measured(of_crops, tmp_path, caplog)
    assert not metric.records
    assert len(warnings) == 1


@pytest.mark.usefixtures("small_inception")
def test_a_metric_leaves_an_image_below_its_window_out_and_names_it(windowed, tmp_path, caplog):
    """Else one small image would end the test, or change the number of the others."""
    metric, (warning,) = measured(windowed, tmp_path, caplog)

    assert "1 of 4 images are smaller than" in warning
    assert warning.endswith("left out, so its number is of the other 3: tiny/03")
    stored = [row.metric for row in read_file(tmp_path / "results.json") if row.n == 3]
    of_large = build(type(metric), EXAMPLES, "")
    evaluate(tmp_path / "large", [LARGE, LARGE, LARGE], of_large)
    for record, expected in zip(metric.records, of_large.records, strict=True):
        assert record["n"] == 3
        assert record["protocol"]["images"] == 3
        assert record["metric"] in stored
        assert_close(record["value"], expected["value"], equal_nan=True)
