"""A downloaded archive becomes the folder that configurations name."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from PIL import Image

from commands.errors import CONFIGS, ConfigurationError
from commands.prepare import _prepare, main
from files.paths import read_text
from files.yaml import plain_yaml


def test_an_archive(tmp_path: Path) -> None:
    for number in range(24):
        (tmp_path / "kodak").mkdir(exist_ok=True)
        Image.new("RGB", (8, 6), (number, 0, 0)).save(tmp_path / f"kodak/{number}.png")
    archive = shutil.make_archive(str(tmp_path / "kodak"), "zip", tmp_path / "kodak")
    out = tmp_path / "kodak24"
    assert main(["kodak24", archive, "--out", str(out)]) == 0
    assert len(list(out.iterdir())) == 24
    (tmp_path / "kodak/5.png").unlink()
    with pytest.raises(ConfigurationError, match="has 23 images of this set, which has 24"):
        main(["kodak24", str(tmp_path / "kodak"), "--out", str(out)])


def test_squares(tmp_path: Path) -> None:
    Image.new("RGB", (30, 20)).save(tmp_path / "wide.png")
    _prepare(tmp_path, tmp_path / "out", {"count": 1, "side": 8})
    with Image.open(tmp_path / "out/wide.png") as image:
        assert image.size == (8, 8)


def test_pairs(tmp_path: Path) -> None:
    for name in ("a_SRF_2_HR", "a_SRF_2_LR", "a_SRF_2_A+"):
        (tmp_path / "image_SRF_2").mkdir(exist_ok=True)
        Image.new("RGB", (8, 6)).save(tmp_path / f"image_SRF_2/{name}.png")
    recipe = plain_yaml(read_text(CONFIGS / "needs.yaml"))["prepare"]["set5/x2"]
    _prepare(tmp_path, tmp_path / "out", recipe | {"count": 2})
    assert (tmp_path / "out/hr/a.png").is_file()
    assert (tmp_path / "out/lr/a.png").is_file()


def test_pairs_made_by_a_degradation(tmp_path: Path) -> None:
    Image.new("RGB", (90, 60), (200, 100, 50)).save(tmp_path / "0801.png")
    recipe = plain_yaml(read_text(CONFIGS / "needs.yaml"))["prepare"]["div2k_1024"]
    _prepare(tmp_path, tmp_path / "out", recipe | {"count": 1, "side": 64})
    with (
        Image.open(tmp_path / "out/hr/0801.png") as hr,
        Image.open(tmp_path / "out/lr/0801.png") as lr,
    ):
        assert (hr.size, lr.size) == ((64, 64), (16, 16))
