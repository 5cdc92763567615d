"""``main.py export``: write weights for other programs.

``export RUN`` is ``export --config RUN/config.yaml``. The folder is written under another name,
and only a complete folder is renamed.
"""

from __future__ import annotations

import copy
import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from safetensors import SafetensorError

from commands.arguments.saved_config import as_yaml
from commands.errors import ConfigurationError
from commands.export.about import Origin, metadata
from commands.export.formats import (
    backbones,
    check_community,
    check_one_pass,
    write_backbones,
    write_community,
    write_onnx,
    write_tensors,
)
from commands.run.files import CONFIG
from commands.run.weights import EXPORT
from files.owned import whole_folder
from files.paths import expand_path
from lightning_modules.base import ImageModel
from lightning_modules.methods.regression import OnePass
from lightning_modules.networks.spandrel import Spandrel

log = logging.getLogger(__name__)
ONNX = "model.onnx"
COMMUNITY = "network.safetensors"

# Trainer arguments that work on any machine, not only the one that trained the run.
ALONE = {
    "accelerator": "cpu",
    "strategy": "auto",
    "devices": 1,
    "num_nodes": 1,
    "precision": None,
    "callbacks": None,
    "plugins": None,
    "profiler": None,
    "logger": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "enable_checkpointing": False,
}


@dataclass(frozen=True)
class ExportOptions:
    """What ``export`` writes, and where.

    Args:
        out: Output folder; by default ``export`` in the run's folder.
        onnx: Also write ``model.onnx``, for a method that is one pass of a network; requires the
            extra ``onnx``.
        diffusers: Also write diffusion networks and autoencoders, a folder each, in diffusers'
            layout.
        community: Also write ``network.safetensors``: the network alone, by the names that spandrel
            and programs based on it know; requires the extra ``spandrel``.
    """

    out: str | None = None
    onnx: bool = False
    diffusers: bool = False
    community: bool = False


def model_alone(config: Namespace) -> None:
    """Change a configuration so that the model alone is built: no images, callbacks or devices.

    Args:
        config: Configuration of the command; changed in place.
    """
    for key, value in ALONE.items():
        config.trainer[key] = value
    for key in ("train", "val", "test", "predict"):
        config.data.init_args[key] = None
    config.degradation = None


def export(model: ImageModel, options: ExportOptions, origin: Origin) -> None:
    """Write the folder.

    Args:
        model: The model with its weights.
        options: Options of the command.
        origin: Where the weights come from.

    Raises:
        ConfigurationError: If the model cannot be exported in a format, or the folder exists.
    """
    out = origin.run / "export"
    if options.out:
        out = Path(expand_path(options.out, "export.out"))
    model.eval()
    _refuse_impossible(model, options, out)
    origin = replace(origin, config=_with_network_arguments(origin.config, model))
    with whole_folder(out) as beside:
        try:
            lines = _write(model, options, origin, beside)
        except SafetensorError as error:  # of a full disk, too
            raise OSError(f"{out} cannot be written ({error}): set another export.out") from error
    for line in lines:
        log.info("%s", line)
    log.info("exported to %s", out)


def _refuse_impossible(model: ImageModel, options: ExportOptions, out: Path) -> None:
    """Raise if the model has no such format, or the folder has content, before any is written."""
    if options.onnx:
        check_one_pass(model)
    if options.community:
        check_community(model)
    if options.diffusers and not backbones(model):
        raise ConfigurationError(
            f"{type(model).__name__} has no network of diffusers: remove --export.diffusers"
        )
    is_empty = out.is_dir() and not any(out.iterdir())
    if out.exists() and not is_empty:
        raise ConfigurationError(f"{out} exists: remove it, or name another --export.out")


def _with_network_arguments(config: dict[str, Any], model: ImageModel) -> dict[str, Any]:
    """Return a configuration that builds spandrel's network from arguments in place of its file.

    So the export stands alone: the file may be gone.
    """
    network = model.network if isinstance(model, OnePass) else None
    if not isinstance(network, Spandrel) or network.weights_source is None:
        return config
    config = copy.deepcopy(config)
    config["model"]["init_args"]["network"]["init_args"] = network.without_path()
    return config


def _write(model: ImageModel, options: ExportOptions, origin: Origin, folder: Path) -> list[str]:
    """Write all files of the export; return a line on each for the user."""
    about = metadata(model, origin)
    lines = [write_tensors(model, folder / EXPORT, about)]
    if options.community:
        lines.append(write_community(model, folder / COMMUNITY))
    if options.diffusers:
        lines += write_backbones(model, folder)
    if options.onnx:
        lines.append(write_onnx(model, folder / ONNX, about))
    (folder / CONFIG).write_text(as_yaml(_config_of_export(model, origin)), encoding="utf-8")
    for path in folder.rglob("*"):
        if path.is_file():  # safetensors creates files that only their owner may read
            path.chmod(folder.stat().st_mode & 0o666)
    return lines


def _config_of_export(model: ImageModel, origin: Origin) -> dict[str, Any]:
    """Return the part of a run's configuration that ``predict`` needs.

    It names no file of weights, so that the folder may move: ``predict --model FOLDER`` does.
    """
    config = origin.config
    arguments = {**(config["model"].get("init_args") or {}), "weights": None}
    content: dict[str, Any] = {}
    for key in ("seed_everything", "tiling"):
        if key in config:
            content[key] = config[key]
    content["trainer"] = {"precision": origin.precision}
    content["model"] = {"class_path": config["model"]["class_path"], "init_args": arguments}
    content["data"] = {
        "class_path": config["data"]["class_path"],
        "init_args": {"scale": model.scale},
    }
    content["run"] = {
        "name": origin.run.resolve().name,
        "matmul_precision": (config.get("run") or {}).get("matmul_precision"),
    }
    return content
