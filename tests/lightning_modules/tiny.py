"""Small networks and models for the tests of this folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.nn import functional

from degradations.draws import seed_of
from lightning_modules.base import Generator, SuperResolver


class Convolution(nn.Module):
    """Enlarges by an integer; weights do not depend on the global generator."""

    def __init__(self, scale: float, channels: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3 * int(scale) ** 2, 3, padding=1)
        self.shuffle = nn.PixelShuffle(int(scale))
        fill(self)

    def forward(self, lr: Tensor) -> Tensor:
        return self.shuffle(self.conv(lr))


class Resizing(Convolution):
    """Enlarges to any size that it is given."""

    def __init__(self, scale: float) -> None:
        super().__init__(1)

    def forward(self, lr: Tensor, size: tuple[int, int]) -> Tensor:
        return functional.interpolate(self.conv(lr), size, mode="bilinear")


def fill(module: nn.Module, seed: int = 0) -> Any:
    """Weights from a seed, also in layers that begin as zeros; return the module."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return module


def save_run(model: LightningModule, path: Path) -> Path:
    """Write the checkpoint of a run of the model; return where."""
    checkpoint = {"state_dict": model.state_dict(), "pytorch-lightning_version": "2"}
    model.on_save_checkpoint(checkpoint)
    torch.save(checkpoint, path)
    return path


class Frozen(nn.Module):
    """A large fixed part, with buffers at every depth."""

    source = ""  # of weights from elsewhere

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(64, 256, 3), nn.BatchNorm2d(256))
        self.norm = nn.BatchNorm2d(3, affine=False)
        self.register_buffer("table", torch.zeros(1000))
        self.requires_grad_(False)


class Model(SuperResolver):
    """A trained part with normalisation, beside a frozen one; draws in training and in sampling."""

    def __init__(self, scale: float = 2.0, **settings: Any) -> None:
        super().__init__(scale, **settings)
        self.net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.tail = nn.Conv2d(8, 3, 1)
        self.whiten = nn.BatchNorm2d(3, affine=False)  # no parameters, and none around it but ours
        self.frozen = Frozen()
        self.register_buffer("seen", torch.zeros(()))
        self.register_buffer("derived", torch.arange(5.0), persistent=False)
        fill(self)

    def restore(self, batch: Any, noise: Any) -> Tensor:
        x = functional.interpolate(batch["lr"], batch["size"], mode="nearest")
        return self.tail(self.net(x)) + 0.01 * noise.normal(x.shape).to(x)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.seen += 1
        x = functional.interpolate(batch["lr"], batch["size"], mode="nearest")
        return (self.tail(self.net(self.whiten(x))) - batch["hr"]).square().mean()


class Painter(Generator):
    """Noise as images."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        raise NotImplementedError

    def generate(self, batch: Any, noise: Any) -> Tensor:
        return 0.5 + noise.normal((len(batch["key"]), 3, *batch["size"]))


def batch_of(count: int = 2, side: int = 6, scale: float = 2.0, name: str = "a") -> dict[str, Any]:
    """A batch as the data module makes them."""
    keys = [f"{name}/{i}" for i in range(count)]
    seeds = [seed_of(key) for key in keys]
    images = [torch.Generator().manual_seed(seed) for seed in seeds]
    size = (round(side * scale), round((side + 2) * scale))
    return {
        "key": keys,
        "seed": torch.tensor(seeds),
        "size": size,
        "lr": torch.stack([torch.rand(3, side, side + 2, generator=g) for g in images]),
        "hr": torch.stack([torch.rand(3, *size, generator=g) for g in images]),
    }


def random_batch(count: int, size: tuple[int, int], **shapes: tuple[int, ...]) -> Any:
    """A batch of random images or clips: the shape of one by its name in the batch."""
    generator = torch.Generator().manual_seed(0)
    images = {name: torch.rand(count, *of, generator=generator) for name, of in shapes.items()}
    keys = {"key": [str(n) for n in range(count)], "seed": torch.arange(count)}
    return {**keys, "size": size, **images}
