"""Labels of a scatter plot: none covers another, a point or the frame, however many there are."""

from __future__ import annotations

import itertools
import random
from xml.etree import ElementTree

import pytest

from callbacks.scatter import Point, Quantity, scatter
from callbacks.scatter_labels import RADIUS, Box, covered, place_labels

FRAME = Box(0, 0, 500, 300)


def dot(point: tuple[float, float]) -> Box:
    x, y = point
    return Box(x - RADIUS, y - RADIUS, x + RADIUS, y + RADIUS)


def test_a_lone_label_is_right_of_its_point() -> None:
    (label,) = place_labels([(100, 100)], ["bicubic"], FRAME, [])
    assert (label.text, label.number, label.anchor) == ("bicubic", None, "start")
    assert label.at[0] > 100


def test_a_label_turns_at_the_frame() -> None:
    (label,) = place_labels([(480, 100)], ["bicubic"], FRAME, [])
    assert (label.text, label.anchor) == ("bicubic", "end")


def test_a_taken_place_stays_free() -> None:
    corner = Box(400, 250, 500, 300)
    (label,) = place_labels([(395, 285)], ["bicubic"], FRAME, [corner])
    assert not covered(label).meets(corner)


@pytest.mark.parametrize("seed", range(5))
def test_no_label_covers_another_or_a_point(seed: int) -> None:
    draw = random.Random(seed)
    # In a grid, so that each number has room.
    cells = draw.sample([(x, y) for x in range(30, 500, 60) for y in range(30, 300, 40)], 30)
    points = [(x + draw.uniform(-5, 5), y + draw.uniform(-5, 5)) for x, y in cells]
    texts = [f"method {i}, " + "steps" * (i % 3) for i in range(30)]
    labels = place_labels(points, texts, FRAME, [])
    boxes = [covered(label) for label in labels]
    for first, second in itertools.combinations(boxes, 2):
        assert not first.meets(second)
    for box, point in itertools.product(boxes, points):
        assert not box.meets(dot(point))
    assert all(FRAME.holds(box) for box in boxes)
    numbers = [label.number for label in labels if label.number is not None]
    assert sorted(numbers) == list(range(1, len(numbers) + 1))
    assert 0 < len(numbers) < 30  # else the case is too easy, or all are numbers
    for label, text in zip(labels, texts, strict=True):
        assert label.text == (text if label.number is None else str(label.number))


def test_what_has_no_room_is_listed_below() -> None:
    labels = [f"a method with a name of its own, {i}" for i in range(9)]
    points = [Point(i, label, (30.0, 0.5)) for i, label in enumerate(labels)]  # equal results
    points.append(Point(9, "far", (20.0, 0.1)))
    svg = ElementTree.fromstring(scatter(points, Quantity("x", True), Quantity("y", None), []))
    texts = [(e.get("class"), e.text or "") for e in svg.iter("{http://www.w3.org/2000/svg}text")]
    beside = [text for kind, text in texts if kind == "label"]
    listed = " ".join(text for kind, text in texts if kind == "note")
    numbers = [text for text in beside if text.isdigit()]
    assert len(beside) == 10
    assert numbers
    assert "far" in beside
    for label in labels:
        (number,) = [n for n in numbers if f"{n}:\N{NO-BREAK SPACE}{label}" in listed] or [None]
        assert (number is None) == (label in beside)
