"""SelfSSIM: pairs of scales, what is compared, and errors."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from callbacks.metrics.consistency import SelfSSIM
from callbacks.metrics.pixels import ssim, to_pixels
from degradations.bicubic import resize
from tests.callbacks.tiny import Images, loader, trainer


class Sized(Images):
    """The same images at each scale, 16 times the scale wide."""

    def __init__(self, name: str, scale: float, n: int = 3) -> None:
        super().__init__(n, name, scale)
        self.side = int(16 * scale)

    def __getitem__(self, index: int) -> dict[str, Any]:
        lr = torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(index))
        hr = torch.zeros(3, self.side, self.side)
        return {"key": self.keys[index], "seed": index, "hr": hr, "lr": lr}


class Enlarges(LightningModule):
    """By bicubic; darker at larger scales."""

    def validation_step(
        self, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> dict[str, Tensor]:
        size = batch["hr"].shape[-2:]
        return {"sr": resize(batch["lr"], size) * (1 - size[0] / 320)}


def output(index: int, scale: int) -> Tensor:
    sample = Sized("x", scale)[index]
    sr = resize(sample["lr"][None], (16 * scale, 16 * scale)) * (1 - 16 * scale / 320)
    return (sr * 255).round() / 255


def expected(a: int, b: int, n: int = 3) -> float:
    total = 0.0
    for index in range(n):
        first, second = output(index, a), output(index, b)
        first = resize(first, second.shape[-2:])
        total += ssim(to_pixels(first, "y"), to_pixels(second, "y")).item()
    return total / n


def test_outputs_below_the_window_are_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class OneSmall(Sized):
        def __getitem__(self, index: int) -> dict[str, Any]:
            sample = super().__getitem__(index)
            if index == 1:
                for name in ("hr", "lr"):
                    side = sample[name].shape[-1] // 4
                    sample[name] = sample[name][..., :side, :side]
            return sample

    sets = [loader(OneSmall("a", 2), batch_size=1), loader(OneSmall("b", 4), batch_size=1)]
    trainer(tmp_path, metric := SelfSSIM()).validate(Enlarges(), sets, verbose=False)
    found = {(r["dataset"], r["metric"]): r["n"] for r in metric.records}
    assert found == {("b", "self_ssim_from_x2"): 3, ("a", "self_ssim_from_x4"): 2}
    assert "self_ssim_from_x4 of a: 1 of 3 images are smaller than 11x11 pixels" in caplog.text
    assert "left out, so its number is of the other 2: a/01" in caplog.text


def validate(tmp_path: Path, model: LightningModule, metric: SelfSSIM, *sets: Sized) -> Any:
    run = trainer(tmp_path, metric)
    run.validate(model, [loader(x) for x in sets], verbose=False)
    return run


def test_every_pair_of_scales_both_ways(tmp_path: Path) -> None:
    metric = SelfSSIM()
    sets = Sized("a", 2), Sized("b", 3), Sized("c", 4)
    for _ in range(2):  # nothing is left from the evaluation before
        run = validate(tmp_path, Enlarges(), metric, *sets)
        found = {(r["dataset"], r["metric"]): r["value"] for r in metric.records}
        assert found == {
            ("b", "self_ssim_from_x2"): pytest.approx(expected(2, 3), abs=1e-9),
            ("a", "self_ssim_from_x3"): pytest.approx(expected(3, 2), abs=1e-9),
            ("c", "self_ssim_from_x2"): pytest.approx(expected(2, 4), abs=1e-9),
            ("a", "self_ssim_from_x4"): pytest.approx(expected(4, 2), abs=1e-9),
            ("c", "self_ssim_from_x3"): pytest.approx(expected(3, 4), abs=1e-9),
            ("b", "self_ssim_from_x4"): pytest.approx(expected(4, 3), abs=1e-9),
        }
        assert run.callback_metrics["val/c/self_ssim_from_x2"].item() == pytest.approx(
            found["c", "self_ssim_from_x2"]
        )
    assert {r["scale"] for r in metric.records if r["dataset"] == "c"} == {4.0}
    assert metric.records[0]["protocol"]["implementation"] == "enlarger self_ssim 1"
    assert expected(2, 4) != pytest.approx(expected(4, 2), abs=1e-4)


def test_names_that_two_sets_share(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """For example Set5 and Set14 at two scales each, if their images are named by numbers."""
    metric = SelfSSIM()
    sets = Sized("a", 2), Sized("a_x4", 4), Sized("b", 2), Sized("c", 3)
    with caplog.at_level(logging.WARNING):
        run = validate(tmp_path, Enlarges(), metric, *sets)
    found = {(r["dataset"], r["metric"]) for r in metric.records}
    assert found == {
        *(("a", "self_ssim_from_x3"), ("a", "self_ssim_from_x4"), ("b", "self_ssim_from_x3")),
        *(("b", "self_ssim_from_x4"), ("c", "self_ssim_from_x4"), ("a_x4", "self_ssim_from_x3")),
    }
    assert "no self_ssim_from_x2 of a_x4: 2 datasets of that scale" in caplog.text
    assert "val/a_x4/self_ssim_from_x2" not in run.callback_metrics


def test_bad_pixels_name_their_image(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Breaks(Enlarges):
        def validation_step(self, batch: Any, *rest: Any) -> dict[str, Tensor]:
            sr = super().validation_step(batch, *rest)["sr"]
            if "a/01" in batch["key"]:
                sr[batch["key"].index("a/01"), 0, 3, 3] = math.inf
            return {"sr": sr}

    metric = SelfSSIM()
    with caplog.at_level(logging.WARNING):
        validate(tmp_path, Breaks(), metric, Sized("a", 2), Sized("b", 4))
    assert [math.isnan(r["value"]) for r in metric.records] == [True, True]
    assert (
        "self_ssim_from_x2 of b: 1 of 3 images have pixels that are not finite: 01" in caplog.text
    )
