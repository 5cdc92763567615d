"""Which crops a miniature's picture shows, and how they lie on it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from benchmarks.miniature import picture as miniature_picture
from benchmarks.miniature.picture import GAP, LINE, SIDE, chosen, copy_strips, page, wrapped
from benchmarks.miniature.plan import Plan
from benchmarks.miniature.report import strips
from benchmarks.miniature.rows import METHODS
from callbacks.report.plots import Point

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


def test_strips_of_runs_lie_beside_the_picture(tmp_path: Path) -> None:
    plan = Plan("nsarm", METHODS["nsarm"], tmp_path, Path("data.yaml"), (0,))
    written = {
        plan.trained("tokenizer") / "samples" / "scales-val-00001000.png": "old",
        plan.trained("tokenizer") / "samples" / "scales-val-00002000.png": "new",
        plan.run_of("nsarm") / "samples" / "scales-test.png": "nsarm",
    }
    for path, text in written.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    copy_strips(plan, tmp_path / "nsarm_miniature.png")
    found = {path.name: path.read_text() for path in tmp_path.glob("*.png")}
    assert found == {
        "nsarm_miniature_strip_1.png": "new",
        "nsarm_miniature_strip_2.png": "nsarm",
    }
    assert strips(plan._replace(only=("nsarm",))) == {}


def test_rows_are_points_of_a_plane(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = {"bicubic": ([24.0], [9.0]), "nsarm": ([22.0, 24.0], [5.0, 7.0])}
    monkeypatch.setattr(
        miniature_picture,
        "Measured",
        lambda run, seed: SimpleNamespace(
            means=lambda metric, scale: numbers[run.name][metric != "psnr"]
        ),
    )
    seen: list[list[Point]] = []
    monkeypatch.setattr(
        miniature_picture, "scatter", lambda points, *_, **__: seen.append(points) or ""
    )
    only = tuple(numbers)
    comparison = METHODS["comparison"]
    plan = Plan("comparison", comparison, Path("runs"), Path("data.yaml"), (0, 1), only=only)
    miniature_picture.plane(plan, "niqe")
    deviation = 2**0.5
    assert [point[1:] for point in seen[0]] == [
        ("bicubic", (24.0, 9.0), (0.0, 0.0)),
        ("NSARM", (23.0, 6.0), (pytest.approx(deviation), pytest.approx(deviation))),
    ]
