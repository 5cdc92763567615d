"""The argument parser: links, groups, strict keys, options of our own."""

from __future__ import annotations

import inspect
import re
from argparse import Action
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn

from jsonargparse import ActionConfigFile, Namespace  # type: ignore[attr-defined]
from lightning.pytorch import Trainer

from commands.arguments.jsonargparse_internals import (
    ActionTypeHint,
    HookedParser,
    arguments_of,
    hint_of,
    is_group,
)
from commands.arguments.layers import ConfigFile
from commands.arguments.messages import UNKNOWN, readable, unknown_key
from commands.arguments.places import place_of
from commands.arguments.saved_config import is_mere_default
from commands.arguments.values import (
    Typed,
    TypedArgument,
    is_final,
    is_other_file,
    is_text,
    names_in,
    plain,
    refuse_file,
)
from commands.errors import ConfigurationError
from commands.names import ABOUT, TOOLS
from files.own_modules import import_own
from files.ranges import register_ranges
from files.yaml_loader import is_configuration, strict_loader
from lightning_modules.adversarial import Adversarial
from lightning_modules.base import ImageModel

# Source of each linked key.
LINKS = {
    "model.init_args.scale": "data.init_args.scale",
    "degradation.init_args.scale": "data.init_args.scale",
    "data.init_args.seed": "seed_everything",
}
GROUPS = ("trainer", "run", "tiling", "checkpoint", "writer", "encode", "export")
DESCRIPTIONS = {name: about for name, about in ABOUT.items() if name not in TOOLS}

# For all parsers, also those of Python code.
register_ranges()
strict_loader()


def parser_settings() -> dict[str, Any]:
    """Return the arguments of the parser and, by command, of the command parsers."""
    description = "Enlarger: train, compare and run image super-resolution methods."
    each = {n: {"description": t, "allow_abbrev": False} for n, t in DESCRIPTIONS.items()}
    return {"description": description, "allow_abbrev": False, **each}


class Parser(HookedParser):
    """The parser, with errors in one sentence and no silent loss of a value.

    Args:
        args: Arguments of the library's parser.
        allow_abbrev: Whether options may be abbreviated. Parsers of nested types get this default.
        kwargs: Arguments of the library's parser.
    """

    typed: Sequence[str] = ()  # the command line, for messages

    def __init__(self, *args: Any, allow_abbrev: bool = False, **kwargs: Any) -> None:
        super().__init__(*args, allow_abbrev=allow_abbrev, **kwargs)

    def add_argument(self, *args: Any, **kwargs: Any) -> Any:
        """Add an argument; a later file replaces by the rule of ``files/layers.py``."""
        if kwargs.get("action") is ActionConfigFile:
            kwargs["action"] = ConfigFile
        action = super().add_argument(*args, **kwargs)
        if type(action) is ActionTypeHint:
            action.__class__ = TypedArgument
        return action

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise a readable error; the library may catch those of nested parsers."""
        if not self.exit_on_error:
            super().error(unknown_key(message, _keys(self)) or message, ex)
        sentence = readable(message, _keys(self))
        key = re.match(rf"(?:{UNKNOWN}')?((?:\w+\.)*\w+)", sentence)
        place = place_of(key[1], self.typed) if key else ""
        raise ConfigurationError(f"{place}{sentence}") from ex

    def validate(self, namespace: Namespace, *args: Any, **kwargs: Any) -> None:
        """Validate a configuration; the library would accept null for any argument.

        It would also accept anything in the place of a group of keys, and fail when it makes it.

        Raises:
            KeyError: If a key is unknown.
            TypeError: If a value does not fit its type.
        """
        try:
            super().validate(namespace, *args, **kwargs)
        except KeyError as error:
            sentence = "" if self.exit_on_error else unknown_key(str(error), _keys(self))
            raise (type(error)(sentence) if sentence else error) from error
        for action in arguments_of(self):
            found = namespace.get(action.dest, "absent")
            if is_group(action) and found != "absent" and not isinstance(found, Namespace):
                given = "null" if found is None else repr(found)
                raise TypeError(
                    f'Parser key "{action.dest}": expected keys below it, but it is {given}'
                )
            # Without a default it may be the target of a link, or is reported as missing.
            set_to = hint_of(action) is not None and action.default is not None
            if set_to and not action.required and namespace.get(action.dest, "absent") is None:
                self.check_type(action, None, namespace)

    def check_value(
        self, action: Action, value: Any, append: bool, check: Callable[[Any], Any]
    ) -> Any:
        """Check a value; typed text is not read as YAML, and no file but configurations opened."""
        if hint_of(action) is not None and isinstance(value, str):
            typed = isinstance(value, Typed)  # and has reached its argument
            names = names_in(action, value) if typed else None
            if names is not None:
                checked = check(names)
                return checked if append else names
            if (is_text if typed else is_final)(action, value):
                return plain(check(Typed(value))) if append else str(value)
            if is_other_file(value):
                refuse_file(action, value)
                return plain(check(Typed(value)))
        refuse_file(action, value)
        return check(str(value) if isinstance(value, Typed) else value)

    def dump(self, namespace: Namespace, *args: Any, **kwargs: Any) -> str:
        """Dump a configuration without defaults that have no text form, such as a device."""
        namespace = namespace.clone()
        for action in arguments_of(self):
            key, hint = action.dest, hint_of(action)
            if key in namespace and is_mere_default(namespace[key], action.default, hint):
                namespace.pop(key)
        return super().dump(namespace, *args, **kwargs)

    def check_config(self, config: Namespace) -> None:
        """Check what the library would accept silently, such as a value for a linked key."""
        commands = (config[name] for name in DESCRIPTIONS if name in config)
        for part in (config, *(found for found in commands if isinstance(found, Namespace))):
            self.check_groups(part)
            _check_links(part)

    def check_groups(self, config: Namespace) -> None:
        """Raise if one of ``GROUPS`` is not a group of keys.

        Args:
            config: The configuration so far.

        Raises:
            ConfigurationError: If so; even its defaults would be lost.
        """
        if not any(isinstance(action, ConfigFile) for action in arguments_of(self)):
            return  # of a class, whose arguments may have these names
        for group in GROUPS:
            if group not in config or isinstance(config[group], Namespace):
                continue
            if isinstance(config[group], str) and is_configuration(config[group]):
                continue
            if config[group] is None:  # its keys are all commented out
                raise ConfigurationError(
                    f"{group} is empty: set a key below it, or remove the line {group}:"
                )
            raise ConfigurationError(f"{group} is {config[group]!r}: it takes keys below it")


def _check_links(config: Namespace) -> None:
    for target, source in LINKS.items():
        if source.partition(".")[0] not in config:  # the arguments of a class within the data
            continue
        value, right = config.get(target), config.get(source)
        if value in (None, right, _default(config, target)):
            continue
        is_now = "" if right is None else f" (it is {right})"
        raise ConfigurationError(
            f"{target} is set to {value}, but follows from {source}: set {source} instead{is_now}, "
            f"and remove {target}"
        )


def _default(config: Namespace, key: str) -> Any:
    group, _, name = key.partition(".init_args.")
    module, _, cls = str(config.get(f"{group}.class_path")).rpartition(".")
    try:
        parameters = inspect.signature(getattr(import_own(module), cls)).parameters
    except (ImportError, AttributeError, ValueError):
        return None
    default = parameters[name].default if name in parameters else None
    return None if default is inspect.Parameter.empty else default


def _keys(parser: Any) -> Iterator[str]:
    for action in arguments_of(parser):
        if action.dest and action.dest != "help":
            yield action.dest
        if isinstance(action.choices, dict):  # the subcommands
            for subparser in action.choices.values():
                yield from _keys(subparser)


# The trainer's option: that of an `Adversarial`, and the trainer's default.
OWN = {"gradient_clip_val": ("clip", None), "accumulate_grad_batches": ("accumulate", 1)}


def check_own_options(model: ImageModel, trainer: Trainer) -> None:
    """Raise for trainer options that the method replaces or does not support.

    Args:
        model: The model.
        trainer: The trainer.

    Raises:
        ConfigurationError: If such an option is set; the message names the method's own.
    """
    name = type(model).__name__
    if not isinstance(model, Adversarial):
        return
    for flag, (own, default) in OWN.items():
        value = getattr(trainer, flag)
        if value not in (default, 0):
            raise ConfigurationError(
                f"trainer.{flag} is {value}, and {name} steps its two optimisers "
                f"itself: set model.init_args.{model.group}{own} instead, and remove "
                f"trainer.{flag}"
            )
