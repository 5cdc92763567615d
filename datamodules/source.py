"""The contract between data, models and callbacks: Source, its samples, and batches."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import groupby
from typing import Any, TypedDict, cast

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from datamodules.order.shuffle import Mixture
from degradations.base import Degradation
from degradations.draws import Draws
from files.images.decode import UnreadableImage as UnreadableImage
from files.images.deep import Pixels
from files.numbers import PositiveFloat
from files.paths import size_and_time

IMAGES = ("hr", "lr", "ref", "p0", "p1")  # fields of a sample or a batch that are images


class Sample(TypedDict, total=False):
    """A sample of a Source.

    hr: (H, W, 3) uint8 or uint16, RGB. In ``predict`` this is the image to enlarge.
    lr: (h, w, 3), for paired data only.
    text: A caption; an empty one for an image without, in a source that has some.
    text_features: (n, W) floats of a text encoder for the caption, from shards only.
    size: (H, W) of an image to generate; only from sources without ``hr`` and ``lr``.
    frames: Number of frames of a clip to generate; only with ``size``.
    clip: (T, H, W, 3) uint8, only from clip sources, which have no ``hr``.
    meta: Data for the writer (fields of ``DecodedImage.meta``; ``read``, size in bytes and time in
        nanoseconds of the file when it was read; ``frame``, the ``VideoFrame`` of a video's frame).
    latent: (C, h, w) floats of HR, from ``Latents`` only.
    lr_latent: (C, h, w) floats of the enlarged LR, from ``Latents`` only.
    ref: (H, W, 3), from ``Triplets`` only, which have no ``hr``; likewise the next three.
    p0: (H, W, 3), a distortion of ``ref``.
    p1: (H, W, 3), another distortion of ``ref``.
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


class Source(ABC):
    """Base class of data sources. Your own dataset is a subclass with ``keys`` and ``read``.

    Args:
        scale: Scale of this source alone, in an evaluation over several scales; by default
            ``data.init_args.scale``.
        degradation: Makes the LR of this source alone; by default the run's ``degradation``.
        shares_seeds: Give an image the seed that it has in other such sources of the evaluation, so
            that degradations of several strengths draw the same noise, and a method does.
    """

    scale: float | None = None
    degradation: Degradation | None = None
    srgb: bool = True
    """Whether to convert pixels from a file's colour profile to sRGB, so that all images share one
    colour space; False in ``predict``, where the output keeps the profile."""
    frames: int | None = None
    """Number of frames per clip, for a clip source."""
    shares_seeds: bool = False
    """Whether images with the same key in several such sources of an evaluation share their seed,
    so that a method's noise is the same at several scales."""

    evaluation_dataset: Any = None
    training_dataset: Any = None
    """Classes of ``samples.py`` for sources that give something else than images."""

    def __init__(
        self,
        scale: PositiveFloat | None = None,
        degradation: Degradation | None = None,
        shares_seeds: bool | None = None,
    ) -> None:
        self.scale = scale
        self.degradation = degradation
        if shares_seeds is not None:
            self.shares_seeds = shares_seeds

    def prepare(self, scale: float) -> None:  # noqa: B027  (optional to override)
        """Find the images; called once in each process before anything else.

        Args:
            scale: The scale at which this source is used.

        Raises:
            ValueError: If nothing usable is found; the message names the place and the key to
                change.
        """

    @property
    @abstractmethod
    def keys(self) -> Sequence[str]:
        """A unique name for each image, such as its path below the root without extension."""

    @abstractmethod
    def read(self, index: int) -> Sample:
        """Return the image ``keys[index]``.

        Raises:
            UnreadableImage: If the image is broken.
        """

    def path(self, index: int) -> str | None:
        """Return the file of ``keys[index]``, if it has one; ``predict`` never overwrites it.

        By it, its size and its time, ``predict`` knows whether another image has this key now.
        """
        return None

    def size(self, index: int) -> tuple[int, int] | None:
        """Return (H, W) of the upright image ``keys[index]``, if known without reading it.

        Otherwise, and for images with their own LR, return None: training then reads the whole
        image; if the size is known, it reads only the crop, by ``read_crop``.
        """
        return None

    def read_crop(self, index: int, top: int, left: int, height: int, width: int) -> Sample:
        """Return the image ``keys[index]`` as ``read``, with ``hr`` cropped.

        Args:
            index: Number of the image.
            top: First row of the part in the upright image.
            left: First column.
            height: Number of rows; the part lies inside the image.
            width: Number of columns.

        Raises:
            UnreadableImage: If the image is broken.
        """
        sample = self.read(index).copy()
        sample["hr"] = sample["hr"][top : top + height, left : left + width]
        return sample

    @property
    def groups(self) -> list[int]:
        """Sizes of the groups of images that are stored together (shards) and read together."""
        return [len(self.keys)]

    @property
    def mixture(self) -> Mixture | None:
        """How training mixes the groups; None to take each image once per epoch."""
        return None

    def upcoming(self, groups: Sequence[int]) -> None:  # noqa: B027  (optional to override)
        """Called in training with the groups that this process reads next, to fetch them early.

        Args:
            groups: Numbers of ``groups``, soonest first, including those in use. Each call replaces
                the previous one.
        """


class Wrapper(Source):
    """Base class of sources that give the images of another one, each in another form.

    Attributes:
        source: The other source.
    """

    source: Source

    @property
    def srgb(self) -> bool:
        """Whether the source converts to sRGB: it reads the files."""
        return self.source.srgb

    @srgb.setter
    def srgb(self, convert: bool) -> None:
        self.source.srgb = convert

    @property
    def keys(self) -> Sequence[str]:
        """The source's keys."""
        return self.source.keys

    @property
    def groups(self) -> list[int]:
        """The source's groups."""
        return self.source.groups

    @property
    def mixture(self) -> Mixture | None:
        """The source's mixture."""
        return self.source.mixture

    def upcoming(self, groups: Sequence[int]) -> None:
        """Notify the source. Args as ``Source.upcoming``."""
        self.source.upcoming(groups)

    def path(self, index: int) -> str | None:
        """Return the file of the image ``keys[index]``, if it has one."""
        return self.source.path(index)


class PerImage(Wrapper):
    """Base class of sources that make several samples from each image of another one.

    Attributes:
        per_image: Samples per image.
    """

    per_image: int
    keys: Sequence[str] = ()  # the image's key and the sample's number, such as rocket/0
    _latest: tuple[int, Sample] | None = None  # an image's samples are read one after another

    def __getstate__(self) -> dict[str, Any]:
        """Return the state without pixels: each worker decodes its own."""
        return {**vars(self), "_latest": None}

    def prepare(self, scale: float) -> None:
        """Find the images. Args as ``Source.prepare``.

        Raises:
            ValueError: If the source has its own scale or degradation, or as its ``prepare``.
        """
        prepare_within(self.source, self, scale)
        self._latest = None
        numbers = range(self.per_image)
        self.keys = [f"{key}/{number}" for key in self.source.keys for number in numbers]

    @property
    def groups(self) -> list[int]:
        """The source's groups, in samples."""
        return [self.per_image * size for size in self.source.groups]

    @property
    def mixture(self) -> Mixture | None:
        """The source's mixture, in samples."""
        mixture = self.source.mixture
        return None if mixture is None else mixture.times(self.per_image)

    def path(self, index: int) -> str | None:
        """Return the file of the image of the sample ``keys[index]``, if it has one."""
        return self.source.path(index // self.per_image)

    def image(self, index: int, side: int) -> Sample:
        """Return the image that the sample ``keys[index]`` is cut from.

        Args:
            index: Number of the sample.
            side: Smallest side that the image may have, in pixels.

        Raises:
            UnreadableImage: If the image is broken.
            ValueError: If it is smaller, or has its own LR.
        """
        number = index // self.per_image
        if self._latest is None or self._latest[0] != number:
            self._latest = number, self.source.read(number)
        sample = self._latest[1]
        if "hr" not in sample or "lr" in sample or min(sample["hr"].shape[:2]) < side:
            shape = sample["hr"].shape if "hr" in sample else "no image"
            raise ValueError(
                f"{type(self).__name__} cuts squares of {side} pixels from images without LR, and "
                f"{self.source.keys[number]} is {shape} with {', '.join(sample)}: make the square "
                "smaller, or leave such images out"
            )
        return sample


def keys_with_file_sizes(source: Source) -> list[str]:
    """Return keys with the sizes of their files, which tell most files that were replaced."""
    sized = []
    for path, images in groupby(range(len(source.keys)), source.path):
        state = size_and_time(path) if path else None
        size = None if state is None else state[0]
        sized += [f"{source.keys[image]}\0{size}" for image in images]
    return sized


def text_fields(sample: Sample) -> Sample:
    """Return the caption of a sample and its features, if it has them."""
    return cast(Sample, {n: sample[n] for n in ("text", "text_features") if n in sample})


def prepare_within(source: Source, around: Source, scale: float) -> None:
    """Prepare a source within another source.

    Args:
        source: The inner source.
        around: The outer source.
        scale: The scale at which the outer source is used.

    Raises:
        ValueError: If the inner source has its own scale, degradation or ``shares_seeds``, which
            would be ignored.
    """
    settings = {
        "shares_seeds": source.shares_seeds not in (type(source).shares_seeds, around.shares_seeds),
        "degradation": source.degradation is not None,
        "scale": source.scale not in (None, scale),
    }
    ignored = [name for name, differs in settings.items() if differs]
    if ignored:
        name = type(around).__name__
        raise ValueError(
            f"{name}.source has its own {', '.join(ignored)}, which would be ignored: give it to "
            f"{name} (used at scale {scale:g}), or to the run"
        )
    source.srgb = around.srgb
    source.prepare(scale)


class Mixing(ABC):
    """A change of HR and LR of training crops together, on the device."""

    @abstractmethod
    def __call__(self, hr: Tensor, lr: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        """Return both, changed.

        Args:
            hr: (B, 3, H, W) float32 in [0, 1].
            lr: (B, 3, h, w) float32 in [0, 1].
            draws: Of the samples' seeds, the only source of randomness.
        """


class Augmentation(ABC):
    """A change of training images in the worker, before the crop is degraded."""

    @abstractmethod
    def __call__(self, hr: NDArray[np.uint8], seed: int) -> NDArray[np.uint8]:
        """Augment one image.

        Args:
            hr: (H, W, 3) uint8.
            seed: The sample's seed, the only source of randomness.

        Returns:
            An image of the same size and type.
        """
