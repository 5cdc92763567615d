"""Tiles and colours from the command line, and their record in the results."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

Enlarger = Callable[..., None]
NOISY = "tests.commands.stochastic.Noisy"
OUT = Path("runs/tiny/predict")


@pytest.fixture
def noisy(tiny: Path) -> str:
    """Return a configuration like `tiny.yaml` with a stochastic method."""
    config = yaml.safe_load((tiny / "tiny.yaml").read_text())
    config["model"] = {"class_path": NOISY}
    config["trainer"]["callbacks"] = ["callbacks.PSNR"]
    (tiny / "tiny.yaml").write_text(yaml.safe_dump(config))
    levels = np.random.default_rng(0).integers(0, 256, (60, 70, 3), dtype=np.uint8)
    (tiny / "in").mkdir()
    Image.fromarray(levels).save(tiny / "in" / "a.png")
    return "tiny.yaml"


def predicted(enlarger: Enlarger, config: str, *more: object) -> tuple[Any, int]:
    """Return the image and its number of tiles."""
    where = ("--data.init_args.predict", "in")
    enlarger("predict", "--config", config, *where, *more)
    line = json.loads((OUT / "predictions.jsonl").read_text().splitlines()[-1])
    with Image.open(OUT / "a.png") as image:
        return np.asarray(image).astype(int), line["tiles"]


def test_tiles_are_a_matter_of_memory(noisy: str, enlarger: Enlarger) -> None:
    whole, count = predicted(enlarger, noisy)
    assert count == 1
    cut = ("--tiling.size", 32, "--tiling.overlap", 8, "--tiling.batch", 4)
    for window in ("linear", "gaussian"):
        found, count = predicted(enlarger, noisy, *cut, "--tiling.window", window)
        assert count == 3 * 3
        assert np.abs(found - whole).max() <= 1
