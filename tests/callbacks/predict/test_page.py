"""predict.html: what it shows, what it makes, and what it leaves alone."""

from __future__ import annotations

import json
import os
import re
import tarfile
import urllib.parse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from callbacks.pages import images
from callbacks.predict.page import PAGE, write_predict_page
from callbacks.predict.predictions import NAME
from tests.callbacks.accessibility import problems
from tests.callbacks.browser import Browser, chromium
from tests.callbacks.parsed_page import Node, parse


def smooth(size: tuple[int, int], seed: int = 0) -> Image.Image:
    levels = np.random.default_rng(seed).integers(0, 256, (5, 4, 3), np.uint8)
    return Image.fromarray(levels).resize(size, Image.Resampling.BICUBIC)


def made(root: Path, names: Sequence[str] = ("a",), size: tuple[int, int] = (12, 10)) -> Path:
    """Return a folder as `predict` leaves it, of photographs in `in`, enlarged twice."""
    (root / "in").mkdir(exist_ok=True)
    (root / "out").mkdir(exist_ok=True)
    for seed, name in enumerate(names):
        source, output = root / "in" / f"{name}.png", f"{name}_x2.png"
        smooth(size, seed).save(source)
        smooth((2 * size[0], 2 * size[1]), seed).save(root / "out" / output)
        write_line(root / "out", key=name, input=str(source), output=output)
    return root / "out"


def write_line(folder: Path, **line: Any) -> None:
    common = {"model": "my.methods.Sharp", "weights": "w/best.ckpt", "weights_digest": "0"}
    with (folder / NAME).open("a") as file:
        file.write(json.dumps({**common, "options": {}, "scale": 2.0, **line}) + "\n")


def page_of(folder: Path) -> Node:
    write_predict_page(folder)
    return parse((folder / PAGE).read_text())


def sources(page: Node) -> list[str]:
    return [str(tile.one("img").attributes["src"]) for tile in page.all("div", "tile")]


def test_the_output_stands_beside_bicubic(tmp_path: Path) -> None:
    folder = made(tmp_path)
    page = page_of(folder)
    (figure,) = page.all("figure", "viewer")
    assert [tile.one("button").text for tile in figure.all("div", "tile")] == [
        "bicubic (plain enlargement)",
        "output",
    ]
    assert figure.one("figcaption").text == "a_x2.png 12x10 → 24x20 pixels"
    bicubic, output = sources(page)
    assert output == "a_x2.png"
    assert bicubic.startswith(".predict_html/")
    expected = smooth((12, 10)).resize((24, 20), Image.Resampling.BICUBIC)
    difference = np.asarray(Image.open(folder / bicubic), int) - np.asarray(expected, int)
    assert np.abs(difference).mean() < 4, "more than JPEG's"
    assert "method Sharp, x2, best.ckpt" in " ".join(page.one("header").text.split())


def test_parts_of_a_large_output_are_also_shown_at_100_percent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bicubic and output show the same place; Pillow's limit is not that of our own outputs."""
    monkeypatch.setattr(images, "SIDE", 100)
    monkeypatch.setattr(images, "PART", 40)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    folder = made(tmp_path, size=(90, 80))
    page = page_of(folder)
    whole, *parts = page.all("figure", "viewer")
    assert (whole.attributes["data-width"], whole.attributes["data-shown"]) == ("180", "100")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    output = np.asarray(Image.open(folder / "a_x2.png"), int)
    assert len(parts) == images.PARTS
    for number, part in enumerate(parts):
        assert (part.attributes["data-width"], part.attributes["data-shown"]) == ("40", "40")
        place = re.search(r"40x40 of 180x160 pixels, at column (\d+) and row (\d+)", part.text)
        assert place is not None
        left, top = map(int, place.groups())
        for source in sources(page)[2 * number + 2 : 2 * number + 4]:
            view = np.asarray(Image.open(folder / source), int)
            expected = output[top : top + 40, left : left + 40]
            assert np.abs(view - expected).mean() < 6, "more than JPEG's"


@pytest.mark.parametrize("tar", [False, True])
def test_without_its_input_or_from_a_tar_an_output_stands_alone(tmp_path: Path, tar: bool) -> None:
    folder = made(tmp_path)
    os.unlink(tmp_path / "in/a.png")
    if tar:
        tarfile.open(tmp_path / "in/a.png", "w").close()
    page = page_of(folder)
    assert sources(page) == ["a_x2.png"]
    assert not page.all("div", "comparison")


def test_what_cannot_be_shown_is_named(tmp_path: Path) -> None:
    folder = made(tmp_path, "ab")
    (folder / "a_x2.png").write_bytes(b"edited badly")
    write_line(folder, key="c", input="in/c.jpg", output="c_x2.png", error="it is truncated")
    page = page_of(folder)
    assert [figure.one("b").text for figure in page.all("figure")] == ["b_x2.png"]
    assert "a_x2.png is not shown: " in page.text
    assert "Not enlarged: in/c.jpg: it is truncated" in page.text
    assert [link.text for link in page.one("ul").all("a")] == ["a_x2.png"]
    write_line(folder, key="c", input=None, output="c_x2.png")  # made after all
    smooth((4, 4)).save(folder / "c_x2.png")
    assert "Not enlarged" not in page_of(folder).text
    write_line(folder, key="c", input=None, output="c_x2.png", error="it is NaN now")
    page = page_of(folder)  # an earlier run's output is none of the run that failed
    assert "Not enlarged: c: it is NaN now" in page.text
    assert not any(figure.one("b").text == "c_x2.png" for figure in page.all("figure"))


def test_a_video_is_shown_by_a_frame_of_each_third(tmp_path: Path) -> None:
    pytest.importorskip("av")
    from tests.video_files import make_video

    folder, times = made(tmp_path, []), [40 * n for n in range(60)]
    source = make_video(tmp_path / "in/clip.mkv", times, rotation=90)
    make_video(folder / "clip_x2.mp4", times, size=(64, 48), rotation=90)
    line = {"key": "clip", "input": str(source), "output": "clip_x2.mp4"}
    write_line(folder, **line, frames=60)
    page = page_of(folder)
    shown = [caption.text for caption in page.all("figcaption")]
    numbers, sizes = (11, 31, 51), "24x32 → 48x64 pixels"
    assert shown == [f"clip_x2.mp4, frame {number} of 60 {sizes}" for number in numbers]
    levels = [np.asarray(Image.open(folder / name)).mean() for name in sources(page)]
    before, after = levels[::2], levels[1::2]
    assert np.abs(np.subtract(before, after)).max() < 2
    assert np.diff(after).min() > 10  # frames have levels that increase


@pytest.mark.parametrize("name", ["50% off #1?", "é & <b>", 'it\'s "q"'])
def test_any_name(tmp_path: Path, name: str) -> None:
    folder = made(tmp_path, [name])
    page = page_of(folder)
    assert urllib.parse.unquote(sources(page)[1]) == f"{name}_x2.png"
    assert "?" not in sources(page)[1]
    assert page.one("figure").one("b").text == f"{name}_x2.png"


@pytest.mark.browser
@pytest.mark.skipif(chromium() is None, reason="needs chromium and chromedriver on the PATH")
def test_an_index_shows_one_scene_at_a_time(tmp_path: Path) -> None:
    """Only its images are loaded; nothing fails WCAG AA."""
    folder = made(tmp_path, "abc")
    page = page_of(folder)
    thumbnails = [link.one("img").attributes["src"] for link in page.one("nav", "index").all("a")]
    assert [Image.open(folder / str(name)).size for name in thumbnails] == [(24, 20)] * 3
    loaded = "return [...document.querySelectorAll('.pane img')].map((i) => i.naturalWidth > 0)"
    with Browser(tmp_path / "profile") as browser:
        browser.open(folder / PAGE)
        assert browser.run(loaded) == [True, True, False, False, False, False]
        browser.click(".index a:nth-child(3)")
        shown = "return [...document.querySelectorAll('.scene')].map((scene) => scene.hidden)"
        assert browser.run(shown) == [True, True, False]
        assert not problems(browser)
