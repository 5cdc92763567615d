"""A Source without files, and a loop that treats batches as Lightning does."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Trainer

from datamodules.base import CropSettings, Sample, Source, SRDataModule
from degradations.base import Degradation
from degradations.pipeline import Pipeline
from degradations.stages.noise import GaussianNoise
from files.batch import Batch
from files.images.decode import UnreadableImage
from tests.callbacks import tiny

# ---------------------------------------------------------------------------------------- sources


class Memory(Source):
    """Images from a dict; a string instead of a sample is the error of reading it."""

    def __init__(
        self,
        samples: dict[str, Sample | str],
        scale: float | None = None,
        degradation: Degradation | None = None,
    ) -> None:
        super().__init__(scale, degradation)
        self.samples = samples
        self.prepared_for: list[float] = []

    def prepare(self, scale: float) -> None:
        self.prepared_for.append(scale)

    @property
    def keys(self) -> Sequence[str]:
        return list(self.samples)

    def read(self, index: int) -> Sample:
        sample = self.samples[self.keys[index]]
        if isinstance(sample, str):
            raise UnreadableImage(sample)
        return sample  # its own, not a copy: callers must not change it


def random_image(height: int, width: int, seed: int = 0, dtype: Any = np.uint8) -> np.ndarray:
    """Random pixels (H, W, 3)."""
    generator = np.random.default_rng(seed)
    return generator.integers(0, np.iinfo(dtype).max, (height, width, 3), dtype, endpoint=True)


def random_images(count: int, height: int = 32, width: int = 40) -> Memory:
    """Random images p00, p01, ..."""
    return Memory({f"p{i:02d}": {"hr": random_image(height, width, i)} for i in range(count)})


def located(height: int, width: int) -> np.ndarray:
    """Pixels that are their own place: red is the row, green the column."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([rows, columns, np.zeros_like(rows)], axis=2).astype(np.uint8)


def repeated(lr: np.ndarray, scale: int) -> np.ndarray:
    """Each pixel as a square: a pair of it and `lr` fits exactly, or not at all."""
    return lr.repeat(scale, 0).repeat(scale, 1)


# ----------------------------------------------------------------------------------- data modules


def noisy(scale: float = 2.0) -> Pipeline:
    """Parameters and fields that differ for each image."""
    return Pipeline(scale, [GaussianNoise((1.0, 30.0))], quantize=False)


def with_crops(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings of `SRDataModule`, with those of `CropSettings` among them put into one."""
    names = {field.name for field in fields(CropSettings)} & settings.keys()
    crops = CropSettings(**{name: settings[name] for name in names})
    others = {name: value for name, value in settings.items() if name not in names}
    return {**others, "crops": crops}


def data_of(train: Source | None = None, **settings: Any) -> SRDataModule:
    """Four crops of 16 pixels in a batch, degraded by noise, at scale 2."""
    defaults = {
        "scale": 2,
        "batch_size": 4,
        "crop_size": 16,
        "workers": 0,
        "degradation": noisy(),
    }
    return SRDataModule(train=train, **with_crops(defaults | settings))


def opened(train: Source, **settings: Any) -> SRDataModule:
    """The same, after `setup("fit")`."""
    data = data_of(train, **settings)
    data.setup("fit")
    return data


# ----------------------------------------------------------------------------- what Lightning does


def on_device(data: SRDataModule, batch: dict[str, Any], index: int = 0) -> Batch:
    """Treat a batch of a loader as Lightning does."""
    batch = data.on_before_batch_transfer(batch, index)
    batch = data.transfer_batch_to_device(batch, torch.device("cpu"), index)
    return data.on_after_batch_transfer(batch, index)


def training(data: SRDataModule) -> Iterator[Batch]:
    """Yield one epoch of training batches."""
    data.setup("fit")
    for batch in data.train_dataloader():
        yield on_device(data, batch)


class Stage:
    """Stands for a trainer that evaluates."""

    def __init__(self, part: str, rank: int = 0, world: int = 1) -> None:
        self.training = part == "train"
        self.testing = part == "test"
        self.predicting = part == "predict"
        self.global_rank = rank
        self.world_size = world
        self.lightning_module = None


def evaluation(data: SRDataModule, part: str, rank: int = 0, world: int = 1) -> Iterator[Batch]:
    """Yield all batches of `val`, `test` or `predict`, source after source."""
    data.trainer = Stage(part, rank, world)  # type: ignore[assignment]
    data.setup({"val": "validate"}.get(part, part))
    loaders = getattr(data, f"{part}_dataloader")()
    for index, loader in enumerate(loaders):
        for batch in loader:
            yield on_device(data, batch, index)
    data.trainer = None


def trainer(root: Any, **settings: Any) -> Trainer:
    """Return the silent trainer of callbacks' tests, with Lightning's own sanity check and end."""
    own = {"num_sanity_val_steps": 2, "max_epochs": None}
    return tiny.trainer(root, *settings.pop("callbacks", []), **own | settings)


def by_name(batches: Any, name: str) -> dict[tuple[str, int], torch.Tensor]:
    """Each image of `name` by its key and seed."""
    images = {}
    for batch in batches:
        for key, seed, image in zip(batch["key"], batch["seed"].tolist(), batch[name], strict=True):
            images[key, seed] = image
    return images


def keys_of(batches: Any) -> list[str]:
    """The keys of all batches, in order."""
    return [key for batch in batches for key in batch["key"]]


def assert_same(batches: Any, expected: Any) -> None:
    """Keys, seeds and images are the same, bit for bit."""
    assert keys_of(batches) == keys_of(expected)
    for batch, other in zip(batches, expected, strict=True):
        for name in {"seed", "hr", "lr"} & other.keys():
            assert torch.equal(batch[name], other[name])
