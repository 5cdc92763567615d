"""Numbers of a measured set: counts, histograms, extremes and duplicates, in bounded memory."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from datamodules.files.decode import REASONS
from datamodules.stats.duplicates import IMAGE, Group, Groups, find_duplicates
from datamodules.stats.inputs import Place, places_of
from datamodules.stats.measure import NAMES, Row
from datamodules.stats.parts import Block, Parts

FINE = 4096  # bins from which quantiles are taken
BINS = 32  # bins of the page
SHOWN = 12  # extremes
LISTED = 1000  # unreadable images that are named
QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
Values = NDArray[np.float64]
Rows = NDArray[np.void]


class Quantity(NamedTuple):
    """A number of each image.

    title: Its name on the page.
    unit: Its unit; may be empty.
    about: How it is measured.
    least: Smaller values are counted as this, as the scale is logarithmic.
    of: Computes it from rows of readable images.
    """

    title: str
    unit: str
    about: str
    least: float
    of: Callable[[Rows], Values]


def _sides(rows: Rows, choose: Callable[..., Any]) -> Values:
    return np.asarray(choose(rows["height"], rows["width"]), np.float64)


def _pixels(rows: Rows) -> Values:
    return rows["height"].astype(np.float64) * rows["width"]


QUANTITIES = {
    "short_side": Quantity(
        "Short side", "px", "of the upright image", 1, lambda rows: _sides(rows, np.minimum)
    ),
    "long_side": Quantity(
        "Long side", "px", "of the upright image", 1, lambda rows: _sides(rows, np.maximum)
    ),
    "aspect": Quantity(
        "Width to height", "", "above 1 is landscape", 0.01, lambda r: r["width"] / r["height"]
    ),
    "bytes": Quantity("File", "bytes", "", 1, lambda r: r["bytes"].astype(np.float64)),
    "bits_per_pixel": Quantity(
        "Bits per pixel", "", "of the file", 0.01, lambda r: 8 * r["bytes"] / _pixels(r)
    ),
    "blur": Quantity(
        "Sharpness",
        "",
        "variance of the Laplacian of luma, in squared levels of 255: low is blurred or smooth, "
        "and noise raises it",
        0.1,
        lambda r: r["blur"].astype(np.float64),
    ),
    "noise": Quantity(
        "Noise",
        "levels",
        "deviation of white noise in the green channel, of 255: median of the diagonal wavelet "
        "coefficients over 0.6745. JPEG removes them, and fine texture counts as noise",
        0.05,
        lambda r: r["noise"].astype(np.float64),
    ),
}


@dataclass
class Summary:
    """What is known about a set.

    Attributes:
        numbers: For ``stats.json``.
        examples: Numbers of images by kind: ``blurred``, ``noisy``, ``grey``, ``flat``.
        equal: Groups of equal images.
        similar: Groups of similar images.
    """

    numbers: dict[str, Any]
    examples: dict[str, list[int]]
    equal: Groups
    similar: Groups


class Images:
    """Rows, names and files of a set's images, by their number."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        self.ends = list(accumulate(len(block.rows) for block in parts.blocks()))
        self._read = lru_cache(maxsize=8)(parts.read)

    def __len__(self) -> int:
        """Number of images."""
        return self.ends[-1] if self.ends else 0

    def _place(self, number: int) -> tuple[Block, int]:
        block = bisect_right(self.ends, number)
        return self._read(block), number - (self.ends[block - 1] if block else 0)

    def row(self, number: int) -> Row:
        """Return what was measured."""
        block, at = self._place(number)
        return cast(Row, block.rows[at])

    def name(self, number: int) -> str:
        """Return the path, or the tar and the key."""
        block, at = self._place(number)
        return block.names[at]

    def place(self, number: int) -> Place:
        """Return where the bytes are.

        Raises:
            ValueError: If its tar was broken since.
            OSError: If a server cannot be reached.
        """
        block, at = self._place(number)
        return places_of(block.tar)[at] if block.tar else Place(block.names[at])


def summarise(parts: Parts, distance: int) -> tuple[Summary, Images]:
    """Return the numbers of a set whose blocks are all measured.

    Args:
        parts: The blocks.
        distance: Most bits in which the hashes of similar images differ.

    Raises:
        ValueError: If a block is damaged.
    """
    images = Images(parts)
    counts, ranges, extremes = _Counts(), {name: _Range() for name in QUANTITIES}, _Extremes()
    for first, block in _numbered(parts):
        good = block.rows[block.rows["reason"] == 0]
        counts.add(block)
        extremes.add(first, block.rows)
        for name, quantity in QUANTITIES.items():
            ranges[name].add(quantity.of(good), quantity.least)
    histograms = {name: np.zeros(FINE, np.int64) for name in QUANTITIES}
    for block in parts.blocks():
        good = block.rows[block.rows["reason"] == 0]
        for name, quantity in QUANTITIES.items():
            histograms[name] += ranges[name].histogram(quantity.of(good), quantity.least)
    parts.folder.mkdir(exist_ok=True)
    records = (_images(first, block.rows) for first, block in _numbered(parts))
    equal, similar = find_duplicates(records, len(images), distance, parts.folder)
    numbers = counts.as_json() | {
        "quantities": {
            name: ranges[name].as_json(histograms[name], quantity)
            for name, quantity in QUANTITIES.items()
        },
        "duplicates": _group_report(equal, images, "the same pixels, in any format", equal.images),
        "near_duplicates": _group_report(
            similar,
            images,
            f"perceptual hashes of 64 bits that differ in {distance} at most, linked; of equal "
            "images one counts, and flat ones are left out",
            similar.images,
        )
        | {"distance": distance},
    }
    examples = {**extremes.found(), **counts.examples}
    numbers["examples"] = {
        kind: [images.name(number) for number in found] for kind, found in examples.items()
    }
    return Summary(numbers, examples, equal, similar), images


def _numbered(parts: Parts) -> Iterator[tuple[int, Block]]:
    first = 0
    for block in parts.blocks():
        yield first, block
        first += len(block.rows)


def _images(first: int, rows: Rows) -> NDArray[np.void]:
    good = np.flatnonzero(rows["reason"] == 0)
    found = np.zeros(len(good), IMAGE)
    for name in ("digest", "phash", "flat"):
        found[name] = rows[name][good]
    found["number"] = first + good
    return found


def _group_report(groups: Groups, images: Images, about: str, count: int) -> dict[str, Any]:
    return {
        "groups": groups.groups,
        "images": count,
        "could_go": count - groups.groups,
        "about": about,
        "largest": [_group(group, images) for group in groups.largest],
    }


def _group(group: Group, images: Images) -> dict[str, Any]:
    names = [images.name(number) for number in group.numbers]
    return {"images": group.images, "distance": group.distance, "names": names}


class _Counts:
    """Counts of kinds of images, and the unreadable ones."""

    def __init__(self) -> None:
        self.total: Counter[str] = Counter()
        self.formats: Counter[str] = Counter()
        self.modes: Counter[str] = Counter()
        self.reasons: Counter[str] = Counter()
        self.broken: list[dict[str, str]] = []
        self.tars: list[dict[str, str]] = []
        self.examples: dict[str, list[int]] = {"grey": [], "flat": []}

    def add(self, block: Block) -> None:
        """Add a block."""
        rows, first = block.rows, self.total["images"]
        good = rows[rows["reason"] == 0]
        self.total["images"] += len(rows)
        self.total["readable"] += len(good)
        self.total["bytes"] += int(rows["bytes"].sum())
        self.total["pixels"] += int(_pixels(good).sum())
        if block.failed:
            self.tars.append({"name": block.tar, "message": block.failed})
        for value, count in _counted(good["format"]):
            self.formats[NAMES[value]] += count
        for value, count in _counted(good[["mode", "depth", "alpha"]]):
            mode, depth, alpha = value
            said = f"{mode.decode()}, {depth} bits" + (", transparent" if alpha else "")
            self.modes[said] += count
        for kind, found in self.examples.items():
            self.total[kind] += int(good[kind].sum())
            some = np.flatnonzero((rows["reason"] == 0) & rows[kind])[: SHOWN - len(found)]
            found += (first + some).tolist()
        for number in np.flatnonzero(rows["reason"]).tolist():
            reason = REASONS[int(rows["reason"][number]) - 1]
            self.reasons[reason] += 1
            if len(self.broken) < LISTED:
                said = block.messages.get(number, "")
                one = {"name": block.names[number], "reason": reason, "message": said}
                self.broken.append(one)

    def as_json(self) -> dict[str, Any]:
        """Return all counts."""
        keys = ("images", "readable", "bytes", "pixels", "grey", "flat")
        return {key: self.total[key] for key in keys} | {
            "formats": _ordered(self.formats),
            "modes": _ordered(self.modes),
            "unreadable": {
                "images": self.reasons.total(),
                "by_reason": _ordered(self.reasons),
                "first": self.broken,
            },
            "unreadable_tars": self.tars,
        }


def _counted(values: NDArray[Any]) -> list[tuple[Any, int]]:
    found, counts = np.unique(values, return_counts=True)
    return list(zip(found.tolist(), counts.tolist(), strict=True))


def _ordered(counts: Counter[str]) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


class _Range:
    """Least, greatest and mean of a quantity, and its histograms on a logarithmic scale."""

    def __init__(self) -> None:
        self.count, self.sum = 0, 0.0
        self.low, self.high = np.inf, -np.inf
        self.clipped_low = np.inf

    def add(self, values: Values, least: float) -> None:
        """Add values; what is not a number was not measured."""
        values = values[np.isfinite(values)]
        if len(values):
            self.count += len(values)
            self.sum += float(values.sum())
            self.low, self.high = min(self.low, values.min()), max(self.high, values.max())
            self.clipped_low = max(least, self.low)

    def _edges(self, bins: int) -> Values:
        low, high = self.clipped_low, max(self.high, self.clipped_low)
        return np.geomspace(low, high if high > low else low * 1.01, bins + 1)

    def histogram(self, values: Values, least: float) -> NDArray[np.int64]:
        """Return the counts of ``FINE`` bins."""
        values = np.maximum(values[np.isfinite(values)], least)
        if not len(values):
            return np.zeros(FINE, np.int64)
        edges = self._edges(FINE)
        at = np.searchsorted(edges, values, side="right") - 1
        return np.bincount(np.clip(at, 0, FINE - 1), minlength=FINE)

    def as_json(self, fine: NDArray[np.int64], quantity: Quantity) -> dict[str, Any]:
        """Return the numbers and ``BINS`` bins."""
        found = {"unit": quantity.unit, "about": quantity.about, "measured": self.count}
        if not self.count:
            return found
        edges, below = self._edges(FINE), np.concatenate([[0], np.cumsum(fine)])
        at = np.interp([q * self.count for q in QUANTILES], below, np.arange(FINE + 1))
        quantiles = np.clip(np.interp(at, np.arange(FINE + 1), edges), self.low, self.high)
        return found | {
            "mean": _rounded(self.sum / self.count),
            "least": _rounded(self.low),
            "greatest": _rounded(self.high),
            "quantiles": {f"{q:g}": _rounded(v) for q, v in zip(QUANTILES, quantiles, strict=True)},
            "edges": [_rounded(edge) for edge in edges[:: FINE // BINS]],
            "counts": fine.reshape(BINS, -1).sum(1).tolist(),
        }


def _rounded(value: float) -> float:
    return float(f"{value:.5g}")


class _Extremes:
    """The most blurred and the most noisy images, of equal ones the first."""

    def __init__(self) -> None:
        self._kept: dict[str, dict[tuple[int, ...], tuple[float, int]]] = {
            "blurred": {},
            "noisy": {},
        }

    def add(self, first: int, rows: Rows) -> None:
        """Add rows, the first of which has a number."""
        good = (rows["reason"] == 0) & ~rows["flat"]
        for kind, name, sign in (("blurred", "blur", 1.0), ("noisy", "noise", -1.0)):
            values = sign * rows[name].astype(np.float64)
            usable = np.flatnonzero(good & np.isfinite(values))
            order = usable[np.argsort(values[usable], kind="stable")]
            kept = self._kept[kind]
            for at in order.tolist():
                worst = max((value for value, _ in kept.values()), default=np.inf)
                if len(kept) >= SHOWN and values[at] >= worst:
                    break
                kept.setdefault(tuple(rows["digest"][at].tolist()), (values[at], first + at))
                if len(kept) > SHOWN:
                    del kept[max(kept, key=lambda key: kept[key])]

    def found(self) -> dict[str, list[int]]:
        """Return their numbers by kind, the most extreme first."""
        return {
            kind: [number for _, number in sorted(kept.values())]
            for kind, kept in self._kept.items()
        }
