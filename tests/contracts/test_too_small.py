"""Every metric leaves out images below its window: the test goes on, they are named and counted."""

from __future__ import annotations

import functools
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule
from torch import Tensor
from torchmetrics.image import UniversalImageQualityIndex

from callbacks.metrics.base import ImageMetric, Metric
from callbacks.metrics.fid import InceptionMetric, PatchMetric
from callbacks.metrics.iqa import IQA
from callbacks.metrics.pixels import PSNR
from callbacks.metrics.sets import SetMetric
from callbacks.metrics.torchmetric import TorchMetric
from callbacks.results.files import read_file
from callbacks.results.results import Results
from tests.callbacks.random_inception import inception, inception_file, small_inception
from tests.callbacks.tiny import Images, loader, trainer
from tests.contracts import discovery
from tests.contracts.arguments import build
from tests.contracts.test_set_metrics import EXAMPLES as OF_SETS

__all__ = ["inception", "inception_file", "small_inception"]

EXAMPLES = {
    **OF_SETS,
    IQA: lambda: IQA("musiq"),
    TorchMetric: lambda: TorchMetric(UniversalImageQualityIndex, smallest=11),
}
SMALL = 2  # number of the small image
LARGE = 208  # four blocks of NIQE


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "metric_class" in metafunc.fixturenames:
        classes = discovery.concrete_subclasses(ImageMetric, "callbacks")
        classes += discovery.concrete_subclasses(SetMetric, "callbacks")
        metafunc.parametrize("metric_class", classes, ids=discovery.full_name)


class OneSmall(Images):
    """Of which one is smaller than the others."""

    def __init__(self, n: int, small: int) -> None:
        super().__init__(n, side=LARGE)
        self.small = small

    def __getitem__(self, index: int) -> dict[str, Any]:
        self.side = self.small if index == SMALL else LARGE
        return super().__getitem__(index)


class Others(OneSmall):
    """The same without it."""

    def __init__(self) -> None:
        super().__init__(4, LARGE)
        self.wanted = [n for n in range(4) if n != SMALL]

    def __len__(self) -> int:
        return len(self.wanted)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return super().__getitem__(self.wanted[index])


class Darker(LightningModule):
    """What it gives for an image depends on that image alone."""

    def validation_step(
        self, batch: dict[str, Any], batch_idx: int, dataloader_idx: int = 0
    ) -> dict[str, Tensor]:
        return {"sr": batch["hr"] * 0.9}

    test_step = validation_step


def evaluated(folder: Path, metric: Metric, small: int, *others: Any) -> list[Any]:
    run = trainer(folder, metric, *others)
    run.test(Darker(), loader(OneSmall(4, small), batch_size=1), verbose=False)
    if metric.absent():
        pytest.skip(metric.absent())
    return metric.records


@pytest.mark.usefixtures("inception")
@pytest.mark.parametrize("small", [2, 24])
def test_an_image_below_the_window_is_left_out_and_named(
    metric_class,
    small,
    tmp_path,
    caplog,
    request,
):
    make = functools.partial(build, metric_class, EXAMPLES, f"EXAMPLES in {__name__}")
    if metric_class.target != "hr":
        pytest.skip("it is of clips: see test_video.py")
    if issubclass(metric_class, InceptionMetric) and small != 2:
        pytest.skip("once will do: the network takes its time")
    if not issubclass(metric_class, PatchMetric):  # no image is as large as one of its crops
        request.getfixturevalue("small_inception")
    psnr = PSNR(label="other", border=0)
    with caplog.at_level(logging.WARNING):
        records = evaluated(tmp_path / "one", make(), small, psnr, Results())
    assert [record["n"] for record in psnr.records] == [4]  # it went on
    stored = read_file(tmp_path / "one" / "results.json")
    name = f"tiny/{SMALL:02d}"
    warned = [line for line in caplog.messages if "left out" in line and name in line]
    if issubclass(metric_class, PatchMetric):
        assert not records  # all are smaller than a crop
        assert len(warned) == 1
        return
    if records[0]["n"] == 4:
        assert not warned
        return
    assert len(warned) == 1
    assert "1 of 4 images are smaller than" in warned[0]
    assert warned[0].endswith(f"left out, so its number is of the other 3: {name}")
    for record in records:
        assert record["n"] == record["protocol"]["images"] == 3
        assert record["metric"] in [row.metric for row in stored if row.n == 3]
    without = make()
    trainer(tmp_path, without).test(Darker(), loader(Others(), batch_size=1), verbose=False)
    for alone, record in zip(without.records, records, strict=True):
        torch.testing.assert_close(record["value"], alone["value"], equal_nan=True)
