"""Optimisers with `train()` and `eval()`, as schedule-free ones, and those that are refused."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from lightning_modules.weights import read_weights
from tests.commands.test_resume import Interruption, assert_same, newest
from tests.quick import quick

Enlarger = Callable[..., None]
FIT = ("fit", "--config", "tiny.yaml", "--trainer.val_check_interval", 2)
OWN = ("--model.init_args.optimizer", f"{__name__}.ScheduleFree")
PARTS = ("--model.init_args.lr_scheduler", "null")
CALLBACKS = "--trainer.callbacks+"


class ScheduleFree(torch.optim.Optimizer):
    """SGD without a schedule: gradients at y, evaluation at x, the mean of z.

    Source: Defazio et al. 2024 (arXiv 2405.15682), section 2.

    Args:
        params: Parameters, which are y in training.
        lr: Learning rate.
        beta: Share of x in y.
    """

    def __init__(self, params: Iterable[Tensor], lr: float = 0.05, beta: float = 0.9) -> None:
        super().__init__(params, {"lr": lr, "beta": beta, "k": 0, "train_mode": False})

    def _move(self, train: bool) -> None:
        for group in self.param_groups:
            weight = 1 - group["beta"] if train else 1 - 1 / group["beta"]
            for p in group["params"] if group["train_mode"] is not train else ():
                if "z" in self.state[p]:
                    p.data.lerp_(self.state[p]["z"], weight)
            group["train_mode"] = train

    def train(self) -> None:
        self._move(True)

    def eval(self) -> None:
        self._move(False)

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        with torch.enable_grad():
            loss = closure() if closure else None
        for group in self.param_groups:
            if not group["train_mode"]:
                raise RuntimeError("the optimiser is not in train mode")
            share = 1 / (group["k"] + 1)
            for p in group["params"]:
                z = self.state[p].setdefault("z", p.detach().clone())
                x = p.lerp(z, 1 - 1 / group["beta"])
                z.sub_(p.grad, alpha=group["lr"])
                p.copy_(x.lerp_(z, share).lerp_(z, 1 - group["beta"]))
            group["k"] += 1
        return loss


class Seen(Callback):
    """The weights that each validation in `fit` measures, and those at the end."""

    validated: ClassVar[list[Tensor]] = []
    end: Tensor

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        Seen.validated = []

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, *_: Any
    ) -> None:
        Seen.validated.append(next(pl_module.parameters()).detach().clone())

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        Seen.end = next(pl_module.parameters()).detach().clone()


def evaluated(name: str) -> Tensor:
    """The first parameter for evaluation, from y and z of a run's newest checkpoint."""
    checkpoint = newest(name)
    y = checkpoint["state_dict"][next(iter(checkpoint["evaluation_weights"]))]
    z, beta = checkpoint["optimizer_states"][0]["state"][0]["z"], 0.9
    return y.lerp(z, 1 - 1 / beta)


@pytest.mark.parametrize("callbacks", ["[callbacks.PSNR]", "[callbacks.PSNR, callbacks.EMA]"])
@pytest.mark.parametrize(
    ("hook", "batch"), quick([("backward", 9), ("validation", 9), ("", 0)], "validation")
)
def test_a_schedule_free_run_resumes_exactly(
    tiny: Path, enlarger: Enlarger, callbacks: str, hook: str, batch: int
) -> None:
    command = (*FIT, *OWN, *PARTS, "--trainer.callbacks", callbacks)
    command = (*command, CALLBACKS, "tests.commands.test_resume.Interruption")
    enlarger(*command, "--run.name", "whole")
    Interruption.hook, Interruption.batch = hook, batch
    if hook:
        with pytest.raises(RuntimeError, match="interrupted"):
            enlarger(*command, "--run.name", "stopped")
    else:
        enlarger(*command, "--run.name", "stopped", "--trainer.max_steps", 7)
    enlarger(*command, "--run.name", "stopped")
    assert_same("stopped", "whole")
    one, other = (newest(run)["evaluation_weights"] for run in ("whole", "stopped"))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_validations_and_the_end_have_the_weights_for_evaluation(
    tiny: Path, enlarger: Enlarger
) -> None:
    given = ("--trainer.callbacks", "[callbacks.PSNR]", CALLBACKS, f"{__name__}.Seen")
    enlarger(*FIT, *OWN, *PARTS, *given)
    torch.testing.assert_close(Seen.end, evaluated("tiny"), rtol=0, atol=1e-7)
    torch.testing.assert_close(Seen.validated[-1], Seen.end, rtol=0, atol=1e-7)
    newest_file = sorted(Path("runs/tiny/checkpoints").glob("step-*.ckpt"))[-1]
    name = next(iter(newest("tiny")["evaluation_weights"]))
    assert torch.equal(read_weights(newest_file).tensors[name], Seen.end)
    assert not torch.equal(newest("tiny")["state_dict"][name], Seen.end)


@pytest.mark.parametrize("name", ["LBFGS", "SparseAdam"])
def test_an_optimiser_that_cannot_work_is_refused(
    tiny: Path, refusal: Callable[..., str], name: str
) -> None:
    sentence = refusal(*map(str, FIT), "--model.init_args.optimizer", f"torch.optim.{name}", *PARTS)
    assert sentence.startswith(f"model.optimizer is {name}, which ")
    assert not list(Path("runs").rglob("*.ckpt"))
