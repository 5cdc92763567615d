"""Models with faults in training, for the guard's tests; also by name on the CLI."""

from __future__ import annotations

from functools import partial

import torch
from lightning.pytorch.cli import LRSchedulerCallable
from torch import nn

from lightning_modules.methods.regression import NetworkCallable, Regression
from tests.callbacks.tiny import Tiny


class WithGradient(torch.autograd.Function):
    """Identity whose gradient is changed by a function."""

    @staticmethod
    def forward(ctx, x, change):
        ctx.change = change
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
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

    def __init__(self, fault="nan loss", bad=(), optimizer=ADAM):
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.fault = fault
        self.bad = bad
        self.optimizer = optimizer

    def forward(self, lr, size):
        return super().forward(self.norm(lr), size)

    def training_step(self, batch, batch_idx):
        fault = self.fault if set(self.bad) & set(batch["key"]) else ""
        lr = batch["lr"] * torch.nan if fault == "nan input" else batch["lr"]
        loss = (self(lr, batch["size"]) - batch["hr"]).square().mean()
        if fault == "inf gradient":
            return WithGradient.apply(loss, lambda gradient: gradient * torch.inf)
        return loss * {"nan loss": torch.nan, "inf loss": torch.inf}.get(fault, 1.0)

    def configure_optimizers(self):
        trained = [p for p in self.parameters() if p.requires_grad]
        optimizer = self.optimizer(trained)
        schedule = torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.5)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class SometimesNaN(Regression):
    """The loss of a batch whose first image has an even seed is NaN.

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

    def training_step(self, batch, batch_idx):
        self.seen += 1
        is_bad = self.always or int(batch["seed"][0]) % 2 == 0
        loss = super().training_step(batch, batch_idx)
        return loss * torch.nan if is_bad and self.seen > self.after else loss
