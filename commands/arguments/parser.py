"""The argument parser: Lightning's, whose errors name the nearest key."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

from jsonargparse import ArgumentError, ArgumentParser, Namespace
from lightning.pytorch.cli import LightningArgumentParser

from commands.arguments.saved_config import without_unwritable_defaults
from commands.errors import ConfigurationError, did_you_mean
from commands.lightning_internals import read_configurations_alone
from files.own_modules import import_own

WHOLE = ("--model", "--data", "--degradation")
# Source of each linked key; an object is linked when it is built.
LINKS = {
    "model.init_args.scale": "data.init_args.scale",
    "degradation.init_args.scale": "data.init_args.scale",
    "data.init_args.seed": "seed_everything",
    "data.init_args.degradation": "degradation",
}
_UNKNOWN = re.compile(r"unrecognized arguments: --([\w.]+)|[Oo]ption '([\w.]+)'")
_FILE = re.compile(r"unrecognized arguments: (?!-)(\S+\.ya?ml)\b")
_NULL = re.compile(r"null$|[\[{].*\bnull\b")
_CLASS = re.compile(r"class_path[ =]'([\w.]+)'")


class Parser(LightningArgumentParser):
    """A parser that raises what is wrong with its arguments.

    Args:
        args: Arguments of the library's parser.
        kwargs: Arguments of the library's parser.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        read_configurations_alone()
        super().__init__(*args, **{**kwargs, "allow_abbrev": False, "exit_on_error": False})

    def dump(self, namespace: Namespace, *args: Any, **kwargs: Any) -> str:
        """Dump a configuration without defaults that have no text form, such as a device."""
        return super().dump(without_unwritable_defaults(self, namespace), *args, **kwargs)


def link(parser: LightningArgumentParser) -> None:
    """Let the keys of ``LINKS`` follow from their sources.

    Args:
        parser: That of a command.
    """
    for target, source in LINKS.items():
        when = "instantiate" if source == "degradation" else "parse"
        parser.link_arguments(source, target, apply_on=when)


def refuse_misread(words: Sequence[str]) -> None:
    """Refuse what the library would read as something else, without a word.

    Args:
        words: As typed after the command.

    Raises:
        ConfigurationError: If a linked key is set, or ``null`` deep in a class.
    """
    for word, following in pairwise([*words, ""]):
        option, equals, value = word.partition("=")
        path = option.replace(".init_args", "")
        for target, source in LINKS.items():
            if path == f"--{target.replace('.init_args', '')}":
                raise ConfigurationError(f"{option} follows from {source}: set that instead")
        deep = path.startswith(WHOLE) and path.count(".") > 1
        if deep and _NULL.match(value if equals else following):
            first = ".".join(path.split(".")[:2])
            raise ConfigurationError(
                f"{option}: null would become the text None here: write braces after {first}, "
                "as in --model.tuning '{upsampler: null}', or set it in a file"
            )


def parse(parser: LightningArgumentParser, words: Sequence[str]) -> Namespace:
    """Return the configuration of a command line, with defaults.

    Args:
        parser: That of the command.
        words: As typed after the command.

    Raises:
        ConfigurationError: If a key or a value is wrong.
    """
    try:
        return parser.parse_args(list(_with_whole_files(words)))
    except ArgumentError as error:
        message = str(error)
        near = _nearest_key(parser, message)
        raise ConfigurationError(f"{message}{near}") from error
    except RecursionError as error:
        raise ConfigurationError("a value contains itself, or is nested too deeply") from error


def _with_whole_files(words: Sequence[str]) -> Iterator[str]:
    """Yield the words, with ``--data=null`` before ``--data FILE``.

    So the file replaces all of an earlier one; the library would merge them.
    """
    for word, following in pairwise([*words, ""]):
        option, equals, value = word.partition("=")
        if option in WHOLE and os.path.isfile(value if equals else following):
            yield f"{option}=null"
        yield word


def _nearest_key(parser: ArgumentParser, message: str) -> str:
    """Return which key may have been meant, if an error is of an unknown one, or of a file."""
    file = _FILE.search(message)
    if file is not None:
        return f"; did you mean --config {file[1]}?"
    unknown = _UNKNOWN.search(message)
    if unknown is None:
        return ""
    keys = {"help", "config", "print_config", *parser.get_defaults().keys()}
    for path in _CLASS.findall(message):
        keys |= _arguments_of(path)
    return did_you_mean(unknown[1] or unknown[2], sorted(keys))


def _arguments_of(path: str) -> set[str]:
    """Return the names of a class's arguments, with those that it passes on."""
    module, _, name = path.rpartition(".")
    kind = getattr(import_own(module), name, None)
    if not isinstance(kind, type):  # a function
        return set()
    parser = ArgumentParser()
    parser.add_class_arguments(kind, fail_untyped=False)
    return set(parser.get_defaults().keys())
