"""The method that a file of weights belongs to: of ``--model my.pth`` and ``enlarger.load``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from commands.errors import ConfigurationError
from commands.released import SCALE, typed, with_scale_of_model
from commands.run.directory import options_of_run
from commands.run.files import CONFIG
from commands.run.weights import EXPORT
from files.paths import WEIGHTS, expand_path, read_text
from files.weights import EXPORTED, Weights, read_metadata, read_weights
from files.yaml import plain_yaml
from lightning_modules.networks import edsr, imdn
from lightning_modules.networks.spandrel import described

MEASURE = ("validate", "test", "predict", "export")  # the commands that need trained weights
# Networks that spandrel lacks, and their arguments from tensors; None for those of another network.
LACKING = {
    "lightning_modules.EDSR": edsr.arguments_of,
    "lightning_modules.IMDN": imdn.arguments_of,
}


class Described(NamedTuple):
    """A method for a file.

    model: Its ``class_path`` and ``init_args``, which name the file.
    scale: Factor of enlargement.
    """

    model: dict[str, Any]
    scale: float


def method_of_file(path: Path) -> Described:
    """Return the method that a file of weights belongs to, with the file among its arguments.

    Args:
        path: An exported file, a checkpoint in its run's folder, EDSR's weights in the layout of
            EDSR-PyTorch or BasicSR, IMDN's, or any file that spandrel reads.

    Raises:
        FileNotFoundError: If there is no such file.
        ImportError: If the file may be one for spandrel, which is not installed.
        ValueError: If the file is corrupt, or of no known network.
    """
    weights = read_weights(path)
    if weights.model is not None:
        return _of_ours(path, weights)
    for class_path, arguments_of in LACKING.items():
        arguments = arguments_of(weights.tensors)
        if arguments is not None:
            scale = float(arguments.pop("scale"))
            network = {"class_path": class_path, "init_args": arguments}
            return _regression({"network": network, "weights": str(path)}, scale)
    scale = float(described(weights.tensors, str(path)).scale)
    network = {"class_path": "lightning_modules.Spandrel", "init_args": {"path": str(path)}}
    return _regression({"network": network}, scale)


def _regression(init_args: dict[str, Any], scale: float) -> Described:
    return Described({"class_path": "lightning_modules.Regression", "init_args": init_args}, scale)


def _of_ours(path: Path, weights: Weights) -> Described:
    about = read_metadata(path) if path.suffix == ".safetensors" else {}
    if EXPORTED in about:
        arguments = json.loads(about["init_args"])
        scale = float(about["scale"])
    else:
        config = path.absolute().parent.parent / CONFIG
        if not config.is_file():
            raise ValueError(
                f"{path} is a checkpoint of {weights.model}, without the {CONFIG} of its run two "
                "folders above: name the run, or give --config with --ckpt_path"
            )
        content = plain_yaml(read_text(config))
        arguments = content["model"].get("init_args") or {}
        scale = float(content["data"]["init_args"]["scale"])
    init_args = {**arguments, "weights": str(path)}
    return Described({"class_path": weights.model, "init_args": init_args}, scale)


def _name_of(path: Path) -> str:
    """Return the name of the outputs' folder: an exported file is called as its folder or run."""
    if path.name != EXPORT:
        return path.stem
    folder = path.absolute().parent
    return folder.parent.name if folder.name == "export" else folder.name


def with_weights_file(words: Sequence[str]) -> list[str]:
    """Return a command with options in place of ``--model FILE`` or ``--model RUN``.

    Args:
        words: Arguments as typed after ``main.py``.

    Raises:
        ValueError: If the file is missing or cannot be read.
    """
    words = list(words)
    value = typed(words, "--model")
    if value is None:
        return words
    place = words.index("--model") if "--model" in words else words.index(f"--model={value}")
    after = place + 2 if words[place] == "--model" else place + 1
    if Path(value, EXPORT).is_file():
        value = str(Path(value, EXPORT))
    elif words[0] in MEASURE and Path(value, CONFIG).is_file():
        return [words[0], *options_of_run(Path(value)), *words[1:place], *words[after:]]
    if not value.endswith(WEIGHTS):
        return words
    path = Path(expand_path(value, "model"))
    if not path.is_file():
        raise ConfigurationError(f"model is {value}, and there is no such file")
    model, scale = method_of_file(path)
    network = model["init_args"].get("network")
    if words[0] in ("fit", "check") and isinstance(network, dict):
        arguments = network.get("init_args") or {}
        if "path" in arguments:
            arguments["train"] = True  # spandrel's networks are frozen otherwise
    options = []
    if typed(words, "--config", "-c") is None:
        options += ["--run.name", _name_of(path)]
        if typed(words, "--data") is None:
            options += ["--data", "datamodules.SRDataModule"]
    if words[0] in MEASURE and typed(words, "--ckpt_path") is None:
        options += ["--ckpt_path", str(path)]  # not the checkpoints of a run of the same name
    words[place:after] = ["--model", json.dumps(model)]
    if words[0] == "predict":
        words = with_scale_of_model(words, scale)
    elif typed(words, *SCALE) is None:
        options += [SCALE[1], f"{scale:g}"]
    return [words[0], *options, *words[1:]]
