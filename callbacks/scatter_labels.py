"""Where the labels of a scatter plot stand, so that none covers another or a point."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

LETTER, LINE = 6.8, 13.0  # of sans-serif of 12 px: mean width of a letter, height
RADIUS = 5.0  # of a point
# Right or left of a point, and how far below it; last where its bars may be.
PLACES = ((8, -7), (-8, -7), (8, 15), (-8, 15), (11, 4), (-11, 4))


class Box(NamedTuple):
    """A rectangle in pixels, downwards as SVG counts."""

    left: float
    top: float
    right: float
    bottom: float

    def meets(self, other: Box) -> bool:
        """Whether the two have an area in common."""
        return (
            self.left < other.right
            and other.left < self.right
            and self.top < other.bottom
            and other.top < self.bottom
        )

    def holds(self, other: Box) -> bool:
        """Whether the other lies within."""
        return (
            self.left <= other.left
            and other.right <= self.right
            and self.top <= other.top
            and other.bottom <= self.bottom
        )


class Label(NamedTuple):
    """What is written beside a point.

    text: The point's label, or its number where that has no room.
    number: That number, for a list of the labels that have none; else None.
    at: Where the text starts, or ends, on its baseline.
    anchor: "start" or "end".
    """

    text: str
    number: int | None
    at: tuple[float, float]
    anchor: str


def place_labels(
    points: Sequence[tuple[float, float]], texts: Sequence[str], frame: Box, taken: Sequence[Box]
) -> list[Label]:
    """Give each point's label a free place, or a number where there is none.

    Args:
        points: In pixels.
        texts: Their labels, a point each.
        frame: What labels must not leave.
        taken: Where nothing may stand.
    """
    dots = [Box(x - RADIUS, y - RADIUS, x + RADIUS, y + RADIUS) for x, y in points]
    full = [*taken, *dots]
    widest = "0" * len(str(len(points)))
    spots: list[Label] = []  # kept for each point's number, until its label is placed
    for point in points:
        # Without any room, as among equal results, it stands over others.
        spot = _free(point, widest, frame, [*full, *map(covered, spots)])
        spots.append(spot or _beside(point, widest, PLACES[0]))
    labels: dict[int, Label] = {}
    for index, (point, text) in enumerate(zip(points, texts, strict=True)):
        kept = [covered(spot) for i, spot in enumerate(spots) if i != index and i not in labels]
        if label := _free(point, text, frame, [*full, *kept]):
            labels[index] = label
            full.append(covered(label))
    crowded = [i for i in range(len(points)) if i not in labels]
    for number, index in enumerate(sorted(crowded, key=lambda i: points[i]), start=1):
        labels[index] = spots[index]._replace(text=str(number), number=number)
    return [labels[index] for index in range(len(points))]


def _free(point: tuple[float, float], text: str, frame: Box, full: Sequence[Box]) -> Label | None:
    for place in PLACES:
        label = _beside(point, text, place)
        box = covered(label)
        if frame.holds(box) and not any(box.meets(other) for other in full):
            return label
    return None


def _beside(point: tuple[float, float], text: str, place: tuple[float, float]) -> Label:
    (x, y), (side, down) = point, place
    return Label(text, None, (x + side, y + down), "start" if side > 0 else "end")


def covered(label: Label) -> Box:
    """The place that a label takes, by a letter's mean width."""
    (x, y), width = label.at, LETTER * len(label.text)
    left = x if label.anchor == "start" else x - width
    return Box(left, y - LINE + 3, left + width, y + 3)  # letters reach below their line
