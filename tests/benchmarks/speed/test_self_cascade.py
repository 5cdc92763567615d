"""What Self-Cascade costs: calls as in the paper, and the operations that follow from them."""

from __future__ import annotations

import pytest

from benchmarks.speed import self_cascade
from lightning_modules.backbone.denoiser import UNet2D
from lightning_modules.backbone.library import Flags
from lightning_modules.sampling.solvers import Sampler


@pytest.mark.slow
def test_the_calls_are_the_papers(monkeypatch: pytest.MonkeyPatch) -> None:
    assert self_cascade.counted()["tuned"] == {"whole 8": 50, "whole 16": 35, "way down 8": 1}
    monkeypatch.setattr(Sampler.__init__, "__defaults__", (40, *Sampler.__init__.__defaults__[1:]))
    with pytest.raises(RuntimeError, match=r"called the network .* expected"):
        self_cascade.counted()


@pytest.mark.slow
def test_calls_are_timed_on_a_device_that_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def small(device: str) -> UNet2D:
        network = {**self_cascade.SMALL, "in_channels": 4, "out_channels": 4}
        network |= {"cross_attention_dim": 1024}
        return UNet2D(network, flags=Flags(frozen=True)).to(device)

    monkeypatch.setattr(self_cascade, "base", small)
    found = self_cascade.seconds(16, 1, 0, "cpu")
    assert found["peak_mib"].keys() == found["seconds"].keys()


@pytest.mark.slow
def test_operations_at_stable_diffusions_size() -> None:
    """The cost model's numbers, through the method's own calls."""
    found = self_cascade.operations()
    assert found["gmac"]["small"] == 402.1
    assert found["gmac"]["whole"] == 2337.5
    assert found["of direct"] == {
        **{"tuning-free": 0.872, "tuned, shared": 0.874, "tuned, full": 0.932}
    }
