"""`python main.py report`: several runs side by side, and paths that are not runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from callbacks.metrics.pixels import PSNR
from callbacks.report.report import Report, main
from callbacks.results.results import Results
from files.method import Method
from tests.callbacks.parsed_page import parse, tiles
from tests.callbacks.tiny import Images, Tiny, loader, trainer


class Level(Method, Tiny):
    """A method whose output has one level everywhere."""

    def __init__(self, level: float) -> None:
        super().__init__()
        self.level, self.weights_source = level, f"some/where/level-{level}.ckpt"

    def test_step(self, batch: Any, *_: Any) -> dict[str, Tensor]:
        return {"sr": torch.full_like(batch["hr"], self.level)}


def run_of(root: Path, level: float, *data: Any, metric: PSNR | None = None) -> Path:
    callbacks = [metric or PSNR(control=True), Results(), Report()]
    trainer(root, *callbacks).test(Level(level), list(data) or loader(), verbose=False)
    return root


def compared(tmp_path: Path, *runs: Path) -> Any:
    out = tmp_path / "all.html"
    assert main([*map(str, runs), "--out", str(out)]) == 0
    return parse(out.read_text())


def test_all_outputs_of_an_image_stand_together(tmp_path: Path) -> None:
    page = compared(tmp_path, *(run_of(tmp_path / str(v), v / 100) for v in (25, 75)))
    shown = tiles(page)
    assert list(shown) == [f"tiny/{i:02d}" for i in range(7)]
    assert list(shown["tiny/00"]) == ["LR, bicubic", "25", "75", "HR"]
    assert (shown["tiny/00"]["25"] == 64).all()
    assert (shown["tiny/00"]["75"] == 191).all()
    figure = page.all("figure", "viewer")[0]
    chosen = [node.text for node in figure.all("option") if "selected" in node.attributes]
    assert chosen == ["25", "75"]


def test_images_that_differ_do_not_stand_together(tmp_path: Path) -> None:
    class Other(Images):
        def __getitem__(self, index: int) -> dict[str, Any]:
            other = super().__getitem__(index + (index == 1))  # another HR under the name of one
            return {**other, "key": self.keys[index]}

    one, two = run_of(tmp_path / "1", 0.5), run_of(tmp_path / "2", 0.5, loader(Other(3)))
    page = compared(tmp_path, one, two)
    assert list(tiles(page)) == ["tiny/00", "tiny/02"]
    assert "6 images that only one run has" in page.text
