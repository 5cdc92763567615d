"""Several sources as one, each with its share of the training samples."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import chain
from typing import Any

from datamodules.order.shuffle import Mixture
from datamodules.source import Sample, Source, prepare_within
from files.numbers import PositiveFloat, PositiveInt

FIELDS = ("lr", "text", "text_features")  # which all samples of a batch must have, or none


class Mix(Source):
    """Several sources, mixed by weight.

    In training each source gives its share of the samples, exact to one sample in about every 256,
    and every image once before any image again. A source smaller than its share repeats; a larger
    one continues in the next epoch where it stopped. A key is the source's name and the image's key
    there. Evaluation uses all images once. A source that is itself a mixture keeps its own shares.

    Args:
        sources: The sources, by names of your choice. All or none may have captions, all or none
            their own LR; ``Latents`` and sources with their own ``scale`` or ``degradation`` are
            refused.
        weights: Share of each source, in any unit, such as photos 3 and faces 1; by default all
            images are equally frequent.
        samples: Images per epoch (each ``data.init_args.crops.per_image`` times); by default the
            number of images in all sources.

    Raises:
        ValueError: If a weight is missing.
    """

    keys: Sequence[str] = ()  # name of the source and key of the image in it, such as photos/0001

    def __init__(
        self,
        sources: dict[str, Source],
        weights: dict[str, PositiveFloat] | None = None,
        samples: PositiveInt | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if weights is not None and weights.keys() != sources.keys():
            raise ValueError(
                f"Mix.weights has {', '.join(weights) or 'nothing'}, and Mix.sources has "
                f"{', '.join(sources)}; expected one weight for each source"
            )
        self.sources = sources
        self.weights = weights
        self.samples = samples
        self._groups: dict[str, list[int]] = {}  # numbers of images, by source
        self._ends: list[int] = []  # where the images of each source end
        self._fields: list[str] | None = None  # of the first sample that was read

    def prepare(self, scale: float) -> None:
        """Find the images of all sources. Args as ``Source.prepare``.

        Raises:
            ValueError: If a source has no images, or its own scale or degradation.
        """
        self.keys = []
        self._ends = []
        for name, source in self.sources.items():
            prepare_within(source, self, scale)
            self.keys += [f"{name}/{key}" for key in source.keys]
            self._ends.append(len(self.keys))
            self._groups[name] = list(source.groups)

    @property
    def srgb(self) -> bool:
        """Whether the sources convert to sRGB: they read the files."""
        first = next(iter(self.sources.values()))
        return first.srgb

    @srgb.setter
    def srgb(self, convert: bool) -> None:
        for source in self.sources.values():
            source.srgb = convert

    @property
    def groups(self) -> list[int]:
        """The groups of all sources."""
        return list(chain.from_iterable(self._groups.values()))

    @property
    def mixture(self) -> Mixture:
        """How training mixes the groups: the share of each source, and the images of an epoch."""
        counts: list[int] = []
        shares: list[float] = []
        for name, source in self.sources.items():
            groups = self._groups[name]
            weight = float(sum(groups) if self.weights is None else self.weights[name])
            # The share of a source that is itself a mixture is divided by its own weights.
            inner = source.mixture or Mixture((len(groups),), (1.0,), 0)
            total = sum(inner.weights)
            counts += inner.groups
            shares += [weight * (part / total) for part in inner.weights]
        samples = len(self.keys) if self.samples is None else self.samples
        return Mixture(tuple(counts), tuple(shares), samples)

    def upcoming(self, groups: Sequence[int]) -> None:
        """Notify every source. Args as ``Source.upcoming``."""
        first = 0  # number of the source's first group
        for name, source in self.sources.items():
            end = first + len(self._groups[name])
            source.upcoming([group - first for group in groups if first <= group < end])
            first = end

    def path(self, index: int) -> str | None:
        """Return the file of the image ``keys[index]``, if it has one."""
        source, number = self._locate(index)
        return source.path(number)

    def size(self, index: int) -> tuple[int, int] | None:
        """Return (H, W) of the image ``keys[index]``, if its source knows it."""
        source, number = self._locate(index)
        return source.size(number)

    def read(self, index: int) -> Sample:
        """Return the image ``keys[index]``.

        Raises:
            UnreadableImage: If the image is broken.
            ValueError: If only some sources have captions or LR.
        """
        source, number = self._locate(index)
        return self._check_fields(source.read(number), index)

    def read_crop(self, index: int, top: int, left: int, height: int, width: int) -> Sample:
        """Return a part of the image ``keys[index]``. Args and Raises as ``Source.read_crop``."""
        source, number = self._locate(index)
        sample = source.read_crop(number, top, left, height, width)
        return self._check_fields(sample, index)

    def _check_fields(self, sample: Sample, index: int) -> Sample:
        """Return a sample; raise if it has other fields than the samples before it."""
        fields = [field for field in FIELDS if field in sample]
        if self._fields is None:
            self._fields = fields
        if fields != self._fields:
            raise ValueError(
                f"Mix.sources: {self.keys[index]} comes with {fields}, images before it with "
                f"{self._fields}; all must come with the same: mix sources of one kind"
            )
        return sample

    def _locate(self, index: int) -> tuple[Source, int]:
        """Return the source of an image, and the image's number in it."""
        place = bisect_right(self._ends, index)
        first = self._ends[place - 1] if place else 0
        source = list(self.sources.values())[place]
        return source, index - first
