"""The argument parser: it types the values of one dictionary, and links some of them."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from typing import Any

import yaml
from jsonargparse import ArgumentError, Namespace, set_dumper, set_loader
from lightning.pytorch.cli import LightningArgumentParser

from commands.arguments.command_line import CommandLine
from commands.arguments.messages import Mistakes
from commands.arguments.saved_config import as_yaml, without_odd_defaults
from commands.errors import ConfigurationError
from files.configuration.merge import Merged
from files.configuration.yaml_loader import StrictLoader

# Source of each linked key.
LINKS = {
    "model.init_args.scale": "data.init_args.scale",
    "degradation.init_args.scale": "data.init_args.scale",
    "data.init_args.seed": "seed_everything",
}

# How the library reads text: as it is, since files and brackets are read before. Only what it has
# written itself is a document.
MODE = "text"
_DOCUMENT = "---\n"


def _load(text: str) -> Any:
    if text.startswith(_DOCUMENT):
        return yaml.load(text, StrictLoader)
    try:
        value = yaml.load(text, StrictLoader)
    except (yaml.YAMLError, UnicodeError):
        return text
    return value if isinstance(value, bool | int | float) else text


set_loader(MODE, _load, (yaml.YAMLError,))
set_dumper(MODE, lambda config: f"{_DOCUMENT}{as_yaml(config)}")


class Parser(LightningArgumentParser):
    """A parser that opens no file and reads text as it is.

    Args:
        args: Arguments of the library's parser.
        kwargs: Arguments of the library's parser.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        settings = {"allow_abbrev": False, "exit_on_error": False, "parser_mode": MODE}
        super().__init__(*args, **{**kwargs, **settings})

    def add_class_arguments(self, *args: Any, **kwargs: Any) -> Any:
        """Add the arguments of a class; none can be given as a file."""
        return super().add_class_arguments(*args, **{**kwargs, "sub_configs": False})

    def add_function_arguments(self, *args: Any, **kwargs: Any) -> Any:
        """Add the arguments of a function; none can be given as a file."""
        return super().add_function_arguments(*args, **{**kwargs, "sub_configs": False})

    def dump(self, namespace: Namespace, *args: Any, **kwargs: Any) -> str:
        """Dump a configuration without defaults that have no text form, such as a device."""
        return super().dump(without_odd_defaults(self, namespace), *args, **kwargs)


def parse(parser: LightningArgumentParser, line: CommandLine) -> Namespace:
    """Return the configuration of a command line, with defaults.

    Args:
        parser: That of the command.
        line: The command line, read.

    Raises:
        ConfigurationError: If a key or a value is wrong.
    """
    values = line.merged.values
    _check_links(values)
    cause: Exception | None = None
    try:
        config = parser.parse_object(copy.deepcopy(values))
    except ArgumentError as error:
        cause = error
        sentence = Mistakes(Parser, str(error)).of_command(parser, values)
    else:
        sentence = Mistakes(Parser, nulls=True).of_command(parser, values)
    if sentence:
        raise ConfigurationError(f"{_place_of(sentence, line.merged)}{sentence}") from cause
    config.config = line.files
    return config


def _place_of(sentence: str, merged: Merged) -> str:
    key = re.match(r"(?:unknown key ')?((?:\w+\.)*\w+)", sentence)
    place = merged.places.get(tuple(key[1].split("."))) if key else None
    return f"{place}: " if place else ""


def printed(parser: LightningArgumentParser, config: Namespace) -> str:
    """Return a configuration as YAML.

    Args:
        parser: That of the command.
        config: Its configuration.
    """
    return parser.dump(config, format=MODE, skip_unset=False).removeprefix(_DOCUMENT)


def _check_links(values: Mapping[str, Any]) -> None:
    for target, source in LINKS.items():
        if source.partition(".")[0] not in values and source != "seed_everything":
            continue  # of a model alone
        value = _get(values, target)
        right = _get(values, source, 0 if source == "seed_everything" else None)
        if value is None or _number(value) == _number(right):
            continue
        is_now = "" if right is None else f" (it is {right})"
        raise ConfigurationError(
            f"{target} is set to {value}, but follows from {source}: set {source} instead{is_now}, "
            f"and remove {target}"
        )


def _get(values: Any, key: str, default: Any = None) -> Any:
    for name in key.split("."):
        values = values.get(name) if isinstance(values, Mapping) else None
    return default if values is None else values


def _number(value: Any) -> Any:
    try:
        return float(value)
    except (TypeError, ValueError):
        return value
