"""The benchmark of sampling counts right, and compares what gives the same image."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from benchmarks.speed import sampling
from benchmarks.speed.sampling import Networks, in_turns, taken


@pytest.fixture(autouse=True)
def reproducible() -> None:
    torch.manual_seed(0)


def test_operations_outside_of_networks() -> None:
    x = torch.ones(3)
    inner = SimpleNamespace(forward=lambda: x + 1)
    outer = SimpleNamespace(forward=lambda: inner.forward() * 2)
    networks = Networks((inner, "forward"), (outer, "forward"))
    found = taken(lambda: outer.forward() - inner.forward(), networks, repeats=3)
    assert found["operations"] == 4
    assert found["operations_outside_networks"] == 1
    assert found["network_calls"] == 2
    assert found["outside_networks"] < 1


def test_time_within_networks_counts_once(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]

    def work(seconds: float) -> None:
        now[0] += seconds

    monkeypatch.setattr(sampling, "clock", lambda: now[0])
    inner = SimpleNamespace(forward=lambda: work(2))
    outer = SimpleNamespace(forward=lambda: (inner.forward(), work(1)))
    networks = Networks((inner, "forward"), (outer, "forward"))
    found = taken(lambda: (outer.forward(), work(1)), networks, repeats=2)
    assert found["images_per_s"] == pytest.approx(1 / 4)
    assert found["outside_networks"] == pytest.approx(1 / 4)


def test_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    now, called, pace = [0.0], [], {"ours": 1.0, "plain": 3.0}

    def call(name: str) -> None:
        called.append(name)
        now[0] += pace[name] * (10 if len(called) < 5 else 1)

    monkeypatch.setattr(sampling, "clock", lambda: now[0])
    found = in_turns(lambda: call("ours"), lambda: call("plain"), repeats=3)
    assert called == ["ours", "plain", "plain", "ours"] * 2  # neither is always the second
    assert found == {"ours_s": 1.0, "plain_s": 3.0, "ratio": 3.0}


@pytest.mark.slow
def test_methods(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "SCALES", (3,))
    with torch.inference_mode():
        cascade, long, short = sampling.measure_methods(48, 1)
    # Two stages of 15 steps, each with the base's two calls; the second enlarges by 1.5.
    assert (cascade["method"], cascade["lr"], cascade["network_calls"]) == ("CasArbi", [16, 16], 34)
    assert (long["method"], long["lr"], long["network_calls"]) == ("ResShift-15", [12, 12], 15)
    assert (short["method"], short["hr"], short["network_calls"]) == ("ResShift-4", [48, 48], 4)
    for row in (cascade, long, short):
        assert 0 < row["operations_outside_networks"] < row["operations"]


@pytest.mark.slow
def test_compiled_networks_give_the_same_images() -> None:
    """Traced alone: what a compiler and graphs make of it needs minutes, and a GPU."""
    with torch.inference_mode():
        found = sampling.measure_compiled(48, 1, backend="eager")
    assert [(row["method"], row["how"]) for row in found] == [
        (name, how) for name in ("CasArbi", "ResShift-15") for how in ("compiled", "CUDA graphs")
    ]
    assert max(row["largest_difference"] for row in found) < 1e-5


@pytest.mark.slow
def test_plain_loops_give_the_same_images() -> None:
    with torch.inference_mode():
        # 4 divides 1000; of others diffusers computes some levels one timestep beside the next one.
        assert sampling.measure_ddim(16, 4, 1)["largest_difference"] < 1e-4
        assert sampling.measure_residual_shift(32, 1)["largest_difference"] < 1e-4
