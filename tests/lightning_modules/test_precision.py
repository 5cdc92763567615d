"""`trainer.precision`: the table of docs/methods/index.md, measured on the CPU method by method."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple, cast

import pytest
import torch
from lightning.pytorch.plugins.precision import HalfPrecision
from torch import Tensor

from lightning_modules.adversarial import Adversarial
from lightning_modules.backbone.space import KLSpace
from lightning_modules.base import ImageModel
from lightning_modules.methods.regression import Regression
from tests.conftest import REPO
from tests.contracts.model_contract import SCALE
from tests.contracts.test_models import EXAMPLES
from tests.lightning_modules import next_scale_parts
from tests.lightning_modules.others import KL, OTHERS, batch_for
from tests.quick import quick

MIXED = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
CONVERTED = ("bf16-true", "16-true")
SCALER = 1024.0  # as a gradient scaler would; fp16 has no gradients below 6e-8

ROWS = {
    cells[0]: cells[1:]
    for line in (REPO / "docs/methods/index.md").read_text().splitlines()
    if (cells := [cell.strip() for cell in line.strip("|").split("|")]) and len(cells) == 4
}
METHODS = {f"`{cls.__name__}`": examples for cls, examples in {**EXAMPLES, **OTHERS}.items()}
QUICK = ("`Diffusion`", "`NSARM`", "`Regression`", "`ResShift`", "`SDSR`")


class Found(NamedTuple):
    """Gradients of a step, flat, and outputs of a batch (or distances); in float32."""

    gradient: Tensor | None
    output: Tensor


def made(make: Callable[..., ImageModel], folder: Path) -> ImageModel:
    """A model whose last layers are not 0, so that rounding shows."""
    torch.manual_seed(0)
    model = make(SCALE, folder)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.02 * torch.randn(parameter.shape, generator=generator)
    return model


def measured(model: ImageModel, precision: str, trains: bool = True) -> Found:
    """One step and one batch of outputs, as Lightning runs them in this precision."""
    context: Callable[[], AbstractContextManager[Any]] = nullcontext
    if precision in MIXED:
        context = lambda: torch.autocast("cpu", MIXED[precision])  # noqa: E731
    elif precision in CONVERTED:
        half = HalfPrecision(cast(Any, precision))
        half.convert_module(model)
        context = half.forward_context
    batch: Any = batch_for(model)
    with context(), torch.no_grad():
        if hasattr(model, "distances"):
            output = torch.stack(model.eval().distances(batch)).float()
        else:
            output = cast(Any, model.eval()).test_step(batch, 0)["sr"]
    assert output.dtype == torch.float32
    if not trains or not any(p.requires_grad for p in model.parameters()):
        return Found(None, output)
    model.train().on_train_batch_start(batch, 0)
    adversarial = isinstance(model, Adversarial)
    with context():
        loss: Any = model.generator_loss(batch)[0] if adversarial else model.training_step(batch, 0)
    scale = SCALER if precision == "16-mixed" else 1.0
    (loss * scale).backward()
    grads = [p.grad.float().flatten() / scale for p in model.parameters() if p.grad is not None]
    return Found(torch.cat(grads), output)


def apart(found: Tensor | None, exact: Tensor | None) -> float:
    if found is None or exact is None:
        return 0.0
    assert found.isfinite().all()
    return float((found - exact).norm() / exact.norm())


def numbers(cell: str) -> list[float]:
    return [0.0 if word in ("-", "exact") else float(word) for word in cell.split(", ")]


def check_cell(name: str, cell: str, measured: list[float]) -> None:
    for most, value in zip(numbers(cell), measured, strict=True):
        assert value <= most + 1e-9, f"{name} is off by {value:.2g}; the docs say {cell}"
        assert most <= 30 * value + 0.005, f"{name} is off by {value:.2g} only; the docs say {cell}"


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", quick(METHODS, *QUICK))
def test_the_table_of_the_docs(name: str, tmp_path: Path) -> None:
    """A cell has the largest distance to float32: of a step's gradient, and of outputs."""
    cells = dict(zip(("bf16-mixed", "16-mixed", "true"), ROWS[name], strict=True))
    found = distances(name, tmp_path)
    for precision in MIXED:
        check_cell(f"{name} in {precision}", cells[precision], found[precision])
    assert (cells["true"] == "no") == (found["true"] is None)
    if found["true"] is not None:
        check_cell(f"{name} in bf16-true or 16-true", cells["true"], found["true"])


def distances(name: str, folder: Path) -> dict[str, Any]:
    """For each column, the largest of all examples and precisions; None if it is refused."""

    most: dict[str, Any] = {precision: [0.0, 0.0] for precision in MIXED}
    outputs: list[float] = []
    refused = False
    for number, make in enumerate(METHODS[name].values()):
        (place := folder / str(number)).mkdir()
        model = made(make, place)
        exact = measured(deepcopy(model), "32-true")
        for precision in MIXED:
            found = measured(deepcopy(model), precision)
            both = [apart(*pair) for pair in zip(found, exact, strict=True)]
            most[precision] = [max(pair) for pair in zip(most[precision], both, strict=True)]
        for precision in CONVERTED:
            if model.half_outputs:
                found = measured(deepcopy(model), precision, trains=False)
                outputs.append(apart(found.output, exact.output))
                continue
            refused = True
            with pytest.raises(RuntimeError, match="same"):  # else it would be refused in vain
                measured(deepcopy(model), precision, trains=False)
    return {**most, "true": None if refused else [max(outputs)]}


@pytest.mark.parametrize("precision", [*CONVERTED, *MIXED, "32-true"])
def test_refused_before_the_first_step(precision: str, tmp_path: Path) -> None:
    model = next(iter(EXAMPLES[Regression].values()))(SCALE, tmp_path)
    model._trainer = cast(Any, SimpleNamespace(precision=precision))
    if precision not in CONVERTED:
        model.setup("fit")
        return
    for stage in ("fit", "test"):
        mixed = precision.replace("true", "mixed")
        with pytest.raises(ValueError, match=f"{precision}, .*set it to {mixed}"):
            model.setup(stage)


class TestAutoencodersUnderFp16:
    @pytest.fixture
    def space(self) -> KLSpace:
        """Within fp16 nothing is finite, though the norms bring all back to about 1."""
        torch.manual_seed(0)
        space = KLSpace(KL)
        with torch.no_grad():
            space.vae.encoder.conv_in.weight *= 1e6
            space.vae.decoder.conv_in.weight *= 1e6
        return space

    def test_it_is_in_float32(self, space: KLSpace) -> None:
        images = torch.rand(1, 3, 16, 16)
        z = space.encode(images)
        mean = space.distribution(images)[0]
        expected = space.decode(z)
        with torch.autocast("cpu", torch.float16):
            assert torch.equal(space.encode(images), z)
            assert torch.equal(space.distribution(images)[0], mean)
            assert torch.equal(space.decode(z), expected)

    def test_the_tokenizers_decoder(self) -> None:
        space, total = next_scale_parts.space(), torch.rand(1, 4, 4, 4)
        expected = space.images(total)
        with torch.autocast("cpu", torch.float16):
            assert torch.equal(space.images(total), expected)

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_weights_stay(self, space: KLSpace, dtype: torch.dtype) -> None:
        expected = space.decode(torch.rand(1, 4, 4, 4).fill_(0.5))
        space.to(dtype)
        assert {p.dtype for p in space.parameters()} == {torch.float32}
        assert torch.equal(space.decode(torch.full((1, 4, 4, 4), 0.5)), expected)
