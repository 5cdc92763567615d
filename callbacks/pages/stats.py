"""The page of a measured set: counts, histograms and small images, in one file."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from callbacks.pages.render import embedded, render_page
from files.owned import write_whole

TEMPLATE = Path(__file__).parent / "stats.html.j2"
WIDTH, HEIGHT = 360, 150
LEFT, RIGHT, TOP, BOTTOM = 8, 8, 8, 22  # margins
NAMED = 4  # paths in the title
MESSAGES = 20  # of unreadable images
STEPS = ((1,), (1, 3), (1, 2, 5))  # ticks in each power of ten, the fewest that suffice
TICKS = 3
UNITS = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


class Thumbnail(NamedTuple):
    """A small image.

    name: Of the image.
    caption: What is special about it.
    webp: The file.
    """

    name: str
    caption: str
    webp: bytes

    @property
    def uri(self) -> str:
        """Address inside the page."""
        return embedded(self.webp)


class Section(NamedTuple):
    """Small images with one thing in common.

    about: What is shown.
    groups: Images that belong together.
    """

    title: str
    about: str
    groups: Sequence[Sequence[Thumbnail]]


class Bar(NamedTuple):
    """A bar of a histogram: its place, and its words."""

    x: float
    y: float
    width: float
    height: float
    words: str


class Histogram(NamedTuple):
    """The drawing of a quantity.

    summary: Its numbers in words.
    median: Its place.
    ticks: Places and texts.
    """

    title: str
    value: str
    summary: str
    bars: list[Bar]
    median: float
    ticks: list[tuple[float, str]]


def write_stats_page(
    page: Path, numbers: Mapping[str, Any], titles: Mapping[str, str], sections: Sequence[Section]
) -> None:
    """Write the page.

    Args:
        page: The file.
        numbers: The content of ``stats.json``.
        titles: Titles of its quantities.
        sections: Small images; those without any are left out.
    """
    found = numbers["quantities"]
    drawn = [histogram(titles[name], q) for name, q in found.items() if q["measured"]]
    text = render_page(
        TEMPLATE,
        title=_title(numbers["paths"]),
        facts=[*facts_of(numbers), ("paths", ", ".join(numbers["paths"]))],
        shares=[
            (name, [(kind, count, count / numbers["readable"]) for kind, count in counts.items()])
            for name, counts in (("Formats", numbers["formats"]), ("Pixels", numbers["modes"]))
            if counts
        ],
        histograms=drawn,
        definitions=[(titles[name], q["about"]) for name, q in found.items() if q["about"]],
        unreadable=numbers["unreadable"],
        messages=numbers["unreadable"]["first"][:MESSAGES],
        tars=numbers["unreadable_tars"],
        sections=[section for section in sections if section.groups],
        width=WIDTH,
        height=HEIGHT,
        base=HEIGHT - BOTTOM,
    )
    write_whole(page, text)


def _title(paths: Sequence[str]) -> str:
    names = [Path(path).name or path for path in paths]
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {more} more" if more > 0 else "")


def facts_of(numbers: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return what a reader wants to know first, as names and values."""
    equal, near = numbers["duplicates"], numbers["near_duplicates"]
    facts = [
        ("images", f"{numbers['images']:,}"),
        ("unreadable", f"{numbers['unreadable']['images']:,}"),
        ("size", f"{short(numbers['bytes'], ' ')}B, {short(numbers['pixels'], ' ')} pixels"),
        ("equal", _grouped(equal)),
        ("similar", _grouped(near)),
        ("grey", f"{numbers['grey']:,}"),
        ("flat", f"{numbers['flat']:,}"),
    ]
    if numbers["unreadable_tars"]:
        facts.insert(2, ("unreadable tars", f"{len(numbers['unreadable_tars']):,}"))
    return facts


def _grouped(found: Mapping[str, Any]) -> str:
    if not found["groups"]:
        return "none"
    groups = f"{found['groups']:,} group" + ("s" if found["groups"] > 1 else "")
    return f"{found['images']:,} images in {groups}"


def histogram(title: str, quantity: Mapping[str, Any]) -> Histogram:
    """Lay out a histogram.

    Args:
        title: Its title.
        quantity: An element of ``quantities`` in ``stats.json`` that was measured.
    """
    edges, counts = quantity["edges"], quantity["counts"]
    unit = f" {quantity['unit']}" if quantity["unit"] else ""
    low, high = math.log(edges[0]), math.log(edges[-1])

    def place(value: float) -> float:
        share = (math.log(max(value, edges[0])) - low) / (high - low)
        return LEFT + min(1.0, share) * (WIDTH - LEFT - RIGHT)

    most, room = max(counts), HEIGHT - TOP - BOTTOM
    bars = []
    for a, b, count in zip(edges, edges[1:], counts, strict=False):
        if count:
            tall = max(1.0, count / most * room)
            words = f"{short(a)} to {short(b)}{unit}: {count:,} images"
            wide = max(1.0, place(b) - place(a) - 1)
            bars.append(Bar(place(a), HEIGHT - BOTTOM - tall, wide, tall, words))
    middle = quantity["quantiles"]["0.5"]
    said = ", ".join(
        f"{name} {short(value)}"
        for name, value in (
            ("least", quantity["least"]),
            ("5 %", quantity["quantiles"]["0.05"]),
            ("95 %", quantity["quantiles"]["0.95"]),
            ("greatest", quantity["greatest"]),
        )
    )
    ticks = [(place(value), short(value)) for value in _ticks(edges[0], edges[-1])]
    return Histogram(title, f"median {short(middle)}{unit}", said, bars, place(middle), ticks)


def _ticks(low: float, high: float) -> list[float]:
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    found: list[float] = []
    for factors in STEPS:
        found = [f * 10.0**p for p in powers for f in factors if low <= f * 10.0**p <= high]
        if len(found) >= TICKS:
            break
    every = -(-len(found) // 7)  # more would overlap
    return found[::every] if len(found) > 1 else [low, high]


def short(value: float, space: str = "") -> str:
    """Format a number: 1234567 is ``1.23M``.

    Args:
        value: The number.
        space: What stands before the letter.
    """
    for size, letter in UNITS:
        if abs(value) >= size:
            return f"{value / size:.3g}{space}{letter}"
    return f"{value:.3g}{space}"
