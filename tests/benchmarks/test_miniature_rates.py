"""Rates of trainings: whose, and what is said of them."""

from __future__ import annotations

import pytest

from benchmarks import miniature_rates
from benchmarks.miniature_rates import main, tuned
from benchmarks.miniature_rows import METHODS

SELF_CASCADE_VIDEO = METHODS["self_cascade_video"]


def test_what_has_equal_time() -> None:
    assert [*tuned(SELF_CASCADE_VIDEO)] == ["tuned", "finetune", "lora_r4", "lora_r32"]
    assert {n for n, m in METHODS.items() if tuned(m)} == {"self_cascade", "self_cascade_video"}


def test_the_start_drops_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    steps = tuned(SELF_CASCADE_VIDEO)

    def costs(name: str, count: int) -> dict[str, float]:
        assert name == "self_cascade_video"
        return {training: 100.0 + number * count for number, training in enumerate(steps, 1)}

    monkeypatch.setattr(miniature_rates, "costs", costs)
    assert main(["self_cascade_video", "--steps", "2", "6"]) == 0
    said = capsys.readouterr().out
    assert f"\ntuned: 1.000 steps a CPU second; {steps['tuned']} are {steps['tuned']} s, " in said
    assert "\nlora_r32: 0.250 steps a CPU second; " in said


def test_the_second_number_is_the_larger_one() -> None:
    with pytest.raises(SystemExit):
        main(["self_cascade", "--steps", "4", "4"])
