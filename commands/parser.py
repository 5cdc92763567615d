"""The parser: errors in one sentence, and one place for each value."""

from __future__ import annotations

import importlib
import inspect
import os
import pathlib
import types
import typing
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

import yaml
from jsonargparse import ActionConfigFile, Namespace  # type: ignore[attr-defined]
from jsonargparse._typehints import ActionTypeHint
from jsonargparse.typing import Path
from lightning.pytorch.cli import LightningArgumentParser

from commands.errors import NO_FILE, ConfigurationError, readable
from commands.layers import ConfigFile, replace_typed
from commands.saved_config import is_mere_default
from files import paths
from files.yaml_loader import (
    NO_CONFIGURATION,
    is_configuration,
    open_configurations_alone,
    strict_loader,
)

MOST_SEED = 2**32 - 1  # that NumPy takes
MOST_LISTED = 12  # classes named in the help of one argument
# What is set in one place, by target; nothing else is linked.
LINKS = {
    "model.init_args.scale": "data.init_args.scale",
    "degradation.init_args.scale": "data.init_args.scale",
    "data.init_args.seed": "seed_everything",
}
GROUPS = ("trainer", "run", "tiling", "checkpoint", "writer", "encode", "export")
DESCRIPTIONS = {
    "fit": "Train a model; the same command again continues the run.",
    "validate": "Measure the run's best weights on the validation pictures.",
    "test": "Measure the run's best weights on the test pictures.",
    "predict": "Enlarge a folder of pictures with the run's best weights.",
    "check": "Do all that fit does up to its first step, on all processes, and say what was found.",
    "throughput": "Measure what each part of a batch costs, and say what would make fit quicker.",
    "encode": "Write latents of the training pictures into shards, so that fit need not encode.",
    "export": "Write a run's best weights for other programs: export RUN, or export --config ...",
    "doctor": "Say what of this machine works and what does not, a line each, with the mend.",
}


def parser_settings() -> dict[str, Any]:
    """Arguments of the parser and, by command, of those of the commands."""
    what = "Enlarger: train, compare and run image super-resolution methods."
    each = {n: {"description": t, "allow_abbrev": False} for n, t in DESCRIPTIONS.items()}
    return {"description": what, "allow_abbrev": False, **each}


def _shorten_help() -> None:
    # The library lists every class that an argument may be: for a network, all of torch.nn.
    whole = ActionTypeHint.extra_help

    def extra_help(self: ActionTypeHint) -> str:
        known: str = whole(self)  # type: ignore[no-untyped-call]
        return known if known.count(",") <= MOST_LISTED else ", any subclass by its class path"

    ActionTypeHint.extra_help = extra_help  # type: ignore[method-assign]


def _replace_by_files() -> None:
    # The library merges a file into what was there: arguments of an experiment's model or metrics
    # would be left among those of the file that is to stand in their place.
    whole = ActionTypeHint.__call__

    def call(self: ActionTypeHint, *args: Any, **kwargs: Any) -> Any:
        if len(args) == 4:  # parser, namespace, value, option
            _, config, value, option = args
            named = isinstance(value, str) and value.endswith(paths.CONFIGURATIONS)
            if named and option in self.option_strings and self.dest in config:
                del config[self.dest]
            elif isinstance(option, str):
                replace_typed(config, option)
        return whole(self, *args, **kwargs)  # type: ignore[no-untyped-call]

    ActionTypeHint.__call__ = call  # type: ignore[method-assign]


def _name_what_is_no_text() -> None:
    # Some editors write other encodings, and the library does not name the file it cannot read.
    # It also reads in the machine's own encoding, in which a sound file may be no text.
    whole = Path.read_text

    def read_text(self: Path) -> str:
        try:
            if os.path.isfile(self.absolute):  # no address, and not what is typed
                return paths.read_text(self.absolute)
            text: str = whole(self)
        except UnicodeDecodeError as error:
            raise ConfigurationError(
                f"{self} is no text in UTF-8: let your editor save it in that encoding"
            ) from error
        return text

    Path.read_text = read_text  # type: ignore[method-assign]


class Typed(str):
    """Text from the command line that has to reach the argument it is for as it was typed.

    The library reads text as YAML before it looks for the argument of a nested class, but no
    subclass of ``str``.
    """

    __slots__ = ()


def _take_text_as_it_is() -> None:
    # The library reads each value that is typed as YAML, whatever it is for: a folder `#2` would be
    # a comment, `- dash` a list, `Trip: Rome.png` a mapping. And it imports `a` for an image a.png.
    whole, made = ActionTypeHint.__call__, ActionTypeHint.instantiate_classes

    def instantiate_classes(self: ActionTypeHint, value: Any) -> Any:
        text = isinstance(value, str) and _is_final(self, value)
        return value if text else made(self, value)  # type: ignore[no-untyped-call]

    def call(self: ActionTypeHint, *args: Any, **kwargs: Any) -> Any:
        if len(args) != 4 or not isinstance(args[0], Parser) or not isinstance(args[2], str):
            return whole(self, *args, **kwargs)  # type: ignore[no-untyped-call]
        parser, config, value, option = args
        _refuse_other_encoding(option, value)
        if option in self.option_strings:
            _refuse_file(self, value)
            names = _names(self, value)
            if names is not None or _is_text(self, value):
                config.update(str(value) if names is None else names, self.dest)
                return None
        if option.endswith("+") and (names := _names(self, value)) is not None:
            return whole(self, parser, config, names, option, **kwargs)  # type: ignore[no-untyped-call]
        if _reaches_in(self, option, value):
            whole(self, parser, config, Typed(value), option, **kwargs)  # type: ignore[no-untyped-call]
            config.update(_plain(config[self.dest]), self.dest)
            return None
        return whole(self, *args, **kwargs)  # type: ignore[no-untyped-call]

    ActionTypeHint.__call__ = call  # type: ignore[method-assign]
    ActionTypeHint.instantiate_classes = instantiate_classes  # type: ignore[method-assign]


def _refuse_other_encoding(option: str, value: str) -> None:
    try:
        value.encode()
    except UnicodeError as error:
        raise ConfigurationError(
            f"{option.lstrip('-')} is {os.fsencode(value)!r}, which is not UTF-8, and YAML can "
            "hold nothing else: rename it, or name the folder above it or a pattern"
        ) from error


def _refuse_file(action: ActionTypeHint, value: str) -> None:
    # For a class, `a.jpg` would be the class `jpg` of a module `a`, which would be imported.
    is_class: Any = ActionTypeHint.is_subclass_typehint
    of_class = is_class(action._typehint, all_subtypes=False)
    other = os.path.isfile(value) and not is_configuration(value)
    if of_class and other and not _takes_text(action._typehint):
        raise TypeError(f'Parser key "{action.dest}": {value!r} {NO_CONFIGURATION}')


def _reaches_in(action: ActionTypeHint, option: str, value: str) -> bool:
    # Whether an argument further in is to decide what the value means; or a list it is added to.
    name = next((o for o in action.option_strings if option.startswith(f"{o}.")), None)
    if name is None:
        return option.endswith("+") and _is_text(action, value)
    is_mapping: Any = ActionTypeHint.is_mapping_typehint
    if is_mapping(action._typehint):
        return "." in option[len(name) + 1 :] or _is_no_yaml(value)
    return True


def _names(action: ActionTypeHint, value: str) -> list[str] | None:
    # The items of a list of text, `[2024, a.png]`, as they are typed; None for anything else.
    kinds = typing.get_args(action._typehint) or (action._typehint,)
    if list[str] not in (action._typehint, *kinds) or os.path.lexists(value):
        return None
    stripped = value.strip()
    if stripped[:1] + stripped[-1:] != "[]":
        return None
    try:
        names: list[Any] = yaml.load(stripped, yaml.BaseLoader)
    except (yaml.YAMLError, UnicodeError):
        return None
    return names if all(isinstance(name, str) for name in names) else None


def _is_text(action: ActionTypeHint, value: str) -> bool:
    # Whether what is typed for an argument is the text itself, and neither YAML nor a class.
    return _takes_text(action._typehint) and _is_no_yaml(value)


def _is_final(action: ActionTypeHint, value: str) -> bool:
    # Whether text of a file, which was read as YAML, is not to be read as YAML once more ("null" in
    # quotes would be null), and not tried as the path of a class.
    if not _takes_text(action._typehint) or is_configuration(value):
        return False
    means = _meaning(value)
    there = _is_path(value)
    return there if isinstance(means, str) else not isinstance(means, bool | int | float)


def _is_no_yaml(value: str) -> bool:
    if is_configuration(value):
        return False
    there = _is_path(value)
    means = _meaning(value)
    if isinstance(means, bool | int | float) or (isinstance(means, str) and not there):
        return False  # the type of the argument decides
    stripped = value.strip()
    inline = stripped[:1] + stripped[-1:] in ("[]", "{}") or stripped.startswith("class_path:")
    return there or not (inline or stripped == "null")


def _is_path(value: str) -> bool:
    # An image, too, if it is missing: no class has such a name.
    return os.path.lexists(value) or paths.is_image(pathlib.PurePath(value))


def _meaning(value: str) -> Any:
    try:
        return yaml.load(str(value), strict_loader())  # in C, it takes no subclass of str
    except (yaml.YAMLError, UnicodeError):  # the second: a name that is no UTF-8
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


_shorten_help()
_replace_by_files()
_take_text_as_it_is()
_name_what_is_no_text()
open_configurations_alone()
strict_loader()


class Parser(LightningArgumentParser):
    """The parser, with errors in one sentence and no silent loss of a value.

    Args:
        args: As of the library's.
        allow_abbrev: Whether the beginning of an option is enough. Parsers of nested types, which
            the library makes without saying so, refuse it by this default.
        kwargs: As of the library's.
    """

    typed: Sequence[str] = ()  # the command line, for messages

    def __init__(self, *args: Any, allow_abbrev: bool = False, **kwargs: Any) -> None:
        super().__init__(*args, allow_abbrev=allow_abbrev, **kwargs)

    def add_argument(self, *args: Any, **kwargs: Any) -> Any:
        """As the library's; a later configuration file replaces by our rule."""
        if kwargs.get("action") is ActionConfigFile:
            kwargs["action"] = ConfigFile
        return super().add_argument(*args, **kwargs)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise a readable error; parsers of nested types keep theirs, which may be caught."""
        if not self.exit_on_error:
            super().error(message, ex)
        raise ConfigurationError(readable(message, _keys(self), self.typed)) from ex

    def validate(self, namespace: Namespace, *args: Any, **kwargs: Any) -> None:
        """As the library's, which takes null for what is not set, and lets it by.

        Raises:
            TypeError: A value does not fit its type, null among them.
        """
        super().validate(namespace, *args, **kwargs)
        for action in self._actions:
            key = action.dest
            # Without a default it may be the target of a link, or be told of as missing.
            set_to = isinstance(action, ActionTypeHint) and action.default is not None
            if set_to and not action.required and namespace.get(key, "absent") is None:
                self._check_value_key(action, None, key, namespace)

    def _check_value_key(self, action: Any, value: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(action, ActionTypeHint) and isinstance(value, str):
            typed = isinstance(value, Typed)  # and has reached the argument that it is for
            names = _names(action, value) if typed else None
            if names is not None:
                whole = super()._check_value_key(action, names, *args, **kwargs)
                return whole if kwargs.get("append") else names
            if (_is_text if typed else _is_final)(action, value):
                if not kwargs.get("append"):
                    return str(value)
                whole = super()._check_value_key(action, Typed(value), *args, **kwargs)
                return _plain(whole)
            _refuse_file(action, value)
        if isinstance(value, Typed):
            value = str(value)
        return super()._check_value_key(action, value, *args, **kwargs)

    def dump(self, namespace: Namespace, *args: Any, **kwargs: Any) -> str:
        """As the library's, without defaults that no text stands for, such as a device."""
        namespace = namespace.clone()
        for action in self._actions:
            key = action.dest
            hint = getattr(action, "_typehint", None)
            if key in namespace and is_mere_default(namespace[key], action.default, hint):
                namespace.pop(key)
        text: str = super().dump(namespace, *args, **kwargs)
        return text

    def _load_config_parser_mode(
        self, content: str, path: Any = "", *args: Any, **kwargs: Any
    ) -> Namespace:
        try:
            result: Namespace = super()._load_config_parser_mode(content, path, *args, **kwargs)
        except TypeError as error:  # the library knows the file, but does not say which it is
            if not path or NO_FILE not in str(error):
                raise
            raise TypeError(str(error).replace(NO_FILE, f'"{path}"')) from error
        return result

    def _parse_common(self, cfg: Namespace, *args: Any, **kwargs: Any) -> Namespace:
        # The library overwrites the target of a link without a word; whoever set it should hear of
        # it.
        for subcommand in (
            cfg,
            *(cfg[name] for name in DESCRIPTIONS if isinstance(cfg.get(name), Namespace)),
        ):
            _check_groups(subcommand)
            _check_seed(subcommand)
            _check_links(subcommand)
        result: Namespace = super()._parse_common(cfg, *args, **kwargs)
        return result


def _check_groups(config: Namespace) -> None:
    # Of a group whose keys are all commented out, nothing would be left, not even the defaults.
    for group in GROUPS:
        if group in config and config[group] is None:
            raise ConfigurationError(
                f"{group} is empty: set a key below it, or leave the line {group}: out"
            )


def _check_seed(config: Namespace) -> None:
    # The library refuses it, too, and does not say which key it is.
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
            f"{target} is set to {value}, but it has one source: set {source} instead{is_now}, "
            f"and leave {target} out"
        )


def _default(config: Namespace, key: str) -> Any:
    group, _, name = key.partition(".init_args.")
    module, _, cls = str(config.get(f"{group}.class_path")).rpartition(".")
    try:
        parameters = inspect.signature(getattr(importlib.import_module(module), cls)).parameters
    except (ImportError, AttributeError, ValueError):
        return None
    default = parameters[name].default if name in parameters else None
    return None if default is inspect.Parameter.empty else default


def _keys(parser: LightningArgumentParser) -> Iterator[str]:
    for action in parser._actions:
        if action.dest and action.dest != "help":
            yield action.dest
        if isinstance(action.choices, dict):  # the subcommands
            for subparser in action.choices.values():
                yield from _keys(subparser)
