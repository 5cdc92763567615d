"""Report: the images that a run keeps, and the page at its end."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from callbacks.metrics.pixels import PSNR
from callbacks.report.images import load_index
from callbacks.report.report import Report
from callbacks.report.scalar_record import ScalarRecord
from callbacks.results.results import Results
from degradations.bicubic import resize
from files.method import Method
from tests.callbacks.parsed_page import Node, parse, table, tiles
from tests.callbacks.test_distributed import Sharded
from tests.callbacks.tiny import Images, Tiny, collate, loader, trainer


def page_of(run: Path) -> Node:
    return parse((run / "report.html").read_text())


def bytes_of(image: Tensor) -> np.ndarray[Any, Any]:
    return (image[0].clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()


def run_of(root: Path, *data: Any, **settings: Any) -> Path:
    """Test a run, and return its directory."""
    callbacks = [PSNR(control=True), Results(), Report(**settings)]
    trainer(root, *callbacks).test(Tiny(), list(data) or loader(), verbose=False)
    return root


def test_images_are_those_that_were_measured_to_the_bit(tmp_path: Path) -> None:
    shown = tiles(page_of(run_of(tmp_path, limit=3)))
    assert list(shown) == ["tiny/00", "tiny/01", "tiny/02"]
    sample = collate([Images()[1]])
    output = Tiny().eval()(sample["lr"], sample["size"])
    expected = {
        "LR, bicubic": bytes_of(resize(sample["lr"], (24, 24))),
        "output": bytes_of(output),
        "HR": bytes_of(sample["hr"]),
    }
    assert list(shown["tiny/01"]) == list(expected)
    for name, pixels in expected.items():
        assert np.array_equal(shown["tiny/01"][name], pixels), name


def test_numbers_stand_with_their_protocols(tmp_path: Path) -> None:
    page = page_of(run_of(tmp_path))
    results = json.loads((tmp_path / "results.json").read_text())["results"]
    rows = table(page)
    assert [row["psnr ↑"] for row in rows] == [f"{r['value']:.4f}" for r in results[::-1]]
    assert [row["weights"] for row in rows] == ["bicubic", "none"]
    assert "color y, border scale" in page.all("details")[1].text
    metric = PSNR()
    trainer(tmp_path, metric).test(Tiny(), loader(), verbose=False)
    captions = [tile.all("span", "muted")[0].text for tile in page.all("div", "tile")]
    assert captions[1] == f"psnr {metric.images['tiny']['tiny/00']:.4g}"


def test_fit_shows_the_latest_validation_and_the_curves(tmp_path: Path) -> None:
    logger = ScalarRecord(tmp_path)

    class Logs(Method, Tiny):
        weights_source = "begun/with.pth"

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            loss = super().training_step(batch, batch_idx)
            self.log("train/loss", loss)
            return loss

    model, settings = Logs(), {"max_epochs": 2, "num_sanity_val_steps": 1, "log_every_n_steps": 1}
    run = trainer(tmp_path, PSNR(), Report(limit=1), logger=logger, **settings)
    run.fit(model, loader(), loader())
    page = page_of(tmp_path)
    sample = collate([Images()[0]])
    output = model.eval()(sample["lr"], sample["size"])
    assert np.array_equal(tiles(page)["tiny/00"]["output"], bytes_of(output))
    assert "validation after 8 steps" in page.text
    charts = [chart.one("span", "name").text for chart in page.all("figure", "chart")]
    assert {"train/loss", "val/psnr"} <= set(charts)
    losses = page.all("figure", "chart")[charts.index("train/loss")].one("polyline")
    assert len((losses.attributes["points"] or "").split()) == 8
    # Files of the first validation that the second one replaced are removed.
    assert len(list((tmp_path / "report/images").iterdir())) == 3


def test_large_images_are_cut_to_the_same_window_in_all_methods(tmp_path: Path) -> None:
    data = loader(Images(1, side=80), batch_size=1)
    index = load_index(run_of(tmp_path, data, side=16))
    assert index is not None
    (image,) = index["evaluations"][0]["images"]
    top, left, height, width = image["window"]
    assert (height, width, image["size"]) == (16, 16, (80, 80))
    assert top % 2 == left % 2 == 0  # LR pixels are shown whole
    hr = Images(1, side=80)[0]["hr"][None, :, top : top + 16, left : left + 16]
    page = page_of(tmp_path)
    assert np.array_equal(tiles(page)["tiny/00"]["HR"], bytes_of(hr))
    assert f"16x16 of 80x80 pixels, from {left}, {top}" in page.text


def test_a_later_evaluation_replaces_that_of_its_dataset_only(tmp_path: Path) -> None:
    run_of(tmp_path, loader(Images(2, "a")), loader(Images(2, "b")))

    class Black(Tiny):
        def test_step(self, batch: Any, *_: Any) -> dict[str, Tensor]:
            return {"sr": torch.zeros_like(batch["hr"])}

    run = trainer(tmp_path, Report())
    run.test(Black(), loader(Images(1, "a")), verbose=False)
    shown = tiles(page_of(tmp_path))
    assert list(shown) == ["a/00", "b/00", "b/01"]
    assert not shown["a/00"]["output"].any()
    assert shown["b/00"]["output"].any()
    named = {name for found in shown.values() for name in found}
    assert named == {"LR, bicubic", "output", "HR"}


def test_without_hr_or_lr(tmp_path: Path) -> None:
    class Without(Images):
        def __init__(self, missing: str) -> None:
            super().__init__(1, f"no_{missing}")
            self.missing = missing

        def __getitem__(self, index: int) -> dict[str, Any]:
            return {k: v for k, v in super().__getitem__(index).items() if k != self.missing}

    class Grey(Tiny):
        def test_step(self, batch: Any, *_: Any) -> dict[str, Tensor]:
            return {"sr": torch.full((1, 3, 24, 24), 0.5)}

    sets = [loader(Without(name), batch_size=1) for name in ("hr", "lr")]
    trainer(tmp_path, Report()).test(Grey(), sets, verbose=False)
    shown = tiles(page_of(tmp_path))
    assert list(shown["no_hr/00"]) == ["LR, bicubic", "output"]
    assert list(shown["no_lr/00"]) == ["output", "HR"]


class Hostile(Images):
    """Names that would run a script, end an attribute or leave the folder."""

    def __init__(self) -> None:
        super().__init__(2, "<script>alert(1)</script>")
        self.keys = ["\"'><img src=x onerror=alert(1)>", "../../&amp;</style>"]


def test_hostile_names_are_only_text(tmp_path: Path) -> None:
    root = tmp_path / "<b>run"
    page = page_of(run_of(root, loader(Hostile())))
    assert list(tiles(page)) == Hostile().keys
    assert len(page.all("script")) == 1
    assert len(page.all("style")) == 2  # one is for browsers without scripts
    assert not page.all("b", "run")
    for node in page.all("*"):
        assert not [name for name in node.attributes if name.startswith("on")]
    assert table(page)[0]["dataset"] == "<script>alert(1)</script>"
    assert page.one("h1").text == "<b>run"
    assert not (tmp_path.parent / "&amp;</style>").exists()


def test_the_page_needs_no_network(tmp_path: Path) -> None:
    text = (run_of(tmp_path) / "report.html").read_text()
    assert not re.findall(r"https?:|url\(|import ", re.sub(r"base64,[\w+/=]+", "", text))
    page = parse(text)
    for node in page.all("*"):
        for name in ("src", "href", "data", "action"):
            assert (node.attributes.get(name) or "data:").startswith(("data:", "#"))
    policy = page.all("meta")[2].attributes["content"]
    assert policy is not None
    assert policy.startswith("default-src 'none'; img-src data:;")


def test_nothing_that_fails_here_ends_the_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "report").write_text("a file where the folder would be")
    (tmp_path / "report.html").mkdir()
    metric = PSNR()
    trainer(tmp_path, metric, Results(), Report()).test(Tiny(), loader(), verbose=False)
    assert metric.records
    assert (tmp_path / "results.json").exists()
    assert "the report lacks the image tiny/00" in caplog.text
    assert "report.html was not written" in caplog.text


class Zeros(Sharded):
    """A model with fixed weights, so that processes agree without training."""

    def __init__(self) -> None:
        super().__init__()
        nn.init.zeros_(self.net.weight)

    def test_dataloader(self) -> DataLoader[Any]:
        return self.val_dataloader()


@pytest.mark.slow
@pytest.mark.distributed
def test_two_processes_write_the_page_of_one(tmp_path: Path) -> None:
    pages = []
    for devices in (1, 2):
        callbacks = [PSNR(), Results(), Report(limit=6)]
        strategy = "ddp_spawn" if devices > 1 else "auto"
        root = tmp_path / str(devices) / "run"
        run = trainer(root, *callbacks, devices=devices, strategy=strategy)
        run.test(Zeros(), verbose=False)
        pages.append((root / "report.html").read_text())
    shown = [tiles(parse(text)) for text in pages]
    assert list(shown[0]) == [f"tiny/{i:02d}" for i in range(6)]
    # The header says when the page was written.
    same = [re.sub(r"(?s)<header>.*?</header>", "", text) for text in pages]
    assert same[0] == same[1]
