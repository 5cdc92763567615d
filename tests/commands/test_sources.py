"""What `enlarger.sources` offers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

import enlarger


def configure(folder: Path, class_path: str, init_args: dict[str, Any]) -> None:
    """Write the configuration of a run or an export."""
    folder.mkdir(parents=True)
    model = {"class_path": class_path, "init_args": init_args}
    data = {"class_path": "datamodules.SRDataModule", "init_args": {"scale": 2}}
    (folder / "config.yaml").write_text(yaml.safe_dump({"model": model, "data": data}))


def test_only_runs_that_enlarge_are_offered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("edsr", "edsr/export", "moved/export"):  # a run that is there has one line
        configure(tmp_path / folder, "lightning_modules.Regression", {})
        (tmp_path / folder / "model.safetensors").touch()
    for name in ("Diffusion", "NoSuchClass", "Regression"):
        configure(tmp_path / name, f"lightning_modules.{name}", {})
        if name != "Regression":  # which has no weights
            (tmp_path / name / "model.safetensors").touch()
    place_of = "commands.interface.models.place_of"
    monkeypatch.setattr(place_of, lambda name: Path(name) if "x3" in name else None)
    expected = [str(tmp_path / "edsr"), str(tmp_path / "moved/export"), "imdn-x3"]
    assert enlarger.sources(tmp_path) == expected
