"""What is wrong with a configuration, as one sentence: the key, the value, and the fix.

The parser's message lists every type that it has tried. Where the mistake is comes from our own
dictionary: each class in it is asked for its arguments, from the outside to the inside.
"""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from jsonargparse import ArgumentError, ArgumentParser, Namespace

from commands.errors import did_you_mean, unknown_key
from commands.options import ROOMS, public_names
from files.configuration.merge import SPEC, dataclass_at, imported
from files.configuration.yaml_loader import NO_CONFIGURATION
from files.own_modules import import_own
from files.paths import CONFIGURATIONS

# Lines that say nothing of the mistake.
_NOISE = re.compile(
    r"Parser key|Does not validate|Subtypes:|Errors:|Given value|Problem with given|Subclass types|"
    r"Expected a <class 'NoneType'>|a class path|a dict"
)
_REQUIRED = re.compile(r"required: ([\w.]+(?:, [\w.]+)*)")
_OF_CLASS = re.compile(r"import path|subclass|No module named|attribute|is abstract|is a protocol")


@dataclass(frozen=True)
class Mistakes:
    """A search for the first mistake.

    Attributes:
        new_parser: Makes a parser for the arguments of a class.
        message: What the parser said; empty where it found nothing.
        nulls: Whether to look only for null where none is allowed, which the library accepts.
    """

    new_parser: Callable[[], ArgumentParser]
    message: str = ""
    nulls: bool = False

    def of_command(self, parser: ArgumentParser, values: Mapping[str, Any]) -> str:
        """Return the sentence; empty without a mistake.

        Args:
            parser: The parser of the command.
            values: The configuration.
        """
        for sentence in self._in_arguments(parser, values, ""):
            return sentence
        if self.nulls:
            return ""
        required = _REQUIRED.search(self.message)
        if required is None:
            return innermost(self.message)
        keys = required[1].split(", ")
        files = " ".join(f"--{key} configs/{key}/NAME.yaml" for key in keys)
        return (
            f"missing {', '.join(keys)}: name an experiment with --config "
            f"configs/experiment/NAME.yaml, or add {files}"
        )

    def _in_arguments(
        self, parser: ArgumentParser, values: Mapping[str, Any], where: str
    ) -> Iterator[str]:
        keys = [*parser.get_defaults().keys(branches=True)]
        flat = dict(_flat(values, keys))
        above = f"{where}." if where else ""
        for key in flat:
            if key not in keys:
                yield unknown_key(f"{above}{key}", [f"{above}{each}" for each in keys])
        for key, value in flat.items():
            if _is_group(key, keys):
                yield f"{above}{key} is {_as_typed(value)}: it takes keys below it"
                continue
            if self.nulls and not _has_null(value):
                continue
            complaint = _complaint(parser, key, value)
            if complaint and f"{above}{key}" == "data.degradation":
                yield "data.degradation is filled in from the key degradation: write it there"
            if complaint or self.nulls:
                yield from self._in_value(value, f"{above}{key}")
            if complaint:
                yield from _wrong_value(complaint, value, f"{above}{key}")

    def _in_value(self, value: Any, where: str) -> Iterator[str]:
        if isinstance(value, list):
            for item in value:
                yield from self._in_value(item, where)
        elif isinstance(value, Mapping) and "class_path" in value:
            yield from self._in_class(value, where)
        elif isinstance(value, Mapping):
            for name, item in value.items():
                yield from self._in_value(item, f"{where}.{name}")
        elif isinstance(value, str) and _REQUIRED.search(self.message) and imported(value):
            yield from self._in_class({"class_path": value}, where)

    def _in_class(self, value: Mapping[str, Any], where: str) -> Iterator[str]:
        path = str(value["class_path"])
        if others := value.keys() - {*SPEC}:
            yield f"{where} takes class_path and init_args, but has {', '.join(map(str, others))}"
        kind = imported(path)
        if kind is None:
            yield from _no_class(path, where)
            return
        parser = self._parser_of(kind)
        arguments = value.get("init_args") or {}
        if parser is None or not isinstance(arguments, Mapping):
            return
        keys = [*parser.get_defaults().keys(branches=True)]
        yield from self._in_arguments(parser, _with_dataclasses(path, arguments, keys), where)
        if missing := self._missing(parser, arguments):
            names = ", ".join(f"{where}.{name}" for name in missing)
            yield f"missing {names} ({path} needs it)"

    def _parser_of(self, kind: Any) -> ArgumentParser | None:
        parser = self.new_parser()
        add = (
            parser.add_class_arguments if isinstance(kind, type) else parser.add_function_arguments
        )
        try:
            add(kind, fail_untyped=False)
        except (TypeError, ValueError):
            return None
        return parser

    def _missing(self, parser: ArgumentParser, arguments: Mapping[str, Any]) -> list[str]:
        # The parser of the whole says which of them are missing, as it fills in some of them.
        required = _REQUIRED.search(self.message)
        if required is None:
            return []
        try:
            whole = Namespace(copy.deepcopy(dict(arguments)))  # type: ignore[no-untyped-call]
            parser.validate(whole)
        except (TypeError, ArgumentError) as error:
            of_class = _REQUIRED.search(str(error))
            names = required[1].rstrip(".").split(", ")
            missing = of_class[1].rstrip(".").split(", ") if of_class else []
            return [name for name in missing if name in names]
        return []


def _complaint(parser: ArgumentParser, key: str, value: Any) -> str:
    """Return what a parser says against a value; empty if it takes it."""
    try:
        one = Namespace({key: copy.deepcopy(value)})  # type: ignore[no-untyped-call]
        parser.validate(one, skip_unset=False, skip_required=True)
    except (TypeError, ValueError, KeyError, ArgumentError) as error:
        return str(error)
    return ""


def _flat(values: Mapping[str, Any], keys: list[str], above: str = "") -> Iterator[tuple[str, Any]]:
    # Keys with their values; those of a group have its name before them.
    for name, value in values.items():
        key = f"{above}{name}"
        if isinstance(value, Mapping) and _is_group(key, keys):
            yield from _flat(value, keys, f"{key}.")
        else:
            yield key, value


def _is_group(key: str, keys: list[str]) -> bool:
    return any(each.startswith(f"{key}.") for each in keys)


def _with_dataclasses(path: str, arguments: Mapping[str, Any], keys: list[str]) -> dict[str, Any]:
    # The library finds the class of such an argument by itself.
    result = dict(arguments)
    for name, value in arguments.items():
        if not isinstance(value, dict) or value.keys() & {*SPEC} or _is_group(name, keys):
            continue
        kind = dataclass_at(path, (name,))
        if kind is not None:
            whole = f"{kind.__module__}.{kind.__qualname__}"
            result[name] = {"class_path": whole, "init_args": value}
    return result


def _has_null(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(map(_has_null, value.values()))
    return any(map(_has_null, value)) if isinstance(value, list) else value is None


def innermost(message: str) -> str:
    """Return the first line of a message of the library that says what is wrong."""
    lines = [line.strip().removeprefix("- ") for line in message.splitlines()]
    telling = [line for line in lines if line and not _NOISE.match(line)]
    return telling[0].partition(". Got value: Namespace(")[0] if telling else " ".join(lines)


def _wrong_value(message: str, value: Any, where: str) -> Iterator[str]:
    text = _as_typed(value)
    if _OF_CLASS.search(message) and "Expected a <class 'str'>" not in message:
        for path in _paths(value):
            yield from _no_class(path, where)
        of_class = value.get("class_path") if isinstance(value, Mapping) else value
        if isinstance(of_class, str):
            yield f"{where} is {of_class}: {innermost(message)}"
    types = map(_type, re.findall(r"Expected (an? [^\n]*)", message))
    expected = " or ".join(dict.fromkeys(name for name in types if name != "NoneType"))
    if expected:
        fix = ": leave it out, or give a value" if value is None else ""
        yield f"{where} is {text}; expected {expected}{fix}"
    if isinstance(value, Mapping) or "a valid subclass" in message:
        yield f"{where} takes class_path and init_args, but is {text}"
    yield f"{where}: {innermost(message)}"


def _paths(value: Any) -> Iterator[str]:
    # Of classes, where any are expected.
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for item in value:
            yield from _paths(item)
    elif isinstance(value, Mapping):
        path = value.get("class_path")
        texts = [each for each in value.values() if isinstance(each, str) and "." in each]
        yield from [path] if isinstance(path, str) else texts


def _as_typed(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{key}: {_as_typed(part)}' for key, part in value.items())}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(_as_typed, value))}]"
    return {None: "null", "": "empty"}.get(value, str(value))


def _type(part: str) -> str:
    # "a <class 'int'>", "a typing.Literal['a', 'b']", "an integer above 0. Got value: -1"
    name = part.partition(". Got value:")[0].removesuffix(".")
    if "import path" in name:
        return "the path of a class"
    return re.sub(r"^an? (?:<class '([\w.]+)'>|typing\.Literal\[(.*)\])", r"\1\2", name)


def _no_class(path: str, where: str) -> Iterator[str]:
    """Yield why a path names nothing that can be imported; nothing if it does."""
    if os.path.exists(path):
        yield f"{where}: {path!r} {NO_CONFIGURATION}"
    if path.endswith(CONFIGURATIONS):
        yield f"{where} is {path}, and there is no such file"
    module, _, name = path.rpartition(".")
    if not module or not path.replace(".", "").isidentifier():
        names = {each.rpartition(".")[2]: each for room in ROOMS for each in public_names(room)}
        near = did_you_mean(names.get(path, path), names.values())
        yield f"{where}: {path!r} is not a class, named as folder.file.Class{near}"
        return
    try:
        content = import_own(module)
    except (ImportError, AttributeError) as error:
        yield f"{where} is {path}: {error}{_public(path)}"
        return
    if not hasattr(content, name):
        near = _public(path) or did_you_mean(name, dir(content))
        yield f"{where}: {module} has no {name!r}{near}"


def _public(path: str) -> str:
    room, _, rest = path.partition(".")
    if room not in ROOMS:
        return ""
    return did_you_mean(f"{room}.{rest.rpartition('.')[2]}", public_names(room))
