"""Methods of a user: own loops, networks in a list, parameters that a step reads or never uses."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from files.batch import Batch
from lightning_modules import UNet2D
from lightning_modules.backbone.condition import Condition
from lightning_modules.methods.regression import NetworkCallable, Regression
from tests.lightning_modules.backbone.unets import FLAT


class Plain(Regression):
    """A regression by SGD, which does not hide a wrong factor of a gradient as Adam does."""

    trained_parts = ("network", "judges")

    def __init__(self, scale: float, network: NetworkCallable, **kwargs: Any) -> None:
        super().__init__(scale, network, optimizer=sgd, **kwargs)
        self.judges = nn.ModuleList([nn.Conv2d(3, 4, 3), nn.Conv2d(4, 1, 3)])

    def judge(self, images: Tensor) -> Tensor:
        for part in self.judges:
            images = torch.relu(part(images))
        return images.mean()


class Loop(Plain):
    """A network and its judge in turns, by two optimisers, as Lightning's pages show it."""

    def __init__(self, scale: float, network: NetworkCallable, **kwargs: Any) -> None:
        super().__init__(scale, network, **kwargs)
        self.automatic_optimization = False

    def configure_optimizers(self) -> Any:
        return sgd(self.network.parameters()), sgd(self.judges.parameters())

    def training_step(self, batch: Batch, batch_idx: int) -> None:  # type: ignore[override]
        first, second = self.optimizers()
        sr = self.network(batch["lr"])
        first.zero_grad()
        self.manual_backward((sr - batch["hr"]).abs().mean() + self.judge(sr))
        first.step()
        second.zero_grad()
        self.manual_backward(self.judge(sr.detach()) - self.judge(batch["hr"]))
        second.step()


class Reads(Plain):
    """Reads a parameter outside a ``forward``."""

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        weight = next(self.network.parameters())
        decay = (weight * torch.ones(weight.shape)).square().mean()
        return super().training_step(batch, batch_idx) + self.judge(batch["hr"]) + decay


class Guided(Plain):
    """Asks a denoiser for its learned null text outside a ``forward``, as guidance does."""

    trained_parts = ("network", "judges", "denoiser")

    def __init__(self, scale: float, network: NetworkCallable, **kwargs: Any) -> None:
        super().__init__(scale, network, **kwargs)
        self.denoiser = UNet2D(FLAT, null_token="learned")

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        hr = batch["hr"]
        text = self.denoiser.null_text(len(hr), tokens=3)
        seen = self.denoiser(hr, torch.zeros(len(hr), dtype=torch.long), Condition(text=text))
        error = (seen - hr).square().mean()
        return super().training_step(batch, batch_idx) + self.judge(hr) + error


def sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.05)
