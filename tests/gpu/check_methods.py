"""Each method on the pretended GPU: waits of a training step and of a batch of outputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from lightning_modules.adversarial import Adversarial
from lightning_modules.latent_perceptual import LatentPerceptual
from tests.contracts.model_contract import SCALE
from tests.contracts.test_models import EXAMPLES
from tests.gpu.device import GPU, counted, moved, pretended_gpu
from tests.lightning_modules.others import OTHERS, batch_for


class Limit(NamedTuple):
    """Most waits of a training step (forward, backward, optimiser) and of a batch of outputs."""

    step: int
    output: int


# May only fall. A method that is not listed must not wait at all.
LIMITS = {"CasArbi": Limit(0, 2)}  # two stages, each reads sigma_r


ALL = {**EXAMPLES, **OTHERS}
CASES = [
    pytest.param(cls.__name__, make, id=f"{cls.__name__} {name}".strip())
    for cls, examples in ALL.items()
    for name, make in examples.items()
]


def on_device(batch: dict[str, Any]) -> dict[str, Any]:
    return {
        name: value.to(GPU) if isinstance(value, Tensor) and name != "seed" else value
        for name, value in batch.items()
    }


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(("name", "make"), CASES)
def test_a_training_step_and_a_batch_of_outputs(
    name: str, make: Any, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    case = request.node.callspec.id
    limit = LIMITS.get(case, LIMITS.get(name, Limit(0, 0)))
    torch.manual_seed(0)
    model = make(SCALE, tmp_path)
    with pretended_gpu():
        moved(model)
        batch = on_device(batch_for(model))
        if model.automatic_optimization and any(p.requires_grad for p in model.parameters()):
            found = model.train().configure_optimizers()
            optimizer = found["optimizer"] if isinstance(found, dict) else found
            for first in (True, False):  # the first step may copy tables to the device
                with counted() as step:
                    model.on_train_batch_start(batch, 0)
                    model.training_step(batch, 0).backward()
                    optimizer.step()
                if not first:
                    assert step.total() <= limit.step, f"a step waits:\n{step}"
        elif isinstance(model.train(), Adversarial):  # it steps its optimisers itself
            for _ in range(2):
                with counted() as step:
                    model.generator_loss(batch)[0].backward()
            assert step.total() <= limit.step, f"a generator's step waits:\n{step}"
        if isinstance(model, LatentPerceptual):  # it has no outputs
            return
        with torch.no_grad():  # under inference mode, no dispatch would be seen
            model.eval().test_step(batch, 0)
            with counted() as output:
                sr = model.test_step(batch, 0)["sr"]
        assert sr.device == GPU
        assert output.total() <= limit.output, f"an output waits:\n{output}"
