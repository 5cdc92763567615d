"""Several sources as one, each with its share of the training samples."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

from datamodules.order.shuffle import Mixture
from datamodules.source import Sample, Source, prepare_within
from files.numbers import PositiveFloat, PositiveInt


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
        self.sources, self.weights, self.samples = sources, weights, samples
        self._sources = list(sources.values())
        self._groups = [[0] for _ in sources]
        self._ends: list[int] = []

    def prepare(self, scale: float) -> None:
        """Find the images of all sources. Args as ``Source.prepare``.

        Raises:
            ValueError: If a source has no images, or its own scale or degradation.
        """
        self.keys = []
        for name, source in self.sources.items():
            prepare_within(source, self, scale)
            self.keys += [f"{name}/{key}" for key in source.keys]
        self._ends = list(accumulate(len(source.keys) for source in self._sources))
        self._groups = [list(source.groups) for source in self._sources]

    @property
    def srgb(self) -> bool:
        """That of the sources, which read the files."""
        return self._sources[0].srgb

    @srgb.setter
    def srgb(self, convert: bool) -> None:
        for source in self._sources:
            source.srgb = convert

    @property
    def groups(self) -> list[int]:
        """The groups of all sources."""
        return [size for groups in self._groups for size in groups]

    @property
    def mixture(self) -> Mixture:
        """The shares, and the length of an epoch."""
        sizes = [float(sum(groups)) for groups in self._groups]
        weights = sizes if self.weights is None else [self.weights[name] for name in self.sources]
        counts: list[int] = []
        shares: list[float] = []
        for source, groups, weight in zip(self._sources, self._groups, weights, strict=True):
            inner = source.mixture or Mixture((len(groups),), (1.0,), 0)
            counts += inner.groups
            shares += [float(weight) * (part / sum(inner.weights)) for part in inner.weights]
        samples = len(self.keys) if self.samples is None else self.samples
        return Mixture(tuple(counts), tuple(shares), samples)

    def upcoming(self, groups: Sequence[int]) -> None:
        """Notify every source. Args as ``Source.upcoming``."""
        ends = list(accumulate(len(sizes) for sizes in self._groups))
        lists: list[list[int]] = [[] for _ in self._sources]
        for group in groups:
            number, within = _place(ends, group)
            lists[number].append(within)
        for source, own in zip(self._sources, lists, strict=True):
            source.upcoming(own)

    def path(self, index: int) -> str | None:
        """Return the file of the image ``keys[index]``, if it has one."""
        number, within = _place(self._ends, index)
        return self._sources[number].path(within)

    def size(self, index: int) -> tuple[int, int] | None:
        """Return (H, W) of the image ``keys[index]``, if its source knows it."""
        number, within = _place(self._ends, index)
        return self._sources[number].size(within)

    def read(self, index: int) -> Sample:
        """Return the image ``keys[index]``.

        Raises:
            UnreadableImage: If the image is broken.
        """
        number, within = _place(self._ends, index)
        return self._sources[number].read(within)

    def read_crop(self, index: int, top: int, left: int, height: int, width: int) -> Sample:
        """Return a part of the image ``keys[index]``. Args and Raises as ``Source.read_crop``."""
        number, within = _place(self._ends, index)
        return self._sources[number].read_crop(within, top, left, height, width)


def _place(ends: list[int], index: int) -> tuple[int, int]:
    # The number of a source, and the index within it.
    source = bisect_right(ends, index)
    return source, index - (ends[source - 1] if source else 0)
