"""Augmentations of kornia and transforms of albumentations as stages."""

from __future__ import annotations

import copy
import os
import random
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from degradations.base import Canvas, Stage, each_on_host
from degradations.draws import Draws, Params
from degradations.images import from_bytes, to_bytes

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # its import would go online

PROBE = 512  # pixels of a side of the image that shows whether a transform moves pixels
POINTS = 64
TRIES = 16  # draws of the transform's parameters: a flip by p is none in some


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

    def extra_repr(self) -> str:
        """Show the name of the augmentation in `print(degradation)`."""
        return type(self.augmentation).__name__


class Albumentations(Stage):
    """Any transform of albumentations that keeps the size of its images and moves no pixels.

    It works on the CPU, image by image; for images on a GPU the host waits. Its draws follow from
    the seed of the image alone.

    Args:
        transform: The transform, by class path, e.g. ``albumentations.MotionBlur``, or a group
            such as ``albumentations.OneOf``. Its own ``p`` applies.
        dtype: Type of its input: 8-bit images, the fastest for most transforms, or float32 in
            [0, 1] without rounding.

    Raises:
        TypeError: ``transform`` moves pixels, or needs more than an image.
    """

    waits = True

    def __init__(
        self,
        transform: Callable[..., Any],
        dtype: Literal["uint8", "float32"] = "uint8",
    ) -> None:
        super().__init__()
        for single in _single_transforms(transform):
            _check_in_place(single)
        self.transform: Any = transform
        self.dtype = dtype

    def draw(self, draws: Draws, shape: torch.Size) -> Params:
        """Draw `seeds`, (B,) int, from which the transform draws all else."""
        return {"seeds": draws.seeds()}

    def forward(self, x: Tensor, params: Params) -> Tensor:
        """Transform (B, 3, H, W); the range is [0, 1] if the transform keeps it.

        Raises:
            ValueError: The transform changes the size or type of an image.
        """
        seeds = params["seeds"].tolist()
        images = []
        for image, seed in zip(x, seeds, strict=True):
            images.append(self._applied(image, seed))
        return torch.cat(images)

    def on_canvas(self, canvas: Canvas, params: Params) -> Canvas:
        """Cut out each image on the CPU: one copy from the device and one back."""
        return each_on_host(canvas, params, self)

    def _applied(self, image: Tensor, seed: int) -> Tensor:
        key = np.array([seed, 0], np.uint64)
        generator = np.random.Generator(np.random.Philox(key=key))
        self.transform.set_random_state(generator, random.Random(seed))
        if self.dtype == "uint8":
            pixels = self._transformed(to_bytes(image))
            return from_bytes(pixels, image.unsqueeze(0))
        clamped = image.detach().clamp(0.0, 1.0)
        floats = clamped.permute(1, 2, 0).contiguous().cpu()
        pixels = self._transformed(floats.numpy())
        transformed = torch.from_numpy(pixels).to(image.device)
        return transformed.permute(2, 0, 1).unsqueeze(0)

    def _transformed(self, pixels: Any) -> Any:
        """Transform (H, W, 3) pixels, perhaps in place."""
        shape = pixels.shape
        dtype = pixels.dtype
        outputs = self.transform(image=pixels)
        result = np.ascontiguousarray(outputs["image"])
        if result.shape != shape or result.dtype != dtype:
            raise ValueError(
                f"{type(self.transform).__name__} returned {result.dtype} {result.shape} for "
                f"{dtype} {shape}; a stage requires a transform that keeps size and type"
            )
        return result


def _single_transforms(transform: Any) -> Iterator[Any]:
    """Yield the transforms of a group of albumentations, and of the groups in it."""
    if not hasattr(transform, "transforms"):
        yield transform
        return
    for inner in transform.transforms:
        yield from _single_transforms(inner)


def _check_in_place(transform: Any) -> None:
    """Raise if a transform of albumentations moves pixels: it then moves keypoints as well."""
    if "keypoints" not in getattr(transform, "targets", ()):  # those that change colours only
        return
    name = type(transform).__name__
    image = np.zeros((PROBE, PROBE, 3), np.uint8)
    # x, y, z, angle, scale, and its number, as a transform may remove some.
    points = np.zeros((POINTS, 6), np.float32)
    generator = np.random.default_rng(0)
    points[:, :2] = generator.uniform(0, PROBE, (POINTS, 2))
    points[:, 5] = np.arange(POINTS)
    for seed in range(TRIES):
        transform.set_random_state(np.random.default_rng(seed), random.Random(seed))
        try:
            outputs = transform(image=image, keypoints=points.copy(), force_apply=True)
        except Exception as error:  # anything: it needs a mask, boxes, a larger image
            raise TypeError(f"{name} cannot be applied to an image alone: {error}") from error
        moved = outputs["keypoints"]
        numbers = moved[:, 5].astype(int)
        originals = points[numbers]
        if not np.allclose(moved[:, :2], originals[:, :2], rtol=0, atol=0.01):
            raise TypeError(
                f"{name} moves pixels, but an LR must show the content of its HR in place; use it "
                "as data.init_args.crops.augment, which changes HR before LR is made"
            )


def _check_batched(augmentation: Any) -> None:
    certain = copy.deepcopy(augmentation)
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
    image_params = []
    for seed in seeds:
        with _seeded(seed, torch.device("cpu")):
            image_params.append(augmentation.forward_parameters(x[:1].shape))
    params = {}
    for name in image_params[0]:
        params[name] = torch.cat([one[name] for one in image_params])
    params["forward_input_shape"] = torch.tensor(x.shape)
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
