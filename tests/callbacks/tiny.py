"""A tiny model and tiny images for the tests of callbacks; spawned processes import them too."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, ProgressBar
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset


class Images(Dataset[dict[str, Any]]):
    """Random images with the attributes that our data module's datasets have."""

    def __init__(self, n: int = 7, name: str = "tiny", scale: float = 2, side: int = 24) -> None:
        self.name = name
        self.scale = scale
        self.side = side
        self.keys = [f"{name}/{i:02d}" for i in range(n)]

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, index: int) -> dict[str, Any]:
        generator = torch.Generator().manual_seed(index)
        hr = torch.rand(3, self.side, self.side, generator=generator)
        lr = functional.avg_pool2d(hr, int(self.scale))
        return {"key": self.keys[index], "seed": index, "hr": hr, "lr": lr}


class NoHR(Images):
    """Images with LR only."""

    def __getitem__(self, index: int) -> dict[str, Any]:
        sample = super().__getitem__(index)
        del sample["hr"]
        return sample


def collate(samples: list[dict[str, Any]]) -> dict[str, Any]:
    batch: dict[str, Any] = {"key": [s["key"] for s in samples]}
    batch["seed"] = torch.tensor([s["seed"] for s in samples])
    for name in ("hr", "lr"):
        if name in samples[0]:
            batch[name] = torch.stack([s[name] for s in samples])
    batch["size"] = tuple(samples[0]["hr"].shape[-2:]) if "hr" in samples[0] else (0, 0)
    return batch


def loader(dataset: Dataset[Any] | None = None, batch_size: int = 2) -> DataLoader[Any]:
    return DataLoader(dataset or Images(), batch_size=batch_size, collate_fn=collate)


class Tiny(LightningModule):
    """Upsampling and one trained convolution beside a frozen one."""

    def __init__(self, width: int = 3) -> None:
        super().__init__()
        self.net = nn.Conv2d(3, width, 3, padding=1)
        self.frozen = nn.Conv2d(3, 3, 1).requires_grad_(False)
        generator = torch.Generator().manual_seed(0)
        for parameter in self.parameters():
            parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)

    def forward(self, lr: Tensor, size: tuple[int, int]) -> Tensor:
        return self.net(functional.interpolate(lr, size=size, mode="nearest"))

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        return (self(batch["lr"], batch["size"]) - batch["hr"]).square().mean()

    def validation_step(
        self, batch: dict[str, Any], batch_idx: int, dataloader_idx: int = 0
    ) -> dict[str, Tensor]:
        return {"sr": self(batch["lr"], batch["size"]).clamp(0, 1)}

    def test_step(
        self, batch: dict[str, Any], batch_idx: int, dataloader_idx: int = 0
    ) -> dict[str, Tensor]:
        return self.validation_step(batch, batch_idx)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.net.parameters(), lr=0.5)


def outputs(n: int = 7, side: int = 24) -> tuple[Tensor, Tensor]:
    """What `Tiny` makes of so many of its `Images`, one at a time, and their HR."""
    samples = [Images(n, side=side)[i] for i in range(n)]
    model = Tiny().eval()
    with torch.no_grad():
        sr = [model(s["lr"][None], (side, side)).clamp(0, 1) for s in samples]
    return torch.cat(sr), torch.stack([s["hr"] for s in samples])


class Double(Tiny):
    """A model whose step enlarges images without HR."""

    def validation_step(
        self, batch: dict[str, Any], batch_idx: int, dataloader_idx: int = 0
    ) -> dict[str, Tensor]:
        return {"sr": self(batch["lr"], (24, 24)).clamp(0, 1)}


class OneThread(Callback):
    """Use one thread: a forked process has no pool of threads, and would wait for it forever."""

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        if trainer.world_size > 1:
            torch.set_num_threads(1)


def trainer(root: Any, *callbacks: Callback, **arguments: Any) -> Trainer:
    settings: dict[str, Any] = {
        "accelerator": "cpu",
        "devices": 1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": any(isinstance(c, ProgressBar) for c in callbacks),
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        "use_distributed_sampler": False,
        "max_epochs": 1,
    }
    return Trainer(default_root_dir=str(root), callbacks=list(callbacks), **settings | arguments)
