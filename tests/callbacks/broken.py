"""Models with faults in training, for the guard's tests; also by name on the CLI."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from lightning.pytorch.cli import LRSchedulerCallable
from torch import Tensor, nn

from lightning_modules.methods.regression import NetworkCallable, Regression
from tests.callbacks.tiny import Tiny


class WithGradient(torch.autograd.Function):
    """Identity whose gradient is changed by a function."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.change = change
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return ctx.change(gradient), None


FAULTS = ("nan loss", "inf loss", "inf gradient", "nan input")
ADAM = partial(torch.optim.Adam, lr=0.01, fused=True)


class Poisoned(Tiny):
    """A model with running statistics and a schedule; the images in ``bad`` cause the fault.

    Args:
        fault: One of ``FAULTS``.
        bad: Keys of images.
        optimizer: Makes the optimiser.
    """

    def __init__(
        self,
        fault: str = "nan loss",
        bad: tuple[str, ...] = (),
        optimizer: Callable[..., Any] = ADAM,
    ) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.fault = fault
        self.bad = bad
        self.optimizer = optimizer

    def forward(self, lr: Tensor, size: tuple[int, int]) -> Tensor:
        return super().forward(self.norm(lr), size)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        fault = self.fault if set(self.bad) & set(batch["key"]) else ""
        lr = batch["lr"] * torch.nan if fault == "nan input" else batch["lr"]
        loss = (self(lr, batch["size"]) - batch["hr"]).square().mean()
        if fault == "inf gradient":
            return WithGradient.apply(loss, lambda gradient: gradient * torch.inf)
        return loss * {"nan loss": torch.nan, "inf loss": torch.inf}.get(fault, 1.0)

    def configure_optimizers(self) -> Any:
        trained = [p for p in self.parameters() if p.requires_grad]
        optimizer = self.optimizer(trained)
        schedule = torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.5)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class SometimesNaN(Regression):
    """Half of all possible batches have a loss that is NaN.

    Args:
        scale: As ``Regression``.
        network: As ``Regression``.
        lr_scheduler: As ``Regression``.
        after: Number of first batches in each process without NaN.
        always: Whether all later batches have NaN.
    """

    def __init__(
        self,
        scale: float,
        network: NetworkCallable,
        lr_scheduler: LRSchedulerCallable | None = None,
        after: int = 0,
        always: bool = False,
    ) -> None:
        super().__init__(scale, network, lr_scheduler=lr_scheduler)
        self.after = after
        self.always = always
        self.seen = 0

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.seen += 1
        bad = self.seen > self.after and (self.always or int(batch["seed"][0]) % 2 == 0)
        return super().training_step(batch, batch_idx) * (torch.nan if bad else 1.0)
