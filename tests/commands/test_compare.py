"""`main.py compare`: folders of images by the path of runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import enlarger
from callbacks.results.compare import mean_interval
from callbacks.results.files import append
from commands import compare
from tests.callbacks.results.measured import row

SIZE = 40, 32
FILTERS = {"sharp": Image.Resampling.LANCZOS, "soft": Image.Resampling.BILINEAR}


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """HR, and outputs of two methods, one of them with a suffix of its own."""
    monkeypatch.chdir(tmp_path)
    for name in ("hr", *FILTERS):
        Path(name).mkdir()
    for number in range(6):
        levels = np.random.default_rng(number).integers(0, 256, (10, 12, 3), np.uint8)
        hr = Image.fromarray(levels).resize(SIZE, Image.Resampling.BICUBIC)
        hr.save(f"hr/{number}.png")
        lr = hr.resize((SIZE[0] // 2, SIZE[1] // 2), Image.Resampling.BICUBIC)
        for method, kind in FILTERS.items():
            suffix = "bmp" if method == "soft" else "png"
            lr.resize(SIZE, kind).save(f"{method}/{number}.{suffix}")


def test_folders_are_compared_by_the_numbers_of_measure(folders: None, capsys: Any) -> None:
    assert compare.main(["sharp", "soft", "--reference", "hr", "--scale", "2"]) == 0
    of = {m: enlarger.measure(m, "hr", scale=2)["psnr"]["images"] for m in FILTERS}
    differences = np.array([of["sharp"][name] - of["soft"][name] for name in of["sharp"]])
    low, high = mean_interval(differences)
    printed = capsys.readouterr().out
    assert f"{differences.mean():+.4f}" in printed
    assert f"{low:+.4f} to {high:+.4f}" in printed
    assert "A is better" in printed


def test_runs_are_compared_by_their_numbers(tmp_path: Path, capsys: Any) -> None:
    for name, value in (("one", 31.0), ("two", 30.0)):
        images = [row(image=f"set5/{i}", value=value + i) for i in range(6)]
        append(tmp_path / name, [row(value=value, n=6), *images])
    assert compare.main([str(tmp_path / "one"), str(tmp_path / "two")]) == 0
    assert "A is better" in capsys.readouterr().out
    with pytest.raises(FileNotFoundError, match="name the directory of a run"):
        compare.main([str(tmp_path / "one"), "nowhere"])
