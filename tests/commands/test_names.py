r"""Names that are not UTF-8, such as `caf\xe9.png` from an old archive: enlarged and measured."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from callbacks.predict.predictions import NAME

Enlarger = Callable[..., None]
LATIN = os.fsdecode(b"caf\xe9")
BICUBIC = ("--config", "tiny.yaml", "--model", "lightning_modules.Bicubic")


@pytest.fixture
def folder(tiny: Path, photo_folder: Path) -> Path:
    """Return a folder of two images, one with such a name."""
    folder = tiny / os.fsdecode(b"\xfcber")
    try:
        folder.mkdir()
        shutil.copy(photo_folder / "0.png", folder / f"{LATIN}.png")
    except OSError:
        pytest.skip("this file system takes no such names")
    shutil.copy(photo_folder / "1.png", folder / "b.png")
    return folder


def test_predict(folder: Path, enlarger: Enlarger, caplog: pytest.LogCaptureFixture) -> None:
    (folder / f"{LATIN}2.png").write_bytes(b"broken")
    settings = ("--data.init_args.predict", folder.parent / "*ber/*", "--data.init_args.workers", 1)
    for count in ("2 written, 0 skipped", "0 written, 2 skipped"):
        caplog.clear()
        enlarger("predict", *BICUBIC, *settings, "--writer.folder", "out")
        assert f"{count} (done before), 1 unusable" in caplog.text
    (made,) = Path("out").rglob(f"{LATIN}.png")
    lines = map(json.loads, Path("out", NAME).read_text(encoding="utf-8").splitlines())
    assert made.relative_to("out").as_posix() in [line["output"] for line in lines]
