"""`trainer.precision` with converted weights: a method supports it, or a sentence says why."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from commands.errors import ConfigurationError
from commands.tracebacks import explained_precision
from tests.lightning_modules.tiny import Model

MODEL = Model()


def got(precision: str, model: Any = MODEL) -> Any:
    return explained_precision(cast(Any, SimpleNamespace(precision=precision)), model)


@pytest.mark.parametrize("command", ["fit", "check"])
def test_a_method_that_cannot(tiny: Path, refusal: Callable[..., str], command: str) -> None:
    sentence = refusal(command, "--config", "tiny.yaml", "--trainer.precision", "bf16-true")
    assert sentence.startswith("trainer.precision is bf16-true, which converts all weights")
    assert sentence.endswith("set it to bf16-mixed")


def test_a_part_of_ones_own_that_cannot() -> None:
    message = "mat1 and mat2 must have the same dtype, but got Float and BFloat16"
    with pytest.raises(ConfigurationError, match=r"set it to bf16-mixed"), got("bf16-true"):
        raise RuntimeError(message)


@pytest.mark.parametrize(
    ("precision", "message"),
    [
        ("32-true", "mat1 and mat2 must have the same dtype"),  # a bug of the method's
        ("bf16-mixed", "mat1 and mat2 must have the same dtype"),
        ("bf16-true", "CUDA out of memory"),
        ("bf16-true", "\"lu\" not implemented for 'Int'"),
        ("16-true", "expected scalar type Long but found Float"),
    ],
)
def test_other_errors_pass(precision: str, message: str) -> None:
    with pytest.raises(RuntimeError, match=message), got(precision):
        raise RuntimeError(message)
