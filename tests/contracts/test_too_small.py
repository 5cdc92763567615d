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
# Metrics that measure the small image, too, by its side.
MEASURED = {
    2: {"FID", "KID", "LRConsistency"},
    24: {"KIDThumb", "LRConsistency", "PSNR", "SSIM", "TorchMetric"},
}


def pytest_generate_tests(metafunc):
    classes = discovery.concrete_subclasses(ImageMetric, "callbacks")
    classes += discovery.concrete_subclasses(SetMetric, "callbacks")
    metafunc.parametrize("metric_class", classes, ids=discovery.full_name)


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


@pytest.mark.usefixtures("inception")
@pytest.mark.parametrize("small", [2, 24])
def test_an_image_below_the_window_is_left_out_and_named(
    metric_class, small, tmp_path, caplog, request
):
    """Three images are large, and the fourth, tiny/03, has the side `small`.

    One image that is too small must neither end a test nor change the number of the others. A
    metric without a window measures it, too. Metrics of patches leave out even the large ones.
    """
    if metric_class.target != "hr":
        pytest.skip("it is of clips: see test_video.py")
    if issubclass(metric_class, InceptionMetric) and small != 2:
        pytest.skip("once will do: the network takes its time")
    if not issubclass(metric_class, PatchMetric):  # no image is as large as one of its crops
        request.getfixturevalue("small_inception")
    metric = build(metric_class, EXAMPLES, f"EXAMPLES in {__name__}")
    psnr = PSNR(label="other", border=0)

    with caplog.at_level(logging.WARNING):
        evaluate(tmp_path, [LARGE, LARGE, LARGE, small], metric, psnr, Results())

    if metric.absent():
        pytest.skip(metric.absent())
    assert [record["n"] for record in psnr.records] == [4]  # other metrics go on with all
    warnings = [line for line in caplog.messages if "left out" in line and "tiny/03" in line]
    if metric_class.__name__ in MEASURED[small]:
        assert metric.records[0]["n"] == 4
        assert not warnings
        return
    (warning,) = warnings
    if issubclass(metric_class, PatchMetric):
        assert not metric.records
        return
    assert "1 of 4 images are smaller than" in warning
    assert warning.endswith("left out, so its number is of the other 3: tiny/03")
    stored = [row.metric for row in read_file(tmp_path / "results.json") if row.n == 3]
    of_large = build(metric_class, EXAMPLES, "")
    evaluate(tmp_path / "large", [LARGE, LARGE, LARGE], of_large)
    for record, expected in zip(metric.records, of_large.records, strict=True):
        assert record["n"] == 3
        assert record["protocol"]["images"] == 3
        assert record["metric"] in stored
        assert_close(record["value"], expected["value"], equal_nan=True)
