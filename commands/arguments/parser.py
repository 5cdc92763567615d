"""The argument parser: links, groups, strict keys, options of our own."""

from __future__ import annotations

import functools
import inspect
import os
import pathlib
import re
import types
import typing
from argparse import Action
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn

import yaml
from jsonargparse import ActionConfigFile, Namespace  # type: ignore[attr-defined]
from jsonargparse.typing import Path
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import BackboneFinetuning

from callbacks.evaluation import all_callbacks
from commands.arguments.jsonargparse_internals import (
    HookedParser,
    arguments_of,
    expects_class,
    expects_mapping,
    hint_of,
    intercept_typed_values,
    is_group,
    keep_final_text,
)
from commands.arguments.layers import ConfigFile, replace_typed
from commands.arguments.saved_config import is_mere_default
from commands.errors import ConfigurationError, readable
from commands.names import ABOUT, TOOLS
from files import paths
from files.own_modules import import_own
from files.ranges import register_ranges
from files.yaml_loader import (
    NO_CONFIGURATION,
    is_configuration,
    open_configurations_alone,
    strict_loader,
)
from lightning_modules.adversarial import Adversarial
from lightning_modules.base import ImageModel

MOST_SEED = 2**32 - 1  # of NumPy
MOST_LISTED = 12  # classes named in the help of one argument

# Source of each linked key.
LINKS = {
    "model.init_args.scale": "data.init_args.scale",
    "degradation.init_args.scale": "data.init_args.scale",
    "data.init_args.seed": "seed_everything",
}
GROUPS = ("trainer", "run", "tiling", "checkpoint", "writer", "encode", "export")
DESCRIPTIONS = {name: about for name, about in ABOUT.items() if name not in TOOLS}


def parser_settings() -> dict[str, Any]:
    """Return the arguments of the parser and, by command, of the command parsers."""
    register_ranges()
    description = "Enlarger: train, compare and run image super-resolution methods."
    each = {n: {"description": t, "allow_abbrev": False} for n, t in DESCRIPTIONS.items()}
    return {"description": description, "allow_abbrev": False, **each}


def _read_configurations_as_utf8() -> None:
    # Some editors write other encodings, and the library does not name a file that it cannot read.
    # It also reads in the machine's own encoding.
    whole = Path.read_text

    def read_text(self: Path) -> str:
        try:
            if os.path.isfile(self.absolute):  # neither a URL nor standard input
                return paths.read_text(self.absolute)
            text: str = whole(self)
        except UnicodeDecodeError as error:
            raise ConfigurationError(
                f"{self} is not UTF-8 text: save it in that encoding"
            ) from error
        return text

    Path.read_text = read_text  # type: ignore[method-assign]


class Typed(str):
    """Text from the command line that must reach its argument as typed.

    The library reads a ``str`` as YAML before it finds the argument of a nested class, but not a
    subclass of ``str``.
    """

    __slots__ = ()


def _take_typed_value(
    action: Action,
    parser: Any,
    config: Namespace,
    value: Any,
    option: str | None,
    proceed: Callable[[Any], None],
) -> None:
    """Keep text as typed, and let files and containers replace what was set before."""
    if isinstance(parser, Parser) and isinstance(value, str) and isinstance(option, str):
        _refuse_other_encoding(option, value)
        names = _names(action, value)
        if option in action.option_strings:
            _refuse_file(action, value)
            if names is not None or _is_text(action, value):
                config.update(str(value) if names is None else names, action.dest)
                return
        if option.endswith("+") and names is not None:
            value = names
        elif _reaches_in(action, option, value):
            _replace(action, config, value, option)
            proceed(Typed(value))
            config.update(_plain(config[action.dest]), action.dest)
            return
    _replace(action, config, value, option)
    proceed(value)


def _replace(action: Action, config: Namespace, value: Any, option: str | None) -> None:
    # The library would merge a file into earlier values: arguments of an experiment's model or
    # metrics would stay among those of the file that replaces them.
    is_file = isinstance(value, str) and value.endswith(paths.CONFIGURATIONS)
    if is_file and option in action.option_strings and action.dest in config:
        del config[action.dest]
    elif isinstance(option, str):
        replace_typed(config, option)


def _refuse_other_encoding(option: str, value: str) -> None:
    try:
        value.encode()
    except UnicodeError as error:
        raise ConfigurationError(
            f"{option.lstrip('-')} is {os.fsencode(value)!r}, which is not UTF-8, as YAML "
            "requires: rename it, or name the folder above it or a pattern"
        ) from error


def _refuse_file(action: Action, value: str) -> None:
    # `a.jpg` would import a module `a` for its class `jpg`.
    of_class = expects_class(action)
    other = os.path.isfile(value) and not is_configuration(value)
    if of_class and other and not _takes_text(hint_of(action)):
        raise TypeError(f'Parser key "{action.dest}": {value!r} {NO_CONFIGURATION}')


def _reaches_in(action: Action, option: str, value: str) -> bool:
    # Whether a nested argument, or the list that it is added to, decides how the value is read.
    name = next((o for o in action.option_strings if option.startswith(f"{o}.")), None)
    if name is None:
        return option.endswith("+") and _is_text(action, value)
    if expects_mapping(action):
        return "." in option[len(name) + 1 :] or _is_no_yaml(value)
    return True


def _names(action: Action, value: str) -> list[str] | None:
    # The items of a list of text, `[2024, a.png]`, as typed; None for anything else.
    kinds = typing.get_args(hint_of(action)) or (hint_of(action),)
    if list[str] not in (hint_of(action), *kinds) or os.path.lexists(value):
        return None
    stripped = value.strip()
    if stripped[:1] + stripped[-1:] != "[]":
        return None
    try:
        names: list[Any] = yaml.load(stripped, yaml.BaseLoader)
    except (yaml.YAMLError, UnicodeError):
        return None
    return names if all(isinstance(name, str) for name in names) else None


def _is_text(action: Action, value: str) -> bool:
    # Whether the value typed for an argument is plain text, and neither YAML nor a class.
    return _takes_text(hint_of(action)) and _is_no_yaml(value)


def _is_final(action: Action, value: str) -> bool:
    # Whether text of a file, which was read as YAML, must not be read as YAML again ("null" in
    # quotes would be null), or be tried as the path of a class.
    if not _takes_text(hint_of(action)) or is_configuration(value):
        return False
    means = _meaning(value)
    if isinstance(means, str):
        return _is_path(value)
    return not isinstance(means, bool | int | float)


def _is_no_yaml(value: str) -> bool:
    if is_configuration(value):
        return False
    is_path = _is_path(value)
    means = _meaning(value)
    if isinstance(means, bool | int | float) or (isinstance(means, str) and not is_path):
        return False  # the type of the argument decides
    stripped = value.strip()
    inline = stripped[:1] + stripped[-1:] in ("[]", "{}") or stripped.startswith("class_path:")
    return is_path or not (inline or stripped == "null")


def _is_path(value: str) -> bool:
    # Also a missing image: no class has such a name.
    path = pathlib.PurePath(value)
    return os.path.lexists(value) or paths.is_image(path) or paths.is_video(path)


@functools.lru_cache(1024)  # each value is looked at many times, as its class is parsed again
def _meaning(value: str) -> Any:
    try:
        return yaml.load(str(value), strict_loader())  # libyaml takes no subclass of str
    except (yaml.YAMLError, UnicodeError):  # UnicodeError: a name that is not UTF-8
        return None


def _takes_text(hint: Any) -> bool:
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return any(map(_takes_text, typing.get_args(hint)))
    return hint is str


def _plain(value: Any) -> Any:
    if isinstance(value, Typed):
        return str(value)
    if isinstance(value, list):
        return [_plain(part) for part in value]
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, Namespace):
        for key, part in vars(value).items():
            value[key] = _plain(part)
    return value


intercept_typed_values(_take_typed_value)
keep_final_text(lambda action, value: _is_final(action, value))
_read_configurations_as_utf8()
open_configurations_alone()
strict_loader()


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
        """Add an argument; a later configuration file replaces by the rule of ``layers.py``."""
        if kwargs.get("action") is ActionConfigFile:
            kwargs["action"] = ConfigFile
        return super().add_argument(*args, **kwargs)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise a readable error; the library may catch those of nested parsers."""
        if not self.exit_on_error:
            super().error(message, ex)
        raise ConfigurationError(readable(message, _keys(self), self.typed)) from ex

    def validate(self, namespace: Namespace, *args: Any, **kwargs: Any) -> None:
        """Validate a configuration; the library would accept null for any argument.

        It would also accept anything in the place of a group of keys, and fail when it makes it.

        Raises:
            TypeError: If a value does not fit its type.
        """
        super().validate(namespace, *args, **kwargs)
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
            names = _names(action, value) if typed else None
            if names is not None:
                checked = check(names)
                return checked if append else names
            if (_is_text if typed else _is_final)(action, value):
                return _plain(check(Typed(value))) if append else str(value)
            _refuse_file(action, value)
        return check(str(value) if isinstance(value, Typed) else value)

    def format_help(self, *args: Any, **kwargs: Any) -> str:
        """Return the help, without lists of every class: for a network, all of torch.nn."""
        return re.sub(
            r"known subclasses:\s+([\w.]+(?:,\s+[\w.]+)*)", _shorten, super().format_help()
        )

    def dump(self, namespace: Namespace, *args: Any, **kwargs: Any) -> str:
        """Dump a configuration without defaults that have no text form, such as a device."""
        namespace = namespace.clone()
        for action in arguments_of(self):
            key, hint = action.dest, hint_of(action)
            if key in namespace and is_mere_default(namespace[key], action.default, hint):
                namespace.pop(key)
        text: str = super().dump(namespace, *args, **kwargs)
        return text

    def check_config(self, config: Namespace) -> None:
        """Check what the library would accept silently, such as a value for a linked key."""
        commands = (config[name] for name in DESCRIPTIONS if name in config)
        for part in (config, *(found for found in commands if isinstance(found, Namespace))):
            self.check_groups(part)
            _check_seed(part)
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
            if group not in config or isinstance(config[group], Namespace | str):  # str: a file
                continue
            if config[group] is None:  # its keys are all commented out
                raise ConfigurationError(
                    f"{group} is empty: set a key below it, or remove the line {group}:"
                )
            raise ConfigurationError(f"{group} is {config[group]!r}: it takes keys below it")


def _shorten(match: re.Match[str]) -> str:
    return match[0] if match[1].count(",") < MOST_LISTED else "any subclass by its class path"


def _check_seed(config: Namespace) -> None:
    # The library refuses it, too, but does not name the key.
    seed = config.get("seed_everything")
    if isinstance(seed, int) and not 0 <= seed <= MOST_SEED:
        raise ConfigurationError(f"seed_everything is {seed}; expected 0 to {MOST_SEED}")


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
    parts = {part for part, _ in model.named_children()}
    if "backbone" not in parts and any(
        isinstance(callback, BackboneFinetuning) for callback in all_callbacks(trainer)
    ):
        raise ConfigurationError(
            f"trainer.callbacks has a BackboneFinetuning, but {name} has no attribute backbone "
            "that it could freeze: remove it"
        )
    if not isinstance(model, Adversarial):
        return
    for flag, (own, default) in OWN.items():
        value = getattr(trainer, flag)
        if value not in (default, 0):
            raise ConfigurationError(
                f"trainer.{flag} is {value}, and {name} steps its two optimisers "
                f"itself: set model.init_args.{own} instead, and remove trainer.{flag}"
            )
