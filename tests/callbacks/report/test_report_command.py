"""`python main.py report`: several runs side by side, and paths that are not runs."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from callbacks.metrics.pixels import PSNR
from callbacks.report.images import load_index
from callbacks.report.report import Report, main
from callbacks.report.scalar_record import ScalarRecord
from callbacks.results.results import Results
from files.method import Method
from files.owned import NotOursError
from tests.callbacks.parsed_page import parse, table, tiles
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


def compared(tmp_path: Path, *runs: Path, limit: int | None = None) -> Any:
    out = tmp_path / "all.html"
    options = [] if limit is None else ["--limit", str(limit)]
    assert main([*map(str, runs), "--out", str(out), *options]) == 0
    return parse(out.read_text())


def test_all_outputs_of_an_image_stand_together(tmp_path: Path) -> None:
    page = compared(tmp_path, *(run_of(tmp_path / str(v), v / 100) for v in (25, 75)), limit=2)
    shown = tiles(page)
    assert list(shown) == ["tiny/00", "tiny/01"]
    assert list(shown["tiny/00"]) == ["LR, bicubic", "25", "75", "HR"]
    assert (shown["tiny/00"]["25"] == 64).all()
    assert (shown["tiny/00"]["75"] == 191).all()
    figure = page.all("figure", "viewer")[0]
    chosen = [node.text for node in figure.all("option") if "selected" in node.attributes]
    assert chosen == ["25", "75"]


def test_other_protocols_have_columns_of_their_own(tmp_path: Path) -> None:
    runs = [run_of(tmp_path / "y", 0.5), run_of(tmp_path / "rgb", 0.5, metric=PSNR(color="rgb"))]
    page = compared(tmp_path, *runs)
    rows = table(page)
    assert [(row["run"], row["psnr (1) ↑"] == "-", row["psnr (2) ↑"] == "-") for row in rows] == [
        ("bicubic", False, True),
        ("y", False, True),
        ("rgb", True, False),
    ]
    # Images have no columns, and so no number.
    assert "psnr" not in page.all("div", "tiles")[0].text


def test_images_that_differ_do_not_stand_together(tmp_path: Path) -> None:
    class Other(Images):
        def __getitem__(self, index: int) -> dict[str, Any]:
            other = super().__getitem__(index + (index == 1))  # another HR under the name of one
            return {**other, "key": self.keys[index]}

    one, two = run_of(tmp_path / "1", 0.5), run_of(tmp_path / "2", 0.5, loader(Other(3)))
    page = compared(tmp_path, one, two)
    assert list(tiles(page)) == ["tiny/00", "tiny/02"]
    assert "6 images that only one run has" in page.text


def test_runs_without_images_numbers_or_logs_still_appear(tmp_path: Path) -> None:
    whole = run_of(tmp_path / "whole", 0.5)
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun/config.yaml").write_text("seed_everything: 0 # <mine>\n")
    trainer(tmp_path / "numbers", PSNR(), Results()).test(Tiny(), loader(), verbose=False)
    page = compared(tmp_path, whole, tmp_path / "begun", tmp_path / "numbers")
    assert [node.text for node in page.one("header").all("h3")] == ["whole", "begun", "numbers"]
    assert {row["run"] for row in table(page)} == {"bicubic", "whole", "numbers"}
    assert "seed_everything: 0 # <mine>" in page.one("pre").text
    assert "No two runs show the same image." in page.text


def test_scalars_of_one_value_are_no_curves(tmp_path: Path) -> None:
    logger = ScalarRecord(tmp_path / "a")
    logger.log_metrics({"guard/skipped": 0.0, "test/psnr": 1.0, "epoch": 3}, step=100)
    assert main([str(tmp_path / "a")]) == 0
    page = parse((tmp_path / "a/report.html").read_text())
    assert not page.all("figure", "chart")
    assert [node.text for node in page.all("section")[2].all("dt")] == ["guard/skipped"]


def test_an_image_that_was_removed_is_said(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", 0.5)
    index = load_index(run)
    assert index is not None
    for name in index["evaluations"][0]["images"][0]["files"].values():
        (run / "report/images" / name).unlink(missing_ok=True)
    assert main([str(run)]) == 0
    page = parse((run / "report.html").read_text())
    assert list(tiles(page))[1:] == [f"tiny/{i:02d}" for i in range(2, 7)]


def test_what_is_no_run_is_refused_with_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for run, words in (
        ("empty", "has neither results.json, report/images.json, config.yaml nor report/scalars"),
        ("missing", "is no directory"),
    ):
        with pytest.raises(ValueError, match=rf"{tmp_path / run} .*{words}"):
            main([str(tmp_path / run), "--out", str(tmp_path / "x.html")])
    run = run_of(tmp_path / "run", 0.5)
    with pytest.raises(ValueError, match="is given twice"):
        main([str(run), str(run)])
    (tmp_path / "x.html").write_text("<p>mine</p>")
    with pytest.raises(NotOursError, match=r"x\.html exists, and Enlarger did not write it"):
        main([str(run), "--out", str(tmp_path / "x.html")])
    assert (tmp_path / "x.html").read_text() == "<p>mine</p>"


def test_damaged_results_are_a_remark(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = run_of(tmp_path / "run", 0.5)
    (run / "results.json").write_text("[")
    with caplog.at_level(logging.WARNING):
        assert main([str(run)]) == 0
    page = parse((run / "report.html").read_text())
    assert "is no file of results, or damaged" in page.one("header").text
    assert len(tiles(page)) == 7


def test_deviations_over_seeds(tmp_path: Path) -> None:
    import json

    run = run_of(tmp_path / "run", 0.5)
    content = json.loads((run / "results.json").read_text())
    for result in content["results"]:
        if result["checkpoint"] != "bicubic":
            result |= {"value": 12.34567, "std": 0.01234, "seeds": [0, 1, 2]}
    (run / "results.json").write_text(json.dumps(content))
    assert main([str(run)]) == 0
    page = parse((run / "report.html").read_text())
    assert table(page)[1]["psnr ↑"] == "12.3457 ± 0.0123"
    assert "over 3 seeds" in page.text


def test_numbers_over_a_hyperparameter(tmp_path: Path) -> None:
    runs = [run_of(tmp_path / name, float(name)) for name in ("0.25", "0.5", "0.75")]
    for run, rate in zip(runs, ("0.001", "1e-2", "0.1"), strict=True):  # YAML 1.1 has 1e-2 as text
        optimizer = f"{{class_path: torch.optim.Adam, init_args: {{lr: {rate}}}}}"
        (run / "config.yaml").write_text(f"model: {{init_args: {{optimizer: {optimizer}}}}}")
    command = [*map(str, runs), "--out", str(tmp_path / "all.html"), "--x"]
    assert main([*command, "model.optimizer.lr"]) == 0
    chart = parse((tmp_path / "all.html").read_text()).one("figure", "chart")
    dots = chart.all("circle")
    assert [float(dot.attributes["cx"] or 0) for dot in dots] == [46, 197, 348]  # powers of ten
    assert [dot.text.split(": ")[0] for dot in dots] == ["0.25", "0.5", "0.75"]
    said = chart.one("output").text
    assert said.endswith(" at 0.01, chance included")  # the middle level is the nearest
    with pytest.raises(ValueError, match=r"has model\.optimizer\.eps: None; give --x the key"):
        main([*command, "model.optimizer.eps"])
