"""Outputs with pixels that are not finite: counted, named once, and an error if set."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from callbacks.evaluation import FiniteOutputs, are_finite
from callbacks.metrics.pixels import PSNR
from callbacks.results.results import Results
from tests.callbacks.tiny import Images, Tiny, loader, trainer

BROKEN = {
    "class_path": "tests.callbacks.broken.NaNOutputs",  # of 3.png and 4.png
    "init_args": {},
}


class Broken(Tiny):
    """A model that corrupts one pixel of chosen outputs.

    Args:
        bad: Value by key.
    """

    def __init__(self, bad: dict[str, float]) -> None:
        super().__init__()
        self.bad = bad

    def validation_step(
        self, batch: dict[str, Any], batch_idx: int, dataloader_idx: int = 0
    ) -> dict[str, Tensor]:
        sr = super().validation_step(batch, batch_idx)["sr"].clone()
        for image, key in zip(sr, batch["key"], strict=True):
            image[2, -1, -1] = self.bad.get(key, image[2, -1, -1])
        return {"sr": sr}


BAD = {"tiny/01": float("nan"), "tiny/06": float("inf"), "other/02": float("-inf")}


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.name == "callbacks.evaluation"]


@pytest.mark.parametrize("verb", ["validate", "test"])
def test_named_once_for_all_datasets(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, verb: str
) -> None:
    callback = FiniteOutputs()
    loaders = [loader(batch_size=3), loader(Images(4, "other")), loader(Images(2, "sound"))]
    getattr(trainer(tmp_path, callback), verb)(Broken(BAD), loaders, verbose=False)
    assert callback.found == {"tiny": ["tiny/01", "tiny/06"], "other": ["other/02"]}
    assert said(caplog) == [
        "outputs with pixels that are NaN or infinite: 2 of the 7 of tiny (tiny/01, tiny/06); "
        "1 of the 4 of other (other/02); so their numbers are not finite either"
    ]


def test_large_sums_are_finite() -> None:
    images = torch.full((2, 3, 300, 300), 1.0, dtype=torch.float16)
    images[1, 0, 7, 7] = torch.nan
    assert are_finite(images).tolist() == [True, False]


@pytest.mark.parametrize("verb", ["validate", "test"])
def test_strict_fails_after_the_numbers_are_stored(tmp_path: Path, verb: str) -> None:
    """The callback comes first, and its error last."""
    run = trainer(tmp_path, FiniteOutputs(strict=True), PSNR(), Results())
    with pytest.raises(ValueError, match=r"1 of the 7 of tiny \(tiny/01\); FiniteOutputs.strict"):
        getattr(run, verb)(Broken({"tiny/01": float("nan")}), loader(), verbose=False)
    results = json.loads((tmp_path / "results.json").read_text())["results"]
    assert [r["value"] for r in results] == ["nan"]


def test_strict_stops_training_at_the_validation(tmp_path: Path) -> None:
    callback = FiniteOutputs(strict=True)
    run = trainer(tmp_path, callback, max_epochs=3, num_sanity_val_steps=2)
    with pytest.raises(ValueError, match="strict allows none"):
        run.fit(Broken(BAD), loader(), loader())
    assert run.global_step == 4  # an epoch; the sanity check does not count
