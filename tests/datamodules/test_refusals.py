"""What is refused: the table `refusals.yaml`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import datamodules
from datamodules.pack import __main__ as pack
from datamodules.pack import options
from datamodules.scales import Scales
from tests.datamodules.image_files import encoded, pixels, save, write_tar
from tests.datamodules.memory import Memory, data_of, evaluation, noisy, random_image, training

TABLE = yaml.safe_load(Path(__file__).with_name("refusals.yaml").read_text())
FILES = {
    "images/b.png": (8, 6),
    "other/c.png": (8, 6),
    "hr/a.png": (12, 8),
    "lr/a.png": (6, 5),
    "small/b.png": (4, 3),
    "two/a.png": (8, 6),
    "two/a.jpg": (8, 6),
    "film/1.png": (8, 6),
    "film/film/1.png": (8, 6),
    "pairs/hr/a.png": (8, 6),
    "pairs/hr/b.png": (8, 6),
    "pairs/lr/a.png": (4, 3),
    "pairs/lr/b.png": (4, 3),
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, size in FILES.items():
        save(tmp_path / name, size)
    write_tar(tmp_path / "single.tar", {f"{name}.png": encoded(pixels()) for name in "abc"})
    (tmp_path / "two.txt").write_text("two/a.png\ntwo/a.jpg\n")
    (tmp_path / "noise.txt").write_bytes(bytes(range(256)) * 100)
    (tmp_path / "short.tar").write_bytes(b"a.png" + bytes(695))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def images(sizes: dict[str, dict[str, list[int]]], scale: float | None = None) -> Memory:
    samples: dict[str, Any] = {}
    for key, sample in sizes.items():
        samples[key] = {}
        for field, (height, width, *channels) in sample.items():
            image = random_image(height, width)
            if channels:
                image = np.zeros((height, width, *channels), np.uint8)
            samples[key][field] = image
    return Memory(samples, scale=scale)


def brighter(hr: np.ndarray, seed: int) -> np.ndarray:
    return hr + 1


def run(row: dict[str, Any], settings: dict[str, Any]) -> None:
    if "scales" in settings:
        settings["scales"] = Scales(**settings["scales"])
    if "train" in row:
        list(training(data_of(images(row["train"]), **settings)))
    elif "val" in row:
        val = {"own": images(row["val"], row.get("scale"))}
        list(evaluation(data_of(val=val, **settings), "val"))
    else:
        list(evaluation(data_of(predict=images(row["predict"])), "predict"))


@pytest.mark.parametrize("row", TABLE["data"], ids=lambda row: row["case"])
def test_data_that_is_refused(row):
    settings = {"batch_size": 1, "degradation": noisy(), **row.get("settings", {})}
    if "degradation" in row:
        settings["degradation"] = None
    if "augment" in settings:
        settings["augment"] = brighter
    with pytest.raises(ValueError, match=row["words"]):
        run(row, settings)


@pytest.mark.parametrize("row", TABLE["sources"], ids=str)
def test_sources_that_are_refused(folder, row):
    arguments = {name: value for name, value in row.items() if name not in ("class", "words")}
    source = getattr(datamodules, row["class"])(**arguments)
    with pytest.raises(ValueError, match=row["words"]):
        source.prepare(2.0)


def refusal(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The message of a refusal; the parser prints its own."""
    with pytest.raises((ValueError, SystemExit)) as raised:
        pack.main(words)
    return str(raised.value) + capsys.readouterr().err


@pytest.mark.parametrize("row", TABLE["pack"], ids=lambda row: row["typed"])
def test_what_the_packer_refuses(folder, row, capsys, monkeypatch):
    monkeypatch.setattr(options, "usable_cores", lambda: 0)  # work in this process
    assert row["words"] in refusal(row["typed"].split(), capsys)
    assert not (folder / "out").exists()


def test_the_packer_in_several_processes_is_refused(folder, monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "pack runs in one process: use --part" in refusal(["images", "out"], capsys)
