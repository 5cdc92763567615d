"""Frozen shards as a source of validation and test."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from degradations.tools import freeze

NOISY = {
    "class_path": "degradations.Pipeline",
    "init_args": {"stages": [{"class_path": "degradations.GaussianNoise"}]},
}


@pytest.mark.slow
def test_they_are_measured_as_the_images_are(
    tiny: Path, photo_folder: Path, enlarger: Callable[..., None]
) -> None:
    Path("noisy.yaml").write_text(yaml.safe_dump({"degradation": NOISY}))
    command = ["--config", "tiny.yaml", "--config", "noisy.yaml", "--name", "photos"]
    assert freeze.main([*command, "--out", "frozen", str(photo_folder)]) == 0
    folder = {
        "class_path": "datamodules.Folder",
        "init_args": {"root": str(photo_folder), "files": None},
    }
    shards = {
        "class_path": "datamodules.Shards",
        "init_args": {"urls": "frozen/photos-*.tar"},
    }
    results = []
    for name, source in (("made", folder), ("frozen", shards)):
        both = {"val": {"photos": source}, "test": {"photos": source}}
        degradation = {"degradation": NOISY} if name == "made" else {"degradation": None}
        Path(f"{name}.yaml").write_text(
            yaml.safe_dump({"data": {"init_args": both}, **degradation})
        )
        for verb in ("validate", "test"):
            enlarger(
                *(verb, "--config", "tiny.yaml", "--config", f"{name}.yaml", "--run.name", name),
                *("--model", "lightning_modules.Bicubic"),
                *("--trainer.callbacks", "callbacks.PSNR"),
            )
            results.append(json.loads(Path("runs", name, "results.json").read_text()))
    assert results[0]["results"][0]["n"] == 10
    assert results[0] == results[2]
    assert results[1] == results[3]
