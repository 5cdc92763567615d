"""Which crops a miniature's picture shows, and how they lie on it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageColor

from benchmarks.miniature_picture import GAP, LINE, SIDE, chosen, page, wrapped
from benchmarks.miniature_plane import COLOR, FOOT, MARGIN, PANEL, TOP, Plane, chart

KEYS = ["kodak_x2_7/kodim01/0", "kodak_x2_7/kodim02/0", "set14_x2_7/baboon/0", "set14_x2_7/lenna/0"]


def test_the_first_of_each_set_or_those_that_are_named() -> None:
    assert chosen(KEYS, ()) == [KEYS[0], KEYS[2]]
    assert chosen(KEYS, ("set14/lenna/0", "set14/none/0")) == [KEYS[3]]


def test_a_line_for_each_image_and_a_column_for_each_row(tmp_path: Path) -> None:
    lines = []
    for line in range(2):
        files = [tmp_path / f"{line}{column}.png" for column in range(3)]
        for column, file in enumerate(files):
            Image.new("RGB", (SIDE, SIDE), (100 + 10 * column, 50 * line, 0)).save(file)
        lines.append((f"line {line}", files))
    drawn = np.asarray(page(("one", "two", "HR"), lines))
    assert drawn.shape == (LINE + 2 * (SIDE + LINE + GAP), 3 * (SIDE + GAP) - GAP, 3)
    middle = SIDE // 2
    for line in range(2):
        for column in range(3):
            row = 2 * LINE + line * (SIDE + LINE + GAP) + middle
            pixel = drawn[row, column * (SIDE + GAP) + middle]
            assert pixel.tolist() == [100 + 10 * column, 50 * line, 0]


def test_labels_are_wrapped_at_words() -> None:
    assert wrapped("one two three", 7, len) == ["one two", "three"]
    assert wrapped("incomprehensible", 7, len) == ["incomprehensible"]
    assert wrapped("one", 7, len) == ["one"]


def test_the_better_corner_of_a_plane_is_the_upper_right_one() -> None:
    points = {"best": (30.0, 1.0), "worst": (20.0, 9.0), "middle": (25.0, 5.0)}
    picture = chart([Plane("PSNR-Y, dB", "SWD", points)])
    assert picture.size == PANEL
    right, top, left, bottom = PANEL[0] - MARGIN, TOP, MARGIN, PANEL[1] - FOOT
    middle = ((left + right) // 2, (top + bottom) // 2)
    for x, y in ((right, top), (left, bottom), middle):
        assert picture.getpixel((x, y)) == ImageColor.getrgb(COLOR)
    assert picture.getpixel((left, top)) != ImageColor.getrgb(COLOR)


def test_one_point_is_a_plane_too() -> None:
    chart([Plane("PSNR-Y, dB", "SWD", {"only": (30.0, 1.0)})])
