"""The page in a real browser: slider, zoom, keys, themes, a phone's width, no network."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from callbacks.metrics.pixels import PSNR
from callbacks.report.report import Report, main
from callbacks.report.scalar_record import ScalarRecord
from callbacks.results.results import Results
from tests.callbacks.accessibility import problems
from tests.callbacks.browser import Browser, chromium
from tests.callbacks.tiny import Images, Tiny, loader, trainer

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(chromium() is None, reason="needs chromium and chromedriver on the PATH"),
]

RED, BLUE = (255, 0, 0), (0, 0, 255)
FIRST = "#image-1"


class Colored(Images):
    """A checkerboard of single pixels as HR, and a red LR."""

    def __getitem__(self, index: int) -> dict[str, Any]:
        sample = super().__getitem__(index)
        squares = torch.arange(self.side)
        board = ((squares[:, None] + squares) % 2).float().expand(3, -1, -1)
        red = torch.tensor(RED).view(3, 1, 1) / 255
        return {**sample, "hr": board.contiguous(), "lr": red.expand_as(sample["lr"]).contiguous()}


class Blue(Tiny):
    def test_step(self, batch: Any, *_: Any) -> dict[str, Tensor]:
        blue = torch.tensor(BLUE).view(1, 3, 1, 1) / 255
        return {"sr": blue.expand_as(batch["hr"]).contiguous()}


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The page of one run, and that of two."""
    folder = tmp_path_factory.mktemp("runs")
    for name, model in (("blue", Blue()), ("tiny", Tiny())):
        logger = ScalarRecord(folder / name)
        logger.log_metrics({"train/loss": 2.0}, step=100)
        logger.log_metrics({"train/loss": 1.0}, step=200)
        callbacks = [PSNR(control=True), Results(), Report()]
        run = trainer(folder / name, *callbacks, logger=logger)
        run.test(model, loader(Colored(2, side=240)), verbose=False)
    both = folder / "both.html"
    assert main([str(folder / "blue"), str(folder / "tiny"), "--out", str(both)]) == 0
    return folder / "blue/report.html", both


@pytest.fixture(scope="module")
def chrome(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture
def page(chrome: Browser, pages: tuple[Path, Path]) -> Browser:
    chrome.open(pages[0])
    return chrome


def share(page: Browser, color: tuple[int, int, int]) -> float:
    """Return the share of a colour in the slider's image, along a line below handle and names."""
    row = page.pixels(f"{FIRST} .stage")[-6].astype(int)
    return float((np.abs(row - color).max(1) < 40).mean())


def transforms(page: Browser) -> list[str]:
    """Return the zoom of each image, and its offset relative to its size."""
    script = """
      return [...document.querySelectorAll(arguments[0])].map((image) => {
        const matrix = new DOMMatrix(getComputedStyle(image).transform);
        return [matrix.a, matrix.e / image.clientWidth, matrix.f / image.clientHeight];
      })"""
    found = page.run(script, f"{FIRST} .view img")
    return [f"{zoom:.3f} {x:.2f} {y:.2f}".replace("-0.00", "0.00") for zoom, x, y in found]


def test_the_slider_shows_bicubic_on_its_left_and_the_output_on_its_right(page: Browser) -> None:
    assert share(page, RED) == pytest.approx(0.5, abs=0.03)
    assert share(page, BLUE) == pytest.approx(0.5, abs=0.03)
    width = page.run("return document.querySelector(arguments[0]).clientWidth", f"{FIRST} .stage")
    page.drag(f"{FIRST} .divider", (-width // 4, 0))
    assert share(page, RED) == pytest.approx(0.25, abs=0.03)
    assert share(page, BLUE) == pytest.approx(0.75, abs=0.03)
    value = page.run("return document.querySelector(arguments[0]).value", f"{FIRST} .slide")
    assert float(value) == pytest.approx(25, abs=1)


def test_zoom_and_pan_are_those_of_all_methods(page: Browser) -> None:
    assert set(transforms(page)) == {"1.000 0.00 0.00"}
    page.click(f"{FIRST} [data-zoom=in]")
    page.click(f"{FIRST} [data-zoom=in]")
    (zoomed,) = set(transforms(page))
    assert float(zoomed.split()[0]) > 1
    page.drag(f"{FIRST} .tile:nth-child(1) .pane", (40, 20))
    (panned,) = set(transforms(page))
    assert panned.split()[0] == zoomed.split()[0]
    assert panned != zoomed
    page.type(f"{FIRST} .stage", "0")
    assert set(transforms(page)) == {"1.000 0.00 0.00"}


def test_nothing_is_asked_for_and_nothing_complains(
    chrome: Browser, pages: tuple[Path, Path]
) -> None:
    for path in pages:
        chrome.log("performance")
        chrome.log("browser")
        chrome.open(path)
        asked = []
        for line in chrome.log("performance"):
            message = json.loads(line["message"])["message"]
            if message["method"] == "Network.requestWillBeSent":
                asked.append(message["params"]["request"]["url"])
        outside = [url for url in asked if not url.startswith("data:")]
        assert outside == [path.as_uri()]
        assert chrome.log("browser") == []


def test_nothing_fails_wcag_aa(chrome: Browser, pages: tuple[Path, Path]) -> None:
    for path in pages:
        chrome.open(path)
        assert not problems(chrome)
