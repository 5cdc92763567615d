"""A tiny model and tiny images for the tests of callbacks; spawned processes import them too."""

from __future__ import annotations

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, ProgressBar
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from tests.make import fill, uniform


class Images(Dataset):
    """Random images with the attributes that our data module's datasets have."""

    def __init__(self, count=7, name="tiny", scale=2, side=24):
        self.name = name
        self.scale = scale
        self.side = side
        self.keys = [f"{name}/{number:02d}" for number in range(count)]

    def __len__(self):
        return len(self.keys)

    def __getitem__(self, index):
        hr = uniform(3, self.side, self.side, seed=index)
        lr = functional.avg_pool2d(hr, int(self.scale))
        return {"key": self.keys[index], "seed": index, "hr": hr, "lr": lr}


class NoHR(Images):
    """Images with LR only."""

    def __getitem__(self, index):
        sample = super().__getitem__(index)
        del sample["hr"]
        return sample


def collate(samples):
    batch = {
        "key": [sample["key"] for sample in samples],
        "seed": torch.tensor([sample["seed"] for sample in samples]),
        "size": (0, 0),
    }
    for name in ("hr", "lr"):
        if name in samples[0]:
            batch[name] = torch.stack([sample[name] for sample in samples])
    if "hr" in batch:
        batch["size"] = tuple(batch["hr"].shape[-2:])
    return batch


def loader(dataset=None, batch_size=2):
    return DataLoader(dataset or Images(), batch_size=batch_size, collate_fn=collate)


class Tiny(LightningModule):
    """Upsampling and one trained convolution beside a frozen one."""

    def __init__(self, width=3):
        super().__init__()
        self.net = nn.Conv2d(3, width, 3, padding=1)
        self.frozen = nn.Conv2d(3, 3, 1).requires_grad_(False)
        fill(self)

    def forward(self, lr, size):
        return self.net(functional.interpolate(lr, size=size, mode="nearest"))

    def training_step(self, batch, batch_idx):
        return (self(batch["lr"], batch["size"]) - batch["hr"]).square().mean()

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        return {"sr": self(batch["lr"], batch["size"]).clamp(0, 1)}

    def test_step(self, batch, batch_idx, dataloader_idx=0):
        return self.validation_step(batch, batch_idx)

    def configure_optimizers(self):
        return torch.optim.SGD(self.net.parameters(), lr=0.5)


def outputs(count=7, side=24):
    """What `Tiny` makes of so many of its `Images`, and their HR."""
    batch = next(iter(loader(Images(count, side=side), count)))
    with torch.no_grad():
        sr = Tiny()(batch["lr"], (side, side))
    return sr.clamp(0, 1), batch["hr"]


class Double(Tiny):
    """A model whose step enlarges images without HR."""

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        return {"sr": self(batch["lr"], (24, 24)).clamp(0, 1)}


class OneThread(Callback):
    """Use one thread: a forked process has no pool of threads, and would wait for it forever."""

    def setup(self, trainer, pl_module, stage):
        if trainer.world_size > 1:
            torch.set_num_threads(1)


def trainer(root, *callbacks, **arguments):
    settings = {
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


def validate(root, *callbacks, model=None, data=None, **arguments):
    """Validate a model, by default `Tiny` on `Images`; return the trainer."""
    run = trainer(root, *callbacks, **arguments)
    run.validate(model or Tiny(), data or loader(), verbose=False)
    return run


def evaluate(root, *callbacks, model=None, data=None):
    """As `validate`, by `test`."""
    trainer(root, *callbacks).test(model or Tiny(), data or loader(), verbose=False)
