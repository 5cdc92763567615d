"""Augmentations of kornia and transforms of albumentations as stages."""

from __future__ import annotations

import copy
import os
import random
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from degradations.base import Canvas, Stage, each_on_host
from degradations.draws import Draws, Params
from degradations.images import from_bytes, to_bytes

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # its import would go online


class KorniaAugmentation(Stage):
    """Any intensity augmentation of `kornia.augmentation`, i.e. one that does not move pixels.

    kornia draws the parameters of each image, its ``p`` included, on the CPU from a generator with
    the seed of the image. They depend on neither the batch nor torch's global generators.

    Args:
        augmentation: The augmentation, by class path, e.g. ``kornia.augmentation.RandomJPEG``. Its
            own ``p``, by default 0.5, applies.
        batched: On a GPU, call it once per batch of images of one size, not once per image. Not
            for augmentations that share a parameter within a batch, such as the kernel size of
            ``RandomMotionBlur`` or the order of ``ColorJiggle``.

    Raises:
        TypeError: ``augmentation`` is not an augmentation, moves pixels, or mixes images.
        ValueError: It is ``batched`` but shares a parameter.
    """

    waits = True

    def __init__(self, augmentation: nn.Module, batched: bool = False) -> None:
        from kornia.augmentation import IntensityAugmentationBase2D

        super().__init__()
        if not isinstance(augmentation, IntensityAugmentationBase2D):
            raise TypeError(
                f"augmentation is {type(augmentation).__name__}; expected one of kornia that "
                "neither moves pixels nor mixes images, such as kornia.augmentation.RandomJPEG"
            )
        self._hidden = (augmentation,)  # a tuple, so that `.to(device)` does not move its draws
        self.batched = batched
        if batched:
            _check_batched(augmentation)

    @property
    def augmentation(self) -> Any:
        """The augmentation."""
        return self._hidden[0]

    def draw(self, draws: Draws, shape: torch.Size) -> Params:
        """Draw `seeds`, (B,) int, from which kornia draws all else."""
        return {"seeds": draws.seeds()}

    def forward(self, x: Tensor, params: Params) -> Tensor:
        """Apply the augmentation to (B, C, H, W)."""
        seeds = params["seeds"].tolist()
        if self.batched:
            return _apply_batched(self.augmentation, x, seeds)
        return _apply_one_by_one(self.augmentation, x, seeds)

    def on_canvas(self, canvas: Canvas, params: Params) -> Canvas:
        """Process all images at once if `batched` and they fill the canvas, else one by one."""
        if self.batched and canvas.filled:
            pixels = self(canvas.pixels, params)
            return canvas.with_pixels(pixels)
        return super().on_canvas(canvas, params)


class Albumentations(Stage):
    """Any transform of albumentations that does not move pixels: image-only ones and dropouts.

    It gets 8-bit images on the CPU, one by one; for images on a GPU the host waits. Its draws
    follow from the seed of the image alone.

    Args:
        transform: The transform, by class path, e.g. ``albumentations.MotionBlur``, or a group
            such as ``albumentations.OneOf``. Its own ``p`` applies.

    Raises:
        TypeError: ``transform`` may move pixels.
    """

    waits = True

    def __init__(self, transform: Callable[..., Any]) -> None:
        super().__init__()
        _check_image_only(transform)
        self.transform: Any = transform

    def draw(self, draws: Draws, shape: torch.Size) -> Params:
        """Draw `seeds`, (B,) int, from which the transform draws all else."""
        return {"seeds": draws.seeds()}

    def forward(self, x: Tensor, params: Params) -> Tensor:
        """Transform (B, 3, H, W); the output holds multiples of 1/255.

        Raises:
            ValueError: ``transform`` changes the size or type of an image.
        """
        seeds = params["seeds"].tolist()
        images = []
        for image, seed in zip(x, seeds, strict=True):
            # albumentations draws from one generator of NumPy's and one of Python's.
            key = np.array([seed, 0], np.uint64)
            generator = np.random.Generator(np.random.Philox(key=key))
            self.transform.set_random_state(generator, random.Random(seed))
            original = to_bytes(image)
            shape = original.shape
            outputs = self.transform(image=original)
            pixels = np.ascontiguousarray(outputs["image"])
            if pixels.shape != shape or pixels.dtype != np.uint8:
                raise ValueError(
                    f"{type(self.transform).__name__} returned {pixels.dtype} {pixels.shape} for "
                    f"uint8 {shape}; a stage requires a transform that keeps size and type"
                )
            images.append(from_bytes(pixels, x))
        return torch.cat(images)

    def on_canvas(self, canvas: Canvas, params: Params) -> Canvas:
        """Cut out each image on the CPU: one copy from the device and one back."""
        return each_on_host(canvas, params, self)


def _check_image_only(transform: Any) -> None:
    """Raise if a transform, or one of its group, may move pixels."""
    if ".dropout." in type(transform).__module__:
        return  # these have keypoints because they drop them with their pixels
    if hasattr(transform, "transforms"):
        for inner in transform.transforms:
            _check_image_only(inner)
    elif "keypoints" in transform.targets:  # which a transform that moves pixels would move, too
        raise TypeError(
            f"{type(transform).__name__} may move pixels, but an LR must show the content of its "
            "HR in place; use it as data.init_args.crops.augment, which changes HR before LR is "
            "made"
        )


def _check_batched(augmentation: Any) -> None:
    """Raise if a batch gives other results than its images one by one."""
    certain = copy.deepcopy(augmentation)  # applied to every image, to compare all of them
    certain.p = 1.0
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(16, 3, 64, 64, generator=generator)
    seeds = range(len(x))
    expected = _apply_one_by_one(certain, x, seeds)
    try:
        batched = _apply_batched(certain, x, seeds)
        equal = torch.allclose(batched, expected, 0.0, 1e-4)
    except RuntimeError:  # parameters of differing shapes
        equal = False
    if not equal:
        raise ValueError(
            f"{type(augmentation).__name__} shares a parameter within a batch, so it cannot be "
            "batched: set batched to false"
        )


def _apply_one_by_one(
    augmentation: Any,
    x: Tensor,
    seeds: Iterable[int],
) -> Tensor:
    """Apply the augmentation to each image with the generators seeded by its seed."""
    images = []
    for image, seed in zip(torch.split(x, 1), seeds, strict=True):
        with _seeded(seed, x.device):  # applying it may draw, too
            params = augmentation.forward_parameters(image.shape)
            images.append(augmentation(image, params=params))
    return torch.cat(images)


def _apply_batched(
    augmentation: Any,
    x: Tensor,
    seeds: Iterable[int],
) -> Tensor:
    """Draw by each image's seed, and apply the augmentation once to all images."""
    image_params = []
    for seed in seeds:
        with _seeded(seed, torch.device("cpu")):
            image_params.append(augmentation.forward_parameters(x[:1].shape))
    params = {}
    for name in image_params[0]:
        params[name] = torch.cat([one[name] for one in image_params])
    params["forward_input_shape"] = torch.tensor(x.shape)  # kornia's; that of one image until here
    return augmentation(x, params=params)


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch's global generators for the block, and restore them afterwards."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        # Not torch.manual_seed: it seeds every device, and `fork_rng` restores only this one.
        torch.default_generator.manual_seed(seed)
        if device.type == "cuda":
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield
