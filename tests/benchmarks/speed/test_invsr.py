"""The benchmark of InvSR: official shapes, and times that belong to the right part."""

from __future__ import annotations

import pytest
import torch

from benchmarks.speed import invsr
from benchmarks.speed.invsr import Case, build, parameters


def test_the_whole_width_is_the_release_s(monkeypatch: pytest.MonkeyPatch) -> None:
    """SD-Turbo's 865,910,724 and 83,653,863 parameters, and the predictor's 33,837,576."""
    prompt = invsr._prompt()
    monkeypatch.setattr(invsr, "_prompt", lambda: prompt)
    with torch.device("meta"):
        found = parameters(build(Case("all"), 1.0))
    assert found == {"predictor": 33_837_576, "unet": 865_910_724, "autoencoder": 83_653_863}
