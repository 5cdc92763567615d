"""`predict` on two processes: each has its share, and all lines are in one file."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from callbacks.predict.predictions import NAME
from tests.distributed.test_two_processes import torchrun


@pytest.mark.slow
@pytest.mark.distributed
def test_two_processes_write_one_file_of_lines(
    tiny: Path,
    photo_folder: Path,
    enlarger: Callable[..., None],
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    command = [
        "predict",
        "--config",
        "tiny.yaml",
        "--model",
        "lightning_modules.Bicubic",
    ]
    command += ["--data.init_args.predict", str(photo_folder), "--writer.folder", "out"]
    torchrun(*command)
    assert capfd.readouterr().err.count("10 images written, 0 skipped") == 1  # of all processes
    lines = [json.loads(text) for text in Path("out", NAME).read_text().splitlines()]
    assert sorted(line["output"] for line in lines) == [f"{number}.png" for number in range(10)]
    enlarger(*command)  # on one process, which finds nothing to do
    assert "0 images written, 10 skipped" in caplog.text


@pytest.mark.slow
@pytest.mark.distributed
def test_tiles_of_an_image_on_two_processes(
    tiny: Path, photo_folder: Path, enlarger: Callable[..., None], capfd: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(photo_folder, "photos")
    Path("photos", "broken.png").write_bytes(b"no image")
    command = ["predict", "--config", "tiny.yaml", "--tiling.size", "16", "--tiling.overlap", "4"]
    command += ["--model", "lightning_modules.Bicubic"]
    command += ["--data.init_args.predict", "photos", "--writer.folder"]
    torchrun(*command, "both", "--tiling.together", "true")
    assert capfd.readouterr().err.count("10 images written, 0 skipped (done before), 1 unus") == 1
    enlarger(*command, "alone")
    lines = [json.loads(text) for text in Path("both", NAME).read_text().splitlines()]
    assert sorted(line["output"] for line in lines if "error" not in line) == sorted(
        path.name for path in Path("alone").glob("*.png")
    )
    assert all(line["tiles"] > 1 for line in lines if "error" not in line)
    for path in Path("alone").glob("*.png"):
        assert Path("both", path.name).read_bytes() == path.read_bytes()
