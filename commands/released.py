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

from callbacks.weights import manifest
from commands.errors import CONFIGS, ConfigurationError, did_you_mean
from files.paths import read_text
from files.yaml_loader import plain_yaml

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
        ConfigurationError: If a model is named that is not released, or has another scale.
    """
    words = list(words)
    if not words or words[0] not in ON_IMAGES or "-h" in words or "--help" in words:
        return words
    options = [word.partition("=")[0] for word in words]
    if {"--config", "-c", "--model.class_path"} & {*options}:
        return words
    name = DEFAULT
    if "--model" in options:
        place = options.index("--model")
        _, equals, name = words[place].partition("=")
        end = place + (1 if equals else 2)
        name = name if equals else "".join(words[place + 1 : end])
        if {".", "/", "{"} & {*name}:  # a class, a file or its content
            return words
        if name not in released():
            near = did_you_mean(name, released()) or f": the names are {', '.join(released())}"
            raise ConfigurationError(f"model: there is no released model {name!r}{near}")
        del words[place:end]
    elif words[0] != "predict" or "--data.predict" not in options:
        return words
    file, scale = released()[name]
    for word, following in pairwise([*words, ""]):
        option, equals, value = word.partition("=")
        typed = (value if equals else following).removesuffix(".0")
        if option in SCALE and typed not in ("", str(scale)):
            others = [other for other, its in released().items() if str(its.scale) == typed]
            hint = f": --model {' or --model '.join(others)}" if others else ""
            raise ConfigurationError(f"{name} enlarges by {scale}, not by {typed}{hint}")
    data = [] if "--data" in options else ["--data", "datamodules.SRDataModule"]
    factor = ["--data.init_args.scale", str(scale)]
    return [words[0], "--run.name", name, *data, *factor, "--model", str(file), *words[1:]]
