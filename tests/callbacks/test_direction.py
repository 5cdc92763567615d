"""Which way a value is better: what is known of a name agrees with the metrics themselves."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from typing import Any

import pytest
from callbacks.direction import KNOWN, direction_of

import callbacks
from callbacks.base import Metric
from callbacks.flicker import Flicker
from callbacks.kid_thumb import KIDThumb
from callbacks.psnr import PSNR
from callbacks.swd import SWD
from callbacks.torchmetric import TorchMetric


def own_metrics() -> list[type[Metric]]:
    modules = [
        importlib.import_module(f"callbacks.{info.name}")
        for info in pkgutil.iter_modules(callbacks.__path__)
    ]
    found = {v for m in modules for v in vars(m).values() if isinstance(v, type)}
    return [v for v in found if issubclass(v, Metric) and v.name and not inspect.isabstract(v)]


def test_names_agree_with_the_metrics() -> None:
    metrics = [m for m in own_metrics() if m is not TorchMetric]  # which has it of its arguments
    assert len(metrics) > 20
    for metric in metrics:
        assert KNOWN.get(metric.name) == ("max" if metric.higher_is_better else "min"), metric.name


@pytest.mark.parametrize(
    ("name", "direction"),
    [
        *(("val/psnr", "max"), ("val/set5/psnr", "max"), ("test/set5/ssim", "max")),
        *(("val/swd", "min"), ("val/swd_2", "min"), ("val/a/b/swd_3", "min")),
        *(("val/psnr/dataloader_idx_1", "max"), ("train/loss_step", "min"), ("val_loss", "min")),
        *(("train/loss", "min"), ("val/loss", "min"), ("loss", "min"), ("val/my_loss", "min")),
        *(("train/loss_epoch", "min"), ("train/mse_scale_3", "min"), ("val/2afc", "max")),
        *(("train/bit_accuracy", "max"), ("val/self_ssim_from_x2", "max"), ("val_psnr", "max")),
        *(("val/flicker_static", "min"), ("val/kid_thumb", "min"), ("val/lpips", "min")),
        *(("val/kid_std", None), ("val/flicker_real", None), ("val/score", None)),
        *(("lr-Adam", None), ("val/bits_used", None), ("throughput/share_data", None)),
    ],
)
def test_of_a_name(name: str, direction: str | None) -> None:
    assert direction_of(name) == direction


class Mine(PSNR):
    name = "mine"
    higher_is_better = False


def test_a_metric_of_the_trainer_comes_before_what_is_known_of_its_name() -> None:
    given: list[Any] = [SWD(label="rgb/detail"), Mine(label="psnr"), Mine(), Flicker(), KIDThumb()]
    assert direction_of("val/rgb/detail", given) == "min"
    assert direction_of("val/set5/rgb/detail_2", given) == "min"
    assert direction_of("val/psnr", given) == "min"  # a label
    assert direction_of("val/set5/mine", given) == "min"
    assert direction_of("val/flicker_static_real", given) is None
    assert direction_of("val/kid_thumb_std", given) is None
