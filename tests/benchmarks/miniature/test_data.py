"""Images of the miniature, from tars as they lie in $ENLARGER_DATA."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.miniature import data
from benchmarks.miniature.data import write_images


@pytest.fixture
def tars(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "given" / "cifar10"
    folder.mkdir(parents=True)
    for part, count in (("train", 6), ("test", 3)):
        with tarfile.open(folder / f"{part}-automobile-000.tar", "w") as tar:
            for number in range(count):
                content = io.BytesIO()
                pixels = np.full((32, 32, 3), 10 * number + len(part), np.uint8)
                Image.fromarray(pixels).save(content, "PNG")
                member = tarfile.TarInfo(f"automobile_{number:04}.png")
                member.size = content.tell()
                tar.addfile(member, io.BytesIO(content.getvalue()))
    monkeypatch.setenv("ENLARGER_DATA", str(tmp_path / "given"))
    parts = {"train": ("train", 0, 4), "val": ("train", 4, 6), "test": ("test", 0, 2)}
    monkeypatch.setattr(data, "PARTS", parts)
    return folder


def test_parts_have_no_image_in_common(tars: Path, tmp_path: Path) -> None:
    assert write_images(tmp_path / "cars") == "the tars in $ENLARGER_DATA/cifar10"
    found = {
        path.relative_to(tmp_path / "cars").as_posix(): np.asarray(Image.open(path))[0, 0, 0]
        for path in sorted((tmp_path / "cars").rglob("*.png"))
    }
    assert found == {
        **{f"train/{n:04}.png": 10 * n + 5 for n in range(4)},
        **{f"val/{n:04}.png": 10 * n + 45 for n in range(2)},
        **{f"test/{n:04}.png": 10 * n + 4 for n in range(2)},
    }


def test_they_are_written_once(tars: Path, tmp_path: Path) -> None:
    write_images(tmp_path / "cars")
    (tars / "train-automobile-000.tar").unlink()
    assert write_images(tmp_path / "cars") == "the tars in $ENLARGER_DATA/cifar10"


def test_too_few_are_refused(tars: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "PARTS", {"test": ("test", 0, 4)})
    with pytest.raises(ValueError, match=r"of test are 3; expected at least 4: check the tars"):
        write_images(tmp_path / "cars")
