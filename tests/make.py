"""Small things that many tests need, each made once: images, batches, networks, methods, runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule
from PIL import Image
from skimage import data
from torch import Tensor, nn
from torch.nn import functional

from degradations.draws import Draws, seed_of, to_device
from lightning_modules.backbone.space import Space
from lightning_modules.base import Generator, SuperResolver
from lightning_modules.noise import Noise

# ------------------------------------------------------------------------------ images and noise


def uniform(*shape: int, seed: int = 0) -> Tensor:
    """Numbers in [0, 1), such as pixels; always the same."""
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def normal(*shape: int, seed: int = 0) -> Tensor:
    """Numbers of a normal distribution, such as latents; always the same."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def make_images(batch: int, size: tuple[int, int]) -> Tensor:
    """(B, 3, H, W) in [0, 1]: smooth and rough parts, edges, clipped black and white."""
    generator = torch.Generator().manual_seed(1)
    height, width = size
    y = torch.linspace(0, 6, height).view(-1, 1)
    x = torch.linspace(0, 6, width)
    phase = torch.rand(batch, 3, 1, 1, generator=generator) * 6
    rough = torch.rand(batch, 3, height, width, generator=generator) - 0.5
    return (0.5 + 0.7 * torch.sin(x + y + phase) + 0.2 * rough).clamp(0, 1)


def photograph(height: int, width: int, name: str = "astronaut", corner: int = 60) -> np.ndarray:
    """A crop (H, W, 3) uint8 of one of scikit-image's photographs.

    Args:
        height: Rows.
        width: Columns.
        name: "astronaut", "coffee" or "chelsea".
        corner: The first row and column.
    """
    pixels = getattr(data, name)()
    return pixels[corner : corner + height, corner : corner + width].copy()


def as_tensor(pixels: np.ndarray) -> Tensor:
    """(H, W, 3) uint8 as (1, 3, H, W) float32 in [0, 1]."""
    return torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255


def smooth(count: int, size: tuple[int, int], cell: int = 5, seed: int = 0) -> Tensor:
    """(B, 3, H, W) in [0, 1]: random colours in squares of `cell` pixels, interpolated."""
    coarse = uniform(count, 3, size[0] // cell, size[1] // cell, seed=seed)
    return functional.interpolate(coarse, size, mode="bilinear")


def noisy(images: Tensor, level: float = 0.05, seed: int = 1) -> Tensor:
    """The images with the same Gaussian noise each time, in [0, 1]."""
    noise = normal(*images.shape, seed=seed)
    return (images + level * noise).clamp(0, 1)


def read(path: Path) -> Tensor:
    """An image file as (1, 3, H, W) float32 in [0, 1]."""
    return as_tensor(np.array(Image.open(path).convert("RGB")))


# ---------------------------------------------------------------------------------------- batches


def keys(count: int) -> Any:
    """What metrics read of a batch: the names of its images, a/0, a/1 ..."""
    return {"key": [f"a/{number}" for number in range(count)]}


def batch(count: int, size: tuple[int, int], **shapes: tuple[int, ...]) -> Any:
    """A batch of random images or clips: the shape of one by its name, ``lr=(3, 8, 8)``."""
    generator = torch.Generator().manual_seed(0)
    result = {
        "key": [str(number) for number in range(count)],
        "seed": torch.arange(count),
        "size": size,
    }
    for name, shape in shapes.items():
        result[name] = torch.rand(count, *shape, generator=generator)
    return result


def pairs(lr: tuple[int, int], scale: int, count: int = 2) -> Any:
    """A batch with LR and HR, not of each other: both random."""
    h, w = lr
    size = (h * scale, w * scale)
    return batch(count, size, lr=(3, h, w), hr=(3, *size))


def batch_of(count: int = 2, side: int = 6, scale: float = 2.0, name: str = "a") -> dict[str, Any]:
    """A batch as the data module makes them: an image belongs to its key, ``a/0``, ``a/1``."""
    keys = [f"{name}/{number}" for number in range(count)]
    seeds = [seed_of(key) for key in keys]
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    size = (round(side * scale), round((side + 2) * scale))
    return {
        "key": keys,
        "seed": torch.tensor(seeds),
        "size": size,
        "lr": torch.stack([torch.rand(3, side, side + 2, generator=g) for g in generators]),
        "hr": torch.stack([torch.rand(3, *size, generator=g) for g in generators]),
    }


def assert_near(value: Tensor, expected: Tensor, within: float) -> None:
    """Each number is at most so far from the expected one."""
    torch.testing.assert_close(value, expected, rtol=0, atol=within)


# --------------------------------------------------------------------------------- small networks


class Convolution(nn.Module):
    """Enlarges by an integer; its weights do not depend on the global generator."""

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


class Averaged(Space):
    """Pixels averaged over squares: a space with the factor of an autoencoder, and none in it."""

    channels = 3
    source = "none 0123456789abcdef"

    def __init__(self, factor: int = 8, deviation: float = 0.01) -> None:
        super().__init__()
        self.factor = factor
        self.drawn = deviation  # of what encoding draws from

    def distribution(self, image: Tensor) -> tuple[Tensor, Tensor]:
        mean = self.encode(image)
        return mean, torch.full_like(mean, self.drawn)

    def _encode(self, image: Tensor, noise: Noise | None) -> Tensor:
        z = functional.avg_pool2d(image * 2 - 1, self.factor)
        return z if noise is None else z + self.drawn * noise.normal(z.shape)

    def _decode(self, z: Tensor) -> Tensor:
        return functional.interpolate(z, scale_factor=self.factor, mode="nearest") / 2 + 0.5


class Distance(nn.Module):
    """A perceptual distance: the mean squared difference, by a layer with weights."""

    source = ""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 3, 1, bias=False)
        self.layer.weight.data = torch.eye(3)[:, :, None, None]
        self.seen: list[tuple[Tensor, Tensor]] = []

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        self.seen.append((a, b))
        return self.layer(a - b).square().mean((1, 2, 3))


def fill(module: nn.Module, seed: int = 0) -> Any:
    """Give a module weights from a seed, also in layers that begin as zeros; return it."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return module


# ---------------------------------------------------------------------------------- small methods


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
    """Makes images from nothing: noise."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        raise NotImplementedError

    def generate(self, batch: Any, noise: Any) -> Tensor:
        return 0.5 + noise.normal((len(batch["key"]), 3, *batch["size"]))


def quiet(model: Any) -> Any:
    """Let a model without a trainer log into ``model.logged``; return it."""
    model.logged = {}

    def log(name: str, value: Tensor, **_: Any) -> None:
        model.logged[name] = float(torch.as_tensor(value).detach())

    model.log = log
    return model


def files_of(folder: Path) -> dict[str, bytes]:
    """All files below a folder, by their paths in it, with their content."""
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def save_run(model: LightningModule, path: Path) -> Path:
    """Write the checkpoint of a run of the model; return where."""
    checkpoint = {"state_dict": model.state_dict(), "pytorch-lightning_version": "2"}
    model.on_save_checkpoint(checkpoint)
    torch.save(checkpoint, path)
    return path


def lr_batch(h: int, w: int, scale: float = 2.0, count: int = 1) -> Any:
    """A batch of LR alone, whose output has ``scale`` times its sides."""
    return batch(count, (round(h * scale), round(w * scale)), lr=(3, h, w))


class Answering(nn.Module):
    """A network that returns ``answer(*inputs)``, and notes the inputs of its calls."""

    def __init__(self, answer: Any) -> None:
        super().__init__()
        self.answer = answer
        self.weight = nn.Parameter(torch.zeros(()))  # there is something to train
        self.calls: list[Any] = []

    def forward(self, *inputs: Any) -> Tensor:
        self.calls.append(inputs)
        return self.answer(*inputs) + 0 * self.weight


# -------------------------------------------------------------------------- stages of degradations


def drawn(stage: Any, count: int, size: tuple[int, int] = (64, 64)) -> Any:
    """What a stage draws for so many images of a size, with the seeds 0, 1 ...; as tensors."""
    shape = torch.Size((count, 3, *size))
    params = stage.draw(Draws(torch.arange(count)), shape)
    return to_device(params, count, torch.device("cpu"))


def hr_and_lr(folder: Path) -> Any:
    """Name, HR and LR of the photographs of a set at a scale, such as `set5/x2`."""
    for path in sorted((folder / "hr").iterdir()):
        yield path.stem, read(path), read(folder / "lr" / path.name)
