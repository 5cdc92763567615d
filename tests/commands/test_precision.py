"""`trainer.precision` with converted weights: a method supports it, or a sentence says why."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.mark.parametrize("command", ["fit", "check"])
def test_a_method_that_cannot(tiny: Path, refusal: Callable[..., str], command: str) -> None:
    sentence = refusal(command, "--config", "tiny.yaml", "--trainer.precision", "bf16-true")
    assert sentence.startswith("trainer.precision is bf16-true")
    assert sentence.endswith("set it to bf16-mixed")
