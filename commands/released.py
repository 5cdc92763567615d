"""Released models by their names, such as ``realesr-general-x4``, and the one that is the default.

A file of ``configs/model/`` whose weights are a name of ``configs/weights.yaml`` describes one, or
several if the name has ``{scale}``.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from commands.errors import CONFIGS, ConfigurationError, did_you_mean

DEFAULT = "realesr-general-x4"
ON_IMAGES = ("predict", "export")  # the commands that need no more than a model
SCALE = ("--data.scale", "--data.init_args.scale")
SCALES = (1, 2, 3, 4, 8)  # that {scale} may stand for


class Released(NamedTuple):
    """A released model.

    file: Its configuration.
    scale: Factor of enlargement.
    """

    file: Path
    scale: int


@functools.cache
def released() -> dict[str, Released]:
    """Return all released models by name."""
    from files.manifest import manifest  # here: they load a YAML library
    from files.paths import read_text
    from files.yaml import plain_yaml

    published = manifest()
    models: dict[str, Released] = {}
    for file in sorted((CONFIGS / "model").glob("*.yaml")):
        weights = str((plain_yaml(read_text(file)).get("init_args") or {}).get("weights"))
        for scale in SCALES:
            name = weights.replace("{scale}", str(scale))
            if name in published and "{scale}" in weights:
                models[name] = Released(file, scale)
    return models


def with_released(words: Sequence[str]) -> list[str]:
    """Return a command with options in place of a released model's name.

    ``predict`` without a model and a configuration gets ``DEFAULT``.

    Args:
        words: Arguments as typed after ``main.py``.

    Raises:
        ConfigurationError: If a model is named that is not released.
    """
    words = list(words)
    if not words or words[0] not in ON_IMAGES or {"-h", "--help"} & {*words}:
        return words
    if typed(words, "--config", "-c", "--model.class_path") is not None:
        return words
    name = typed(words, "--model")
    if name is None:
        if words[0] != "predict" or typed(words, "--data.predict") is None:
            return words
        name = DEFAULT
    if {".", "/", "{"} & {*name}:  # a class, a file or its content
        return words
    if name not in released() and Path(name).is_dir():  # a run
        return words
    if name not in released():
        near = did_you_mean(name, released()) or f": the names are {', '.join(released())}"
        raise ConfigurationError(f"model: there is no released model {name!r}{near}")
    file, scale = released()[name]
    options = ["--run.name", name]
    if typed(words, "--data") is None:
        options += ["--data", "datamodules.SRDataModule"]
    options += ["--model", str(file)]
    if "--model" in words:
        place = words.index("--model")
        del words[place : place + 2]
    rest = [word for word in words[1:] if not word.startswith("--model=")]
    return [words[0], *options, *with_scale_of_model(rest, scale)]


def with_scale_of_model(words: Sequence[str], scale: float) -> list[str]:
    """Return options in which a typed scale is that of outputs, beside the model's own scale.

    Args:
        words: Options as typed.
        scale: The model's own.
    """
    own_scale = f"{scale:g}"
    factor = (typed(words, *SCALE) or own_scale).removesuffix(".0")
    options = [*words, SCALE[1], own_scale]
    if factor != own_scale:
        options += ["--data.init_args.output_scale", factor]
    return options


def typed(words: Sequence[str], *options: str) -> str | None:
    """Return the value of the first of some options; None without one."""
    for word, following in pairwise([*words, ""]):
        option, equals, value = word.partition("=")
        if option in options:
            return value if equals else following
    return None
