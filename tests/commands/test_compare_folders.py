"""`main.py compare` of folders of images: a table with intervals, and a page."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import enlarger as api
from main import main


def fill(folder: Path, names: str, noise: float, side: int = 24) -> None:
    """Images that are those of every other folder, but for noise of their own."""
    folder.mkdir(parents=True)
    for number, name in enumerate(names):
        true = np.random.default_rng(number).integers(40, 200, (side, side, 3))
        own = np.random.default_rng(ord(name) + int(10 * noise)).normal(0, noise, true.shape)
        Image.fromarray((true + own).round().astype(np.uint8)).save(folder / f"{name}.png")


def run(*words: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["compare", *map(str, words)])
    return int(ended.value.code or 0)


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    fill(tmp_path / "hr", "abcde", 0)
    fill(tmp_path / "near", "abcdef", 2)
    fill(tmp_path / "far", "abcde", 9)
    fill(tmp_path / "lr", "abcde", 0, 12)
    return tmp_path


def test_a_table_and_a_page(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("near", "far", "--reference", "hr", "--input", "lr", "--out", "out/page.html") == 0
    printed = capsys.readouterr().out
    (row,) = re.findall(r"│ images +│ +x1 │ psnr.*", printed)
    cells = [cell.strip() for cell in row.strip("│").split("│")]
    found = [
        api.measure({n: folders / f / f"{n}.png" for n in "abcde"}, "hr")["psnr"]
        for f in ("near", "far")
    ]
    assert cells[3:6] == ["5", *(f"{each['value']:.4f}" for each in found)]
    low, high = map(float, cells[7].split(" to "))
    assert 0 < low < found[0]["value"] - found[1]["value"] < high
    assert cells[8] == "A is better"
    assert "1 images are not in all folders: f" in printed
    page = (folders / "out/page.html").read_text()
    tiles = re.findall(r'alt="(\w+) of (\w)"', page)
    assert tiles == [(part, name) for name in "abcde" for part in ("bicubic", "near", "far", "HR")]
    assert "near 4" in page  # dB
    assert "1 images are not in all folders: f" in page


def test_without_a_reference_or_for_runs(
    folders: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    assert run("near", "far", "--metric", "psnr") == 2
    assert capsys.readouterr().err == "error: psnr needs references\n"
    (folders / "far/results.json").write_text("{}")  # a run's: then both are
    assert run("near", "far") == 2
    assert "near" in caplog.text


def test_what_cannot_be_compared(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fill(folders / "small", "ab", 0, 23)
    assert run("near", "small", "--reference", "hr") == 2
    said = capsys.readouterr().err
    assert "small/a.png has 23x23 pixels and hr/a.png 24x24" in said
    fill(folders / "other", "xy", 0)
    assert run("near", "other") == 2
    assert "near, other have no image of the same name" in capsys.readouterr().err
