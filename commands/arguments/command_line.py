"""What is typed after ``main.py COMMAND``, and its files, as one dictionary."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from commands.errors import ConfigurationError
from files.configuration.merge import Merged
from files.configuration.yaml_loader import NO_CONFIGURATION

CLASSES = ("model", "data", "degradation")
PRINT = "--print_config"


@dataclass
class CommandLine:
    """A command line, read.

    Attributes:
        merged: All that it sets.
        files: Of ``--config``, in order.
        prints: Whether ``--print_config`` asks for the whole configuration.
    """

    merged: Merged = field(default_factory=Merged)
    files: list[str] = field(default_factory=list)
    prints: bool = False


def read(words: Sequence[str]) -> CommandLine:
    """Read options and the files that they name; later ones win.

    Args:
        words: As typed after the command.

    Raises:
        ConfigurationError: If a word is no option, or a class a file of another kind.
        ValueError: If a file is no configuration.
    """
    line = CommandLine()
    for key, value in _options(words):
        if key == PRINT.removeprefix("--"):
            line.prints = True
            continue
        if key == "config":
            line.merged.add_file(value)
            line.files.append(value)
        else:
            line.merged.add_typed(key, value)
    for key in CLASSES:
        text = line.merged.values.get(key)
        if isinstance(text, str) and os.path.lexists(text):
            raise ConfigurationError(f"{key}: {text!r} {NO_CONFIGURATION}")
    return line


def help_words(words: Sequence[str]) -> list[str] | None:
    """Return a request for help as the library takes it; None if the words are none.

    Args:
        words: As typed after the command. Help of an inner class needs the classes around it.
    """
    for place, word in enumerate(words):
        option = word.partition("=")[0]
        if option in ("-h", "--help"):
            return [option]
        if option.startswith("--") and option.endswith(".help"):
            end = place + 1 if "=" in word else place + 2
            values = read([*words[:place], *words[end:]]).merged.values
            keys = option.removeprefix("--").split(".")[:-1]
            return [*_classes(values, keys), *words[place:end]]
    return None


def _classes(values: Any, keys: Sequence[str]) -> Iterator[str]:
    for end, key in enumerate(keys[:-1], start=1):
        values = values.get("init_args", values) if isinstance(values, dict) else {}
        values = values.get(key) if isinstance(values, dict) else None
        path = values.get("class_path") if isinstance(values, dict) else values
        if isinstance(path, str):
            yield f"--{'.'.join(keys[:end])}={path}"


def _options(words: Sequence[str]) -> Iterator[tuple[str, str]]:
    rest = list(words)
    while rest:
        word = rest.pop(0)
        option, equals, value = word.partition("=")
        option = "--config" if option == "-c" else option
        if not option.startswith("--"):
            raise ConfigurationError(
                f"{word!r} is not an option: write its key before it, as --config {word}, or for "
                f"images --data.predict {word}, a pattern in quotation marks"
            )
        if not equals and option != PRINT:
            if not rest or re.match(r"-+[a-zA-Z]", rest[0]):
                raise ConfigurationError(f"{option}: expected one argument")
            value = rest.pop(0)
        yield option.removeprefix("--"), value
