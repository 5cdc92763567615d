"""The contract between data, models and callbacks: what a Source gives, and what a batch holds."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from datamodules.interleave import Mixture
from degradations.base import Degradation

Pixels = NDArray[np.uint8] | NDArray[np.uint16]


class Sample(TypedDict, total=False):
    """What a Source gives for one image.

    hr: (H, W, 3) uint8 or uint16, RGB. In ``predict`` this is the image to enlarge.
    lr: (h, w, 3), for paired data only.
    text: A caption.
    text_features: (n, W) floats, what an encoder said of the caption, of shards only.
    size: (H, W) of an image that is to be made; of sources without ``hr`` and ``lr`` only.
    frames: Number of frames of a clip that is to be made; beside ``size`` only.
    clip: (T, H, W, 3) uint8, of sources of clips only, which have no ``hr``.
    meta: Anything that has to reach the writer (path, alpha, icc, bit_depth, mode, exif; ``read``,
        size in bytes and time in nanoseconds of the file when it was read).
    latent: (C, h, w) floats of HR, of ``Latents`` only.
    lr_latent: (C, h, w) floats of the enlarged LR, of ``Latents`` only.
    ref: (H, W, 3), of ``Triplets`` only, which have no ``hr``; so, too, the next three.
    p0: (H, W, 3), a distortion of ``ref``.
    p1: (H, W, 3), another one.
    judge: Share of people who found ``p1`` nearer to ``ref``.
    """

    hr: Pixels
    lr: Pixels
    text: str
    text_features: NDArray[np.floating[Any]]
    size: tuple[int, int]
    frames: int
    clip: NDArray[np.uint8]
    meta: dict[str, Any]
    latent: NDArray[np.floating[Any]]
    lr_latent: NDArray[np.floating[Any]]
    ref: Pixels
    p0: Pixels
    p1: Pixels
    judge: float


class Batch(TypedDict, total=False):
    """The one contract between data, models and callbacks.

    key: B names, unique within the source.
    seed: (B,) int64, always on the CPU: everything random about a sample is drawn from it.
    size: (H, W) of the output; authoritative.
    hr: (B, 3, H, W) float32 in [0, 1]; absent in ``predict``.
    lr: (B, 3, h, w) float32 in [0, 1].
    text: B captions, where the source has them.
    text_features: (B, n, W) floats of the captions, filled up to the longest, where shards have
        them.
    text_lengths: (B,) int64, how many rows of each count; beside them.
    clip: (B, T, 3, H, W) float32 in [0, 1], of sources of clips only; there is no ``hr`` or ``lr``.
    frames: Number of frames of each clip, where clips are given or asked for.
    meta: B dictionaries, where the source has them; not in training.
    latent: (B, C, h, w) float32, as the autoencoder gives HR, not standardised; in training on
        ``Latents`` only, where ``hr`` and ``lr`` may be absent.
    lr_latent: (B, C, h, w) float32 of the enlarged LR, in the same way.
    space: Whose latents they are: ``identity`` of a space.
    ref: (B, 3, H, W) float32 in [0, 1], of ``Triplets`` only; so, too, ``p0`` and ``p1``, of its
        size. There is no ``hr``, ``lr`` or ``size`` then.
    judge: (B,) float32 in [0, 1]: share of people who found ``p1`` nearer to ``ref``.
    error: ``predict`` only: why the batch's one image cannot be enlarged; nothing but ``key`` is
        beside it.
    """

    key: list[str]
    seed: Tensor
    size: tuple[int, int]
    hr: Tensor
    lr: Tensor
    text: list[str]
    text_features: Tensor
    text_lengths: Tensor
    clip: Tensor
    frames: int
    meta: list[dict[str, Any]]
    latent: Tensor
    lr_latent: Tensor
    space: str
    ref: Tensor
    p0: Tensor
    p1: Tensor
    judge: Tensor
    error: list[str]


class Source(ABC):
    """Where images come from. A dataset of your own is one subclass with ``keys`` and ``read``.

    Args:
        scale: Scale of this source alone, in an evaluation over several scales; by default
            ``data.init_args.scale``.
        degradation: Makes the LR of this source alone; by default the run's ``degradation``.
    """

    scale: float | None = None
    degradation: Degradation | None = None
    srgb: bool = True
    """Convert pixels from a file's colour profile to sRGB, so that all images of a batch mean the
    same; unset in ``predict``, where the profile goes with the result."""
    frames: int | None = None
    """Frames of a clip, for a source of clips."""
    shares_seeds: bool = False
    """Whether an image has the seed that one of its key has in other such sources of an
    evaluation, so that a method's noise is the same at several scales."""

    def __init__(self, scale: float | None = None, degradation: Degradation | None = None) -> None:
        self.scale = scale
        self.degradation = degradation

    def prepare(self, scale: float) -> None:  # noqa: B027  (optional to override)
        """Find the images; called once in each process before anything else.

        Args:
            scale: The scale this source is used at.

        Raises:
            ValueError: Nothing usable was found; the message names the place and the key to change.
        """

    @property
    @abstractmethod
    def keys(self) -> Sequence[str]:
        """One unique name an image, such as its path below the root without the extension."""

    @abstractmethod
    def read(self, index: int) -> Sample:
        """The image ``keys[index]``.

        Raises:
            UnreadableImage: The image is broken.
        """

    def path(self, index: int) -> str | None:
        """File of the image ``keys[index]``, if it has one; ``predict`` never overwrites it."""
        return None

    def size(self, index: int) -> tuple[int, int] | None:
        """(H, W) of the upright image ``keys[index]``, where that is known without reading it.

        None where it is not, and for images that come with their own LR: training then reads the
        whole image, and otherwise no more than the crop it wants, by ``read_crop``.
        """
        return None

    def read_crop(self, index: int, top: int, left: int, height: int, width: int) -> Sample:
        """A part of the image ``keys[index]``: what ``read`` gives, with ``hr`` cut.

        Args:
            index: Number of the image.
            top: First row of the part in the upright image.
            left: First column.
            height: Number of rows; the part lies inside of the image.
            width: Number of columns.

        Raises:
            UnreadableImage: The image is broken.
        """
        sample = self.read(index).copy()
        sample["hr"] = sample["hr"][top : top + height, left : left + width]
        return sample

    @property
    def groups(self) -> list[int]:
        """Sizes of the runs of images that lie together (shards), which training keeps near."""
        return [len(self.keys)]

    @property
    def mixture(self) -> Mixture | None:
        """How training mixes the groups; None to take each image once an epoch."""
        return None

    def upcoming(self, groups: Sequence[int]) -> None:  # noqa: B027  (optional to override)
        """Told in training which groups this process reads next, so that they can be fetched.

        Args:
            groups: Numbers of ``groups``, soonest first, those in use now among them. Each call
                replaces the one before it.
        """


def prepare_within(source: Source, around: Source, scale: float) -> None:
    """Prepare a source that another one is made of.

    Args:
        source: The inner one.
        around: The outer one.
        scale: That the outer one is used at.

    Raises:
        ValueError: The inner one has a scale or a degradation of its own, which would not count.
    """
    name = type(around).__name__
    if source.degradation is not None:
        raise ValueError(
            f"{name}.source has a degradation of its own, which would not be applied: give it to "
            f"{name} if that takes one, or to the run as the key degradation"
        )
    if source.scale not in (None, scale):
        raise ValueError(
            f"{name}.source has scale {source.scale:g}, but {name} is used at {scale:g}: set the "
            f"scale of {name}, or data.init_args.scale"
        )
    source.srgb = around.srgb
    source.prepare(scale)


class Augmentation(ABC):
    """A change of training images in the worker, before the crop is degraded."""

    @abstractmethod
    def __call__(self, hr: NDArray[np.uint8], seed: int) -> NDArray[np.uint8]:
        """Change one image.

        Args:
            hr: (H, W, 3) uint8.
            seed: The sample's seed, the only source of randomness.

        Returns:
            An image of the same size and type.
        """
