"""The examples in docstrings of public classes run as they stand."""

from __future__ import annotations

import doctest
import importlib
import io
from pathlib import Path

import numpy as np
import pytest
import torch
import webdataset
from PIL import Image

METHODS = ("ResShift", "CasArbi", "InvSR", "SelfCascade", "NSARM")
CALLBACKS = ("PSNR", "SSIM", "LPIPS", "FID", "NIQE", "EMA", "Writer")
PLACES = [
    *(f"lightning_modules.{name}" for name in METHODS),
    *(f"callbacks.{name}" for name in CALLBACKS),
    *(f"datamodules.{name}" for name in ("SRDataModule", "Folder", "Shards")),
    *("degradations.RealESRGAN", "enlarger.load", "enlarger.Enlarger"),
]


@pytest.mark.parametrize("place", PLACES)
def test_examples(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    file = io.BytesIO()
    Image.fromarray(np.full((48, 64, 3), 99, np.uint8)).save(file, "PNG")
    for folder in ("my/photos", "my/shards"):
        Path(folder).mkdir(parents=True)
    for name in ("a", "b"):
        Path(f"my/photos/{name}.png").write_bytes(file.getvalue())
    for number in range(2):
        with webdataset.TarWriter(f"my/shards/{number:03}.tar") as shard:
            shard.write({"__key__": str(number), "png": file.getvalue()})
    room, _, name = place.rpartition(".")
    found = getattr(importlib.import_module(room), name)
    known = {"image": Image.new("RGB", (32, 24))}
    tests = [t for t in doctest.DocTestFinder().find(found, name, globs=known) if t.examples]
    assert tests
    torch.manual_seed(0)
    for test in tests:
        assert doctest.DocTestRunner().run(test).failed == 0
