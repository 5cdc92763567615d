"""The benchmark of InvSR: official shapes, and times that belong to the right part."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from benchmarks.speed import invsr
from benchmarks.speed.invsr import CASES, Case, build, parameters


@pytest.fixture(autouse=True)
def reproducible() -> None:
    torch.manual_seed(0)


def test_the_whole_width_is_the_release_s(monkeypatch: pytest.MonkeyPatch) -> None:
    """SD-Turbo's 865,910,724 and 83,653,863 parameters, and the predictor's 33,837,576."""
    prompt = invsr._prompt()
    monkeypatch.setattr(invsr, "_prompt", lambda: prompt)
    with torch.device("meta"):
        found = parameters(build(Case("all"), 1.0))
    assert found == {"predictor": 33_837_576, "unet": 865_910_724, "autoencoder": 83_653_863}


@pytest.mark.slow
def test_plain_attention_changes_no_image() -> None:
    batch: Any = {"lr": torch.rand(1, 3, 32, 32), "size": (128, 128), "key": ["a"]}
    batch["seed"] = torch.tensor([0])
    made = []
    for case in CASES[0], CASES[2]:
        torch.manual_seed(0)
        with torch.inference_mode(), invsr._as(case, "cpu"):
            made.append(build(case, 0.0, patch=32).enlarge(batch)["sr"])
    torch.testing.assert_close(*made, rtol=0, atol=1e-4)
