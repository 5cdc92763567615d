"""The method that a name or a file of weights stands for: ``--model NAME``, ``enlarger.load``.

A file of ``configs/model/`` whose weights are a name of ``configs/weights.yaml`` with ``{scale}``
describes a released model for each scale.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from commands.errors import CONFIGS, ConfigurationError, did_you_mean
from commands.run.directory import options_of_run
from commands.run.files import CONFIG
from commands.run.weights import EXPORT
from files.manifest import manifest
from files.paths import WEIGHTS, expand_path, read_text
from files.weights import EXPORTED, read_metadata, read_weights
from files.yaml import plain_yaml
from lightning_modules.networks import edsr, imdn
from lightning_modules.networks.spandrel import described

DEFAULT = "realesr-general-x4"
ON_IMAGES = ("predict", "export")  # the commands that need no more than a model
MEASURE = ("validate", "test", *ON_IMAGES)  # those that need trained weights
SCALE = ("--data.scale", "--data.init_args.scale")
SCALES = (1, 2, 3, 4, 8)  # that {scale} may stand for
# Networks that spandrel lacks, and their arguments from tensors; None for those of another network.
LACKING = {
    "lightning_modules.EDSR": edsr.arguments_of,
    "lightning_modules.IMDN": imdn.arguments_of,
}


class Named(NamedTuple):
    """A method with its weights.

    model: Its ``class_path`` and ``init_args``, weights among them.
    scale: Factor of enlargement.
    name: A name for the outputs' folder.
    file: The file of the weights; None for those of a name, which may have to be fetched.
    """

    model: dict[str, Any]
    scale: float
    name: str
    file: Path | None = None


@functools.cache
def released() -> dict[str, Named]:
    """Return all released models by name."""
    published = manifest()
    models: dict[str, Named] = {}
    for file in sorted((CONFIGS / "model").glob("*.yaml")):
        model = plain_yaml(read_text(file))
        weights = str((model.get("init_args") or {}).get("weights"))
        for scale in SCALES:
            name = weights.replace("{scale}", str(scale))
            if name in published and "{scale}" in weights:
                models[name] = Named(model, scale, name)
    return models


def method_of_file(path: Path) -> Named:
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
        arguments, scale = _settings_of(path, weights.model)
        model = {
            "class_path": weights.model,
            "init_args": {**arguments, "weights": str(path)},
        }
        return Named(model, scale, _name_from_path(path), path)
    for class_path, arguments_of in LACKING.items():
        settings = arguments_of(weights.tensors)
        if settings is not None:
            scale = float(settings.pop("scale"))
            network = {"class_path": class_path, "init_args": settings}
            return Named(_regression(network, weights=str(path)), scale, path.stem, path)
    scale = float(described(weights.tensors, str(path)).scale)
    network = {"class_path": "lightning_modules.Spandrel", "init_args": {"path": str(path)}}
    return Named(_regression(network), scale, path.stem, path)


def _regression(network: dict[str, Any], **arguments: str) -> dict[str, Any]:
    init_args = {"network": network, **arguments}
    return {"class_path": "lightning_modules.Regression", "init_args": init_args}


def _settings_of(path: Path, model: str) -> tuple[dict[str, Any], float]:
    """Return the arguments and the scale of a method of ours."""
    about = read_metadata(path)
    if EXPORTED in about:
        return json.loads(about["init_args"]), float(about["scale"])
    config = path.absolute().parent.parent / CONFIG
    if not config.is_file():
        raise ValueError(
            f"{path} is a checkpoint of {model}, without the {CONFIG} of its run two folders "
            "above: name the run, or give --config with --ckpt_path"
        )
    content = plain_yaml(read_text(config))
    arguments = content["model"].get("init_args") or {}
    return arguments, float(content["data"]["init_args"]["scale"])


def _name_from_path(path: Path) -> str:
    """An exported file takes the name of its run or folder; any other, its own stem."""
    if path.name != EXPORT:
        return path.stem
    folder = path.absolute().parent
    return folder.parent.name if folder.name == "export" else folder.name


# ---------------------------------------------------------------------------- the command line


def expand_model_option(words: Sequence[str]) -> list[str]:
    """Return a command with options in place of ``--model NAME``, a file, a run, or ``export RUN``.

    ``predict`` without a model and a configuration gets ``DEFAULT``.

    Args:
        words: Arguments as typed after ``main.py``.

    Raises:
        ConfigurationError: If there is no such run, file or released model.
        ValueError: If the file cannot be read.
    """
    command, *rest = words
    if command == "export" and rest and not rest[0].startswith("-"):
        return [command, *_options_of(Path(rest[0])), *rest[1:]]
    is_configured = typed(rest, "--config", "-c", "--model.class_path") is not None
    source = typed(rest, "--model")
    if source is None:
        if command != "predict" or is_configured or typed(rest, "--data.predict") is None:
            return list(words)
        source = DEFAULT
        rest = ["--model", source, *rest]
    if source.startswith("{"):  # the content of a file
        return list(words)
    place = rest.index("--model") if "--model" in rest else rest.index(f"--model={source}")
    before = rest[:place]
    after = rest[place + 2 :] if rest[place] == "--model" else rest[place + 1 :]
    run = Path(source)
    if command in MEASURE and (run / CONFIG).is_file() and not (run / EXPORT).is_file():
        return [command, *options_of_run(run), *before, *after]
    named = _named(source, must_exist=command in ON_IMAGES and not is_configured)
    if named is None:
        return list(words)
    model = named.model
    network = model["init_args"].get("network")
    if command in ("fit", "check") and isinstance(network, dict):
        arguments = network.get("init_args") or {}
        if "path" in arguments:
            arguments["train"] = True  # spandrel's networks are frozen otherwise
    options = []
    if typed(rest, "--config", "-c") is None:
        options += ["--run.name", named.name]
        if typed(rest, "--data") is None:
            options += ["--data", "datamodules.SRDataModule"]
    if named.file is not None and command in MEASURE and typed(rest, "--ckpt_path") is None:
        options += ["--ckpt_path", str(named.file)]  # not those of a run of the same name
    own_scale = f"{named.scale:g}"
    scale = typed(rest, *SCALE)
    outputs = []
    if command == "predict":  # a typed scale is that of the outputs
        outputs = [SCALE[1], own_scale]
        if scale is not None and scale.removesuffix(".0") != own_scale:
            outputs += ["--data.init_args.output_scale", scale.removesuffix(".0")]
    elif scale is None:
        options += [SCALE[1], own_scale]
    return [command, *options, *before, "--model", json.dumps(model), *after, *outputs]


def _options_of(run: Path) -> list[str]:
    if not (run / CONFIG).is_file():
        raise ConfigurationError(
            f"{run} has no {CONFIG}, so it is not a trained run: name the folder of one, or give "
            "--config with --ckpt_path or --model.init_args.weights"
        )
    return options_of_run(run)


def _named(source: str, must_exist: bool) -> Named | None:
    """Return the method of a name or file; None for a class."""
    if source in released():
        return released()[source]
    if Path(source, EXPORT).is_file():
        return method_of_file(Path(source, EXPORT))
    if source.endswith(WEIGHTS):
        path = Path(expand_path(source, "model"))
        if not path.is_file():
            raise ConfigurationError(f"model is {source}, and there is no such file")
        return method_of_file(path)
    if must_exist and not {".", "/"} & {*source} and not Path(source).is_dir():
        near = did_you_mean(source, released()) or f": the names are {', '.join(released())}"
        raise ConfigurationError(f"model: there is no released model {source!r}{near}")
    return None


def typed(words: Sequence[str], *options: str) -> str | None:
    """Return the value of the first of some options; None without one."""
    for word, following in pairwise([*words, ""]):
        option, equals, value = word.partition("=")
        if option in options:
            return value if equals else following
    return None
