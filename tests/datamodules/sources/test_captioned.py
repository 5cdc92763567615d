"""Captions of a source's images: from folders, from files beside them, from the source."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from datamodules import Captioned, Folder, UnreadableImage


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two folders of one image each, with texts beside them."""
    for seed, name in enumerate(("cars/a.png", "cats/b.jpg")):
        path = tmp_path / name
        path.parent.mkdir()
        pixels = np.random.default_rng(seed).integers(0, 256, (8, 9, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
    (tmp_path / "cars/a.txt").write_bytes("a red {car}\r\n".encode("utf-16"))
    (tmp_path / "cats/b.jpg.txt").write_text("a cat\n")
    return tmp_path


def texts(source: Captioned) -> list[str]:
    source.prepare(1.0)
    found = [source.read(i)["text"] for i in range(len(source.keys))]
    assert found == [source.read_crop(i, 1, 2, 4, 5)["text"] for i in range(len(source.keys))]
    return found


def test_texts_beside_the_files(photos: Path) -> None:
    source = Captioned(Folder(str(photos)), by="file")
    assert texts(source) == ["a red {car}", "a cat"]
    assert texts(Captioned(source, by="source", template="{}!")) == ["a red {car}!", "a cat!"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"template": "a car"}, r"Captioned\.template is 'a car'; expected one \{\}"),
        ({"by": "file", "names": {"a": "b"}}, r"names stand for folders, and by is file"),
    ],
)
def test_arguments_that_do_not_fit(options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Captioned(Folder("."), **options)


def test_what_is_missing_is_named(photos: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ValueError, match=r"a lies in no folder .*set Captioned\.by to file or"):
        Captioned(Folder(str(photos / "cars"))).prepare(1.0)
    with pytest.raises(ValueError, match=r"has no caption: set Captioned\.by to folder or file"):
        texts(Captioned(Folder(str(photos)), by="source"))
    (photos / "cars/a.txt").unlink()
    assert texts(Captioned(Folder(str(photos)), by="file")) == ["", "a cat"]
    assert "1 of 2 images have no text beside them" in caplog.text
    with pytest.raises(ValueError, match=r"a\.png and all other images have no caption"):
        Captioned(Folder(str(photos / "cars")), by="file").prepare(1.0)
    (photos / "cars/a.txt").write_bytes(b"\xff\xfa")
    source = Captioned(Folder(str(photos)), by="file")
    source.prepare(1.0)
    with pytest.raises(UnreadableImage, match=r"cars/a: its caption is not UTF-8 text"):
        source.read(0)
