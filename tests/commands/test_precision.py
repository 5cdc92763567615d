"""`trainer.precision` with converted weights: a method supports it, or a sentence says why."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from lightning.pytorch.plugins.precision import HalfPrecision

from commands.errors import ConfigurationError
from commands.tracebacks import explained_precision
from tests.contracts.model_contract import SCALE, batch_of
from tests.contracts.test_models import EXAMPLES
from tests.lightning_modules.tiny import Model

MODEL = Model()
CAN = {"NSARM", "Diffusion", "Direct", "FineTune", "LoRA", "SDSR", "Bicubic", "FolderOutputs"}


def told(precision: str, model: Any = MODEL) -> Any:
    return explained_precision(cast(Any, SimpleNamespace(precision=precision)), model)


@pytest.mark.parametrize("command", ["fit", "check"])
def test_a_method_that_cannot(tiny: Path, refusal: Callable[..., str], command: str) -> None:
    sentence = refusal(command, "--config", "tiny.yaml", "--trainer.precision", "bf16-true")
    assert sentence.startswith("trainer.precision is bf16-true, in which Regression with these")
    assert sentence.endswith("should be the same): set it to bf16-mixed")


@pytest.mark.parametrize(
    ("cls", "variant"),
    [(cls, variant) for cls, variants in EXAMPLES.items() for variant in variants],
)
@pytest.mark.parametrize("precision", ["bf16-true", "16-true"])
def test_each_method_can_or_is_refused(
    tmp_path: Path, precision: Any, cls: Any, variant: str
) -> None:
    make: Any = EXAMPLES[cls][variant]
    half = HalfPrecision(precision)
    model = half.convert_module(make(SCALE, tmp_path).eval())
    try:
        with told(precision, model), half.forward_context(), torch.no_grad():
            sr = cast(Any, model).test_step(batch_of(), 0)["sr"]
    except ConfigurationError:
        assert cls.__name__ not in CAN
        return
    assert sr.dtype == torch.float32
    assert sr.isfinite().all()


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
    with pytest.raises(RuntimeError, match=message), told(precision):
        raise RuntimeError(message)
