"""``export``: a run's best weights as files that other programs read, in a folder with its card.

``export RUN`` is ``export --config RUN/config.yaml``. The folder is written beside its place, each
file is read again and compared, and only a whole one gets its name.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from jsonargparse import Namespace

from commands.errors import ConfigurationError
from commands.export_about import describe_export
from commands.export_card import card
from commands.export_diffusers import backbones, write_backbones
from commands.export_hub import check_hub, push
from commands.export_onnx import check_one_pass, write_onnx
from commands.export_tensors import exported_tensors, write_tensors
from commands.saved_config import as_yaml
from commands.weights import EXPORT
from files.owned import foreign, remove_folder, whole_folder
from files.paths import expand_path
from lightning_modules.image_model import ImageModel
from lightning_modules.weights import EXPORTED, read_metadata

log = logging.getLogger(__name__)

CONFIG = "config.yaml"
CARD = "README.md"
ONNX = "model.onnx"
BACKBONE = re.compile(r"[^/]+/(config\.json|diffusion_pytorch_model[\w.-]*\.(safetensors|json))")
# A trainer that needs nothing of the machine which the run was trained on.
ALONE = {
    **{"accelerator": "cpu", "strategy": "auto", "devices": 1, "num_nodes": 1, "precision": None},
    **{"callbacks": None, "plugins": None, "profiler": None, "logger": False},
    **{"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False},
}


@dataclass(frozen=True)
class ExportOptions:
    """What ``export`` writes, and where.

    Args:
        out: Folder that is made; by default ``export`` in the run's own.
        onnx: Write ``model.onnx`` too, for a method that is one pass of a network; needs the
            extra ``onnx``.
        diffusers: Write the diffusion networks and autoencoders too, a folder each, in diffusers'
            layout.
        overwrite: Replace the folder of an earlier export.
        push: Upload the folder to this repository on the Hugging Face hub, ``USER/NAME``.
        private: Whether a repository that is made for it is private.
    """

    out: str | None = None
    onnx: bool = False
    diffusers: bool = False
    overwrite: bool = False
    push: str | None = None
    private: bool = True


@dataclass(frozen=True)
class Origin:
    """Where the weights of an export come from.

    Args:
        run: The run's directory.
        config: The configuration, plain.
        file: The checkpoint or file that the weights were read from, if from one.
    """

    run: Path
    config: dict[str, Any]
    file: Path | None


def of_run(args: Sequence[str]) -> list[str]:
    """``export RUN ...`` as the parser takes it; other commands as they are.

    Args:
        args: As typed.

    Raises:
        ConfigurationError: There is no such run, or it was never trained.
    """
    args = list(args)
    if len(args) < 2 or args[0] != "export" or args[1].startswith("-"):
        return args
    run = Path(args[1])
    if not (run / CONFIG).is_file():
        raise ConfigurationError(
            f"{run} has no {CONFIG}, so it is no run that was trained: name the folder of one, or "
            "give --config with --ckpt_path or --model.init_args.weights"
        )
    named = run if run.name not in ("", "..") else run.resolve()
    place = ("--run.root", str(named.parent), "--run.name", named.name)
    # What the training began with is not what is exported.
    return ["export", "--config", str(run / CONFIG), "--ckpt_path", "null", *place, *args[2:]]


def model_alone(config: Namespace) -> None:
    """Leave out of a configuration what only training needs: pictures, callbacks, devices.

    Args:
        config: Of the command; changed.
    """
    for key, value in ALONE.items():
        config.trainer[key] = value
    for key in ("train", "val", "test", "predict"):
        config.data.init_args[key] = None
    config.degradation = None


def export(model: ImageModel, options: ExportOptions, origin: Origin) -> None:
    """Write the folder, then upload it where that is asked for.

    Args:
        model: With its weights.
        options: Of the command line.
        origin: Where they come from.

    Raises:
        ConfigurationError: The model has nothing to export or not in such a format, the folder is
            there already, or the hub cannot be used.
    """
    given = options.out
    out = Path(expand_path(given, "export.out")) if given else origin.run / "export"
    model.eval().requires_grad_(False)
    _check(model, options, out)
    with whole_folder(out, before=partial(_remove, out)) as beside:
        lines = _write(model, options, origin, beside)
    for line in lines:
        log.info("%s", line)
    log.info("exported to %s, which %s tells how to use", out, out / CARD)
    if options.push is not None:
        log.info("uploaded to %s", push(out, options.push, options.private))


def _check(model: ImageModel, options: ExportOptions, out: Path) -> None:
    if not exported_tensors(model):
        raise ConfigurationError(f"{type(model).__name__} has no weights, so nothing to export")
    if options.push is not None:
        check_hub(options.push)
    if options.onnx:
        check_one_pass(model)
    if options.diffusers and not backbones(model):
        raise ConfigurationError(
            f"{type(model).__name__} has no network of diffusers: leave --export.diffusers out"
        )
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not _is_export(out):
        raise ConfigurationError(f"{out} is there and no export: name another --export.out")
    if not options.overwrite:
        raise ConfigurationError(
            f"{out} has an export already: give --export.overwrite true to replace it, or another "
            "--export.out"
        )
    if others := foreign(out, _written_here):
        raise ConfigurationError(
            f"{out} holds {others[0]}, which export does not write, and would be replaced: move it "
            "away, or name another --export.out"
        )


def _is_export(folder: Path) -> bool:
    file = folder / EXPORT
    return file.is_file() and EXPORTED in read_metadata(file)


def _write(model: ImageModel, options: ExportOptions, origin: Origin, folder: Path) -> list[str]:
    about = describe_export(model, origin)
    lines = [write_tensors(model, folder / EXPORT, about)]
    if options.diffusers:
        lines += write_backbones(model, folder)
    if options.onnx:
        lines.append(write_onnx(model, folder / ONNX, about))
    (folder / CONFIG).write_text(as_yaml(_config(model, origin)), encoding="utf-8")
    (folder / CARD).write_text(
        card(model, about, origin.run, sorted(folder.iterdir())), encoding="utf-8"
    )
    for path in folder.rglob("*"):
        if path.is_file():  # safetensors makes files that nobody else may read
            path.chmod(folder.stat().st_mode & 0o666)
    return lines


def _config(model: ImageModel, origin: Origin) -> dict[str, Any]:
    # What `predict` needs; the weights are named on the command line, wherever the folder lies.
    made, data = origin.config["model"], origin.config["data"]
    arguments = {**(made.get("init_args") or {}), "weights": None}
    return {
        "model": {"class_path": made["class_path"], "init_args": arguments},
        "data": {"class_path": data["class_path"], "init_args": {"scale": model.scale}},
        "run": {"name": origin.run.resolve().name},
    }


def _remove(out: Path) -> None:
    if _is_export(out):
        remove_folder(out, _written_here)


def _written_here(name: str) -> bool:
    return name in (EXPORT, CONFIG, CARD, ONNX) or BACKBONE.fullmatch(name) is not None
