"""What an exported file says of its weights, beside the tensors."""

from __future__ import annotations

import json
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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


def metadata(model: ImageModel, origin: Origin) -> dict[str, str]:
    """Return what an exported file says of its weights; values are text, or JSON.

    Args:
        model: The model with its weights.
        origin: Where the weights come from.

    Returns:
        ``format``, which other libraries read; ``enlarger``, the version of this project, and its
        ``commit``; class path (``model``), ``init_args`` and ``scale`` of the model; name of the
        ``run``; file name (``weights``), ``sha256`` and training ``step`` of the weights, null if
        unknown; the sources of ``frozen`` parts that are not among the tensors; and what the
        weights were ``trained_with`` and tensors do not show.
    """
    about = {
        "format": "pt",
        "enlarger": tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]["version"],
        "commit": commit(),
        "model": class_path(type(model)),
        "init_args": origin.config["model"].get("init_args") or {},
        "scale": model.scale,
        "run": origin.run.resolve().name,
        "weights": Path(made_by(model) or "").name,
        "sha256": None if origin.file is None else file_hash(origin.file),
        "step": None if origin.file is None else _training_step(origin.file),
        "frozen": sources(model),
        # The file's own, where it names them: the configuration may be another one.
        "trained_with": {**model.trained_with, **model.loaded_with},
    }
    return {
        key: value if isinstance(value, str) else json.dumps(value) for key, value in about.items()
    }


def _training_step(file: Path) -> int | None:
    """Return the step at which the weights of a checkpoint or an export were trained, if known."""
    if file.suffix == ".safetensors":
        step = json.loads(read_metadata(file).get("step", "null"))
    else:
        step = read_file(file).get("global_step") if file.suffix == ".ckpt" else None
    return step if isinstance(step, int) else None
