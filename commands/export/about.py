"""What an exported file says of its weights, beside the tensors."""

from __future__ import annotations

import json
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

from callbacks.provenance import commit
from callbacks.results.files import made_by
from files.checksums import file_hash
from files.own_modules import class_path
from files.weights import read_file, read_metadata
from lightning_modules.base import ImageModel
from lightning_modules.frozen import sources

PROJECT = Path(__file__).resolve().parents[2] / "pyproject.toml"


@dataclass(frozen=True)
class Origin:
    """Where the exported weights come from.

    Args:
        run: The run directory.
        config: The configuration as plain values.
        file: The file of the weights, if any.
        precision: ``trainer.precision`` of the run, which export itself does not use.
    """

    run: Path
    config: dict[str, Any]
    file: Path | None
    precision: str | int | None = None


class About(TypedDict):
    """Facts about exported weights.

    enlarger: Version of this project.
    commit: Commit of the exporting code; None outside of git.
    model: The model's class path.
    init_args: Its arguments, as configured.
    scale: Scale factor.
    run: Name of the run.
    weights: File name of the weights, and whether they are EMA.
    sha256: SHA-256 of that file; None without a file.
    step: Training steps; None if unknown.
    frozen: Sources of frozen parts that are not among the tensors, by part.
    trained_with: Settings that the weights were trained with and tensors do not show.
    """

    enlarger: str
    commit: str | None
    model: str
    init_args: dict[str, Any]
    scale: float
    run: str
    weights: str
    sha256: str | None
    step: int | None
    frozen: dict[str, str]
    trained_with: dict[str, Any]


def describe_export(model: ImageModel, origin: Origin) -> About:
    """Return the facts about a model's weights.

    Args:
        model: The model with its weights.
        origin: Where the weights come from.
    """
    return {
        "enlarger": tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]["version"],
        "commit": commit(),
        "model": class_path(type(model)),
        "init_args": origin.config["model"].get("init_args") or {},
        "scale": model.scale,
        "run": origin.run.resolve().name,
        "weights": Path(made_by(model) or "").name,
        "sha256": None if origin.file is None else file_hash(origin.file),
        "step": None if origin.file is None else _step(origin.file),
        "frozen": sources(model),
        # The file's own, where it names them: the configuration may be another one.
        "trained_with": {**model.trained_with, **model.loaded_with},
    }


def _step(file: Path) -> int | None:
    if file.suffix == ".safetensors":
        step = json.loads(read_metadata(file).get("step", "null"))
    else:
        step = read_file(file).get("global_step") if file.suffix == ".ckpt" else None
    return step if isinstance(step, int) else None
