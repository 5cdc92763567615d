"""The benchmark of sampling compares what gives the same image."""

from __future__ import annotations

import pytest
import torch

from benchmarks.speed import sampling


@pytest.fixture(autouse=True)
def reproducible() -> None:
    torch.manual_seed(0)


@pytest.mark.slow
def test_compiled_networks_give_the_same_images() -> None:
    """Traced alone: what a compiler and graphs make of it needs minutes, and a GPU."""
    with torch.inference_mode():
        found = sampling.measure_compiled(48, 1, backend="eager")
    assert [(row["method"], row["how"]) for row in found] == [
        (name, how) for name in ("CasArbi", "ResShift-15") for how in ("compiled", "CUDA graphs")
    ]
    assert max(row["largest_difference"] for row in found) < 1e-5
