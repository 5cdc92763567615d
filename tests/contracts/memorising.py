"""Four photographs that tests let methods memorise, and how they are learned."""

from __future__ import annotations

import functools
from typing import Any

import torch
from skimage.data import astronaut
from torch import Tensor

from datamodules.base import SRDataModule
from degradations.bicubic import Bicubic, resize
from lightning_modules.base import ImageModel
from tests.datamodules.memory import Memory, trainer, with_crops

SIDE = 32


@functools.cache
def photographs(side: int = SIDE) -> Tensor:
    """(4, 3, side, side) in [0, 1]: parts of a photograph, in levels of 1/255."""
    image = torch.from_numpy(astronaut()).permute(2, 0, 1)[None] / 255
    corners = [(0, 150), (60, 200), (200, 100), (300, 300)]
    parts = torch.cat([image[..., y : y + 192, x : x + 192] for y, x in corners])
    return (resize(parts, (side, side)) * 255).round() / 255


def batch_of(scale: float, side: int = SIDE) -> dict[str, Any]:
    """The four photographs, as the data module gives them in a test."""
    hr = photographs(side)
    lr = resize(hr, (round(side / scale), round(side / scale)))
    lr = (lr * 255).round() / 255
    keys = {"key": [f"p{n}" for n in range(len(hr))], "seed": torch.arange(len(hr))}
    return {**keys, "size": (side, side), "hr": hr, "lr": lr}


def learn(
    model: ImageModel,
    steps: int,
    root: Any,
    side: int = SIDE,
    batch_size: int = 16,
    clip: float | None = None,
) -> None:
    """Train on the four photographs, with a fixed seed."""
    pixels = (photographs(side) * 255).byte().permute(0, 2, 3, 1).numpy()
    data = SRDataModule(
        model.scale,
        train=Memory({f"p{n}": {"hr": image} for n, image in enumerate(pixels)}),
        **{"batch_size": batch_size, "crop_size": side, "workers": 0},
        **with_crops({"per_image": 64, "flips": False}),
        degradation=Bicubic(model.scale),
    )
    run = trainer(root, max_steps=steps, max_epochs=-1, gradient_clip_val=clip)
    torch.manual_seed(0)
    run.fit(model, datamodule=data)
    model.eval()


def psnr(sr: Tensor, hr: Tensor) -> float:
    """The mean over images, dB."""
    return -10 * (sr - hr).square().flatten(1).mean(1).log10().mean().item()
