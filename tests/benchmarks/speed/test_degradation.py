"""The benchmark of degradation: what compiling gains, without the compiler, which needs minutes."""

from __future__ import annotations

import pytest
import torch

from benchmarks.speed import degradation


@pytest.mark.slow
def test_gains(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(degradation, "BATCH", 2)
    found = degradation.gains(1, torch.device("cpu"), side=64, backend="eager")
    assert list(found) == ["as it is", "compiled", "CUDA graphs"]
    assert found["as it is"]["times_as_fast"] == 1
    assert all(row["mean_ms"] > 0 for row in found.values())
