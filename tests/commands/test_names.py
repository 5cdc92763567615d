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
    for count in ("2 images written, 0 skipped", "0 images written, 2 skipped"):
        caplog.clear()
        enlarger("predict", *BICUBIC, *settings, "--writer.folder", "out")
        assert f"{count} (done before), 1 unusable" in caplog.text
    (made,) = Path("out").rglob(f"{LATIN}.png")
    lines = map(json.loads, Path("out", NAME).read_text(encoding="utf-8").splitlines())
    assert made.relative_to("out").as_posix() in [line["output"] for line in lines]


def test_test(folder: Path, enlarger: Enlarger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder.parent))  # reference features are cached there
    monkeypatch.setenv("PHOTOS", str(folder))  # a configuration is text and cannot name this folder
    source = "{class_path: datamodules.Folder, init_args: {root: $PHOTOS}}"
    metrics = (
        "[callbacks.PSNR, {class_path: callbacks.SWD, init_args: {"
        "levels: 1, reference: $PHOTOS, control: true}}]"
    )
    data = f"{{old: {source}}}"
    enlarger("test", *BICUBIC, "--data.init_args.test", data, "--trainer.callbacks", metrics)
    run = Path("runs/tiny")
    texts = {name: (run / name).read_text("utf-8") for name in ("images.json", "results.json")}
    assert f"old/{LATIN}" in json.loads(texts["images.json"])["images"][0]["values"]
    found = {r["metric"]: r for r in json.loads(texts["results.json"])["results"]}
    assert found["swd"]["protocol"]["reference"].startswith(r"\xfcber, ")
    assert r"old/caf\udce9" in (run / "report.html").read_text("utf-8")
