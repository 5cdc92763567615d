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

from commands.arguments.saved_config import flat
from commands.errors import CONFIGS, ConfigurationError, did_you_mean
from commands.run.directory import options_of_run
from commands.run.files import CONFIG
from commands.run.weights import EXPORT
from files.manifest import manifest
from files.paths import WEIGHTS, expand_path
from files.weights import EXPORTED, read_metadata, read_weights
from files.yaml import read_yaml
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
        model = read_yaml(file)
        weights = str((model.get("init_args") or {}).get("weights"))
        for scale in SCALES:
            name = weights.replace("{scale}", str(scale))
            if name in published and "{scale}" in weights:
                models[name] = Named(model, scale, name)
    return models


def method_of_file(path: Path) -> Named:
    """Return the method that a file of weights belongs to, with ``weights=FILE`` as an argument.

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
        arguments, scale = _arguments_and_scale(path, weights.model)
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
            return Named(_regression_config(network, weights=str(path)), scale, path.stem, path)
    scale = float(described(weights.tensors, str(path)).scale)
    network = {"class_path": "lightning_modules.Spandrel", "init_args": {"path": str(path)}}
    return Named(_regression_config(network), scale, path.stem, path)


def _regression_config(network: dict[str, Any], **arguments: str) -> dict[str, Any]:
    """Return the configuration of ``Regression`` with a network."""
    init_args = {"network": network, **arguments}
    return {"class_path": "lightning_modules.Regression", "init_args": init_args}


def _arguments_and_scale(path: Path, model: str) -> tuple[dict[str, Any], float]:
    """Return with what a method of ours was built: of its export, or of its checkpoint's run."""
    about = read_metadata(path)
    if EXPORTED in about:
        return json.loads(about["init_args"]), float(about["scale"])
    config = path.absolute().parent.parent / CONFIG
    if not config.is_file():
        raise ValueError(
            f"{path} is a checkpoint of {model}, without the {CONFIG} of its run two folders "
            "above: name the run, or give --config with --ckpt_path"
        )
    content = read_run_config(config)
    arguments = content["model"].get("init_args") or {}
    return arguments, float(content["data"]["init_args"]["scale"])


def read_run_config(path: Path) -> dict[str, Any]:
    """Return the configuration of a run or an export.

    Raises:
        ValueError: If the file is of something else.
    """
    content: dict[str, Any] = read_yaml(path)
    if not {"model.class_path", "data.init_args.scale"} <= flat(content).keys():
        raise ValueError(
            f"{path} is not of a run or an export: it lacks model, or data.init_args.scale"
        )
    return content


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
    if command == "export" and not rest:
        raise ConfigurationError("name the folder of a run: main.py export RUN")
    if command == "export" and not rest[0].startswith("-"):
        return [command, *_options_of_export(Path(rest[0])), *rest[1:]]
    is_configured = value_of(rest, "--config", "-c", "--model.class_path") is not None
    source = value_of(rest, "--model")
    has_images = value_of(rest, "--data.predict") is not None
    if source is None and command == "predict" and has_images and not is_configured:
        source = DEFAULT
        rest = ["--model", source, *rest]
    if source is None or source.startswith("{"):  # the content of a file
        return list(words)
    before, after = _without_model_option(rest, source)
    run = Path(source)
    if command in MEASURE and (run / CONFIG).is_file() and not (run / EXPORT).is_file():
        return [command, *options_of_run(run), *before, *after]
    must_exist = command in ON_IMAGES and not is_configured
    named = _find_named(source, must_exist)
    if named is None:
        return list(words)
    if command in ("fit", "check"):
        _make_trainable(named.model)
    options = _options_beside(named, command, rest)
    model = ["--model", json.dumps(named.model)]
    # First, so that what is typed wins; except for the scale of `predict`.
    scales = _scale_options_of_predict(named, rest) if command == "predict" else []
    return [command, *options, *before, *model, *after, *scales]


def _without_model_option(words: Sequence[str], source: str) -> tuple[list[str], list[str]]:
    """Return the words before and after ``--model SOURCE`` or ``--model=SOURCE``."""
    if "--model" in words:
        place = words.index("--model")
        return list(words[:place]), list(words[place + 2 :])
    place = words.index(f"--model={source}")
    return list(words[:place]), list(words[place + 1 :])


def _make_trainable(model: dict[str, Any]) -> None:
    """Set ``train`` of a network that spandrel reads from a file: it is frozen otherwise."""
    network = model["init_args"].get("network")
    arguments = network.get("init_args") if isinstance(network, dict) else None
    if arguments and "path" in arguments:
        arguments["train"] = True


def _options_beside(named: Named, command: str, words: Sequence[str]) -> list[str]:
    """Return the options that a named model needs beside ``--model``, where none are typed."""
    options = []
    if value_of(words, "--config", "-c") is None:
        options += ["--run.name", named.name]
        if value_of(words, "--data") is None:
            options += ["--data", "datamodules.SRDataModule"]
    if named.file is not None and command in MEASURE and value_of(words, "--ckpt_path") is None:
        options += ["--ckpt_path", str(named.file)]  # not those of a run of the same name
    if command != "predict" and value_of(words, *SCALE) is None:
        options += [SCALE[1], f"{named.scale:g}"]
    return options


def _scale_options_of_predict(named: Named, words: Sequence[str]) -> list[str]:
    """Return the model's own scale, and the scale that is typed as that of the outputs."""
    own_scale = f"{named.scale:g}"
    typed_scale = value_of(words, *SCALE)
    options = [SCALE[1], own_scale]
    if typed_scale is not None and typed_scale.removesuffix(".0") != own_scale:
        options += ["--data.init_args.output_scale", typed_scale.removesuffix(".0")]
    return options


def _options_of_export(run: Path) -> list[str]:
    """Return the options for ``export RUN``; raise if the folder is no run."""
    if not (run / CONFIG).is_file():
        raise ConfigurationError(
            f"{run} has no {CONFIG}, so it is not a trained run: name the folder of one, or give "
            "--config with --ckpt_path or --model.init_args.weights"
        )
    return options_of_run(run)


def _find_named(source: str, must_exist: bool) -> Named | None:
    """Return the method of a released name, an exported folder or a file of weights.

    Args:
        source: The value of ``--model``.
        must_exist: Whether a plain word that is no released name is an error.

    Returns:
        The method; None for a class or a configuration file, which the parser reads.
    """
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


def value_of(words: Sequence[str], *options: str) -> str | None:
    """Return the value of the first word that is one of some options; None without one.

    Args:
        words: As typed, ``--option value`` or ``--option=value``.
        options: Spellings of one option.
    """
    for word, following in pairwise([*words, ""]):
        option, equals, value = word.partition("=")
        if option in options:
            return value if equals else following
    return None
