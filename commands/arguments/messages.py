"""What the parser's messages say, as one sentence: the key, the value, and the fix.

A message of the library lists every type that it has tried. It is walked once, to the key, the
class, and the innermost message. An unknown key, a missing one, a wrong value and a class that is
not there have a sentence of ours; of all else, the key and the innermost message are printed.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Sequence
from itertools import takewhile
from typing import NamedTuple

from commands.errors import did_you_mean
from commands.options import ROOMS, public_names

MOST_LISTED = 24  # keys in a sentence
UNKNOWN = "unknown key "  # begins the sentence of an unknown key
_UNKNOWN = re.compile(
    r"(?:Group '(?P<group>[^']+)' does|Subcommand '\w+' does) not accept option '([^']+)'"
    r"|^Option '([^']+)' is not accepted"
    r"|^unrecognized arguments: --?([^\s=]+)"
    r'|^No action for key "?([^\s"]+)'
)
# Lines about the types that the parser tried, and the value that it tried them on.
_ATTEMPTS = (
    *(
        "Does not validate",
        "Subtypes:",
        "Errors:",
        "Given value",
        "Unable to load config '",
        "Subclass types",
    ),
    *("Expected a path but", "Expected a <class 'NoneType'>"),
)


class _Found(NamedTuple):
    """The innermost message, and where it is."""

    where: str  # the full key
    class_path: str
    message: str
    given: str  # the value, where the message does not name it


def readable(message: str, keys: Iterable[str]) -> str:
    """Turn a parser's message, which lists every type that it tried, into one sentence.

    Args:
        message: The message of the parser.
        keys: All keys of the parser, for suggestions.
    """
    if message.startswith("Unexpected config:"):
        content = message.partition(":")[2].strip()
        return f"a configuration file must hold keys with values, but holds {content[:60]!r}"
    found = _walk(message)
    if not found.where:
        return unknown_key(found.message, keys) or _top_level(found)
    return (
        _unknown(found)
        or _missing(found)
        or _no_class(found)
        or _wrong_value(found)
        or f"{found.where}: {found.message}"
    )


def _walk(message: str) -> _Found:
    """Find the first innermost message, the keys down to it, and the last class named."""
    message = re.sub(r"NestedArg\(key='([^']*)', val='?(.*?)'?\)", r"{\1: \2}", message)
    lines = [line for line in message.splitlines() if line.strip()]
    attempts = (*_ATTEMPTS, "Expected a dot") if ", column " in message else _ATTEMPTS
    path: list[str] = []
    class_path = inner = ""
    for number, line in enumerate(lines):
        inner = re.sub(r"^\s*(- )?(Not of type \w+: )?", "", line)
        _, makes, rest = inner.partition(" expects a function or a callable class: ")
        if makes:
            inner = rest
            # In the line itself, or, for a type of several parts, in the value after all of them.
            named = re.search("class_path='([^']+)", " ".join([rest, *lines[number + 1 :]]))
            class_path = named[1] if named else class_path
        if inner.startswith('Parser key "'):
            key, _, inner = inner.removeprefix('Parser key "').partition('":')
            if path and f"{key}.".startswith(f"{path[-1]}."):  # a group in braces, and its key
                path.pop()
            path.append(key)
        elif inner.startswith("Problem with given class_path '"):
            class_path, inner = inner.split("'")[1], ""
        if inner.strip() and not inner.startswith(attempts):
            break
    after = lines[number + 1 :]
    more = [each.strip() for each in takewhile(lambda each: _goes_on(line, each), after)]
    values = (each.partition("Given value:")[2] for each in after if "Given value:" in each)
    whole, given = (
        text.partition(". Got value: Namespace(")[0].strip()
        for text in (" ".join([inner.strip(), *more]), next(values, ""))
    )
    return _Found(".init_args.".join(path), class_path, whole, given)


def _goes_on(first: str, line: str) -> bool:
    """Return whether a line belongs to an innermost message, by its indentation."""
    bare = line.lstrip()
    below = len(line) - len(bare) >= len(first) - len(first.lstrip())
    other = bare.startswith("- ") and not bare.startswith("- Expected a")
    return below and not other and not bare.removeprefix("- ").startswith(_ATTEMPTS)


# ------------------------------------------------------------------------------------ unknown keys


def unknown_key(message: str, keys: Iterable[str]) -> str:
    """Return the sentence about an unknown key of a parser; empty for another message.

    Args:
        message: The message of the parser.
        keys: Its keys.
    """
    match = _UNKNOWN.search(message)
    if match is None:
        return ""
    unknown = next(filter(None, match.groups()[1:]))
    unknown = f"{match['group']}.{unknown}" if match["group"] else unknown
    keys = [key for key in keys if not key.startswith("print_")]
    unknown = _outermost(unknown, keys)
    alike = [key for key in keys if key.count(".") == unknown.count(".")]
    near = did_you_mean(unknown, alike) or did_you_mean(unknown, keys)
    listed = ""
    if 0 < len(alike) <= MOST_LISTED:
        listed = f"; known there: {', '.join(map(repr, alike))}"
    return f"{UNKNOWN}{unknown!r}{near or listed}"


def _outermost(unknown: str, keys: Sequence[str]) -> str:
    # Of an unknown group with keys below it, the group.
    parts = unknown.split(".")
    groups = (".".join(parts[:count]) for count in range(1, len(parts)))
    return next((g for g in groups if not any(f"{k}.".startswith(f"{g}.") for k in keys)), unknown)


def _unknown(found: _Found) -> str:
    if not found.message.startswith(UNKNOWN):
        return ""
    name = found.message.split("'")[1]
    if did_you_mean(name, ("class_path", "init_args")):
        return f"{found.where} takes class_path and init_args, but is {found.given}"
    return re.sub(r"(key |mean )'([^']+)'", rf"\1'{found.where}.init_args.\2'", found.message)


# ------------------------------------------------------------------------------ missing, and words


def _top_level(found: _Found) -> str:
    missing = re.match("the following arguments are required: (.*)", found.message)
    if missing:
        keys = [key.partition(".")[2] for key in missing[1].split(", ")]
        files = " ".join(f"--{key} configs/{key}/NAME.yaml" for key in keys)
        return (
            f"missing {', '.join(keys)}: name an experiment with --config "
            f"configs/experiment/NAME.yaml, or add {files}"
        )
    word = found.message.removeprefix("unrecognized arguments: ")
    if word == found.message:
        return word + (" (a tab? YAML is indented by spaces)" if "any token" in word else "")
    return (
        f"{word!r} is not an option: write its key before it, as --config {word}, or for images "
        f"--data.predict {word}, a pattern in quotation marks"
    )


def _missing(found: _Found) -> str:
    match = re.match("the following arguments are required: ([^ ]+(?:, [^ ]+)*)", found.message)
    if match is None:
        return ""
    if found.where == "data.init_args.degradation":
        return f"{found.where} is filled in from the top-level key degradation: write it there"
    names = [f"{found.where}.init_args.{name}" for name in match[1].rstrip(".").split(", ")]
    return f"missing {', '.join(names)} ({found.class_path} needs it)"


# ------------------------------------------------------------------------------------- wrong values


def _wrong_value(found: _Found) -> str:
    if not found.message.startswith(("Expected a ", "Expected an ")):
        return ""
    tried, got, value = found.message.partition(". Got value:")
    value = value.strip() if got else found.given
    value = {"None": "null", "null": "null", "": "empty"}.get(value, value)
    types = [_type(part) for part in re.split(r" ?-? ?(?=Expected an? )", tried) if part]
    expected = " or ".join(dict.fromkeys(name for name in types if name != "NoneType"))
    fix = ": leave it out, or give a value" if value == "null" else ""
    return f"{found.where} is {value}; expected {expected}{fix}"


def _type(part: str) -> str:
    # "Expected a <class 'int'>", "Expected a typing.Literal['a', 'b']", "Expected an integer ..."
    name = part.removeprefix("Expected ").removesuffix(".")
    if "import path" in name:
        return "the path of a class"
    return re.sub(r"^an? (?:<class '([\w.]+)'>|typing\.Literal\[(.*)\])", r"\1\2", name)


# ------------------------------------------------------------------------------------------ classes


def _no_class(found: _Found) -> str:
    where, message = found.where, found.message
    if message.startswith("Not a valid subclass of"):
        return f"{where} takes class_path and init_args, but is {found.given}"
    word = message.removeprefix("Expected a dot import path string: ")
    if word != message:
        names = {name.rpartition(".")[2]: name for room in ROOMS for name in public_names(room)}
        near = did_you_mean(names.get(word, word), names.values())
        return f"{where}: {word!r} is not a class, named as folder.file.Class{near}"
    name = (found.class_path or found.given).rpartition(".")[2]
    lacking = re.match(r"(?:module '(?P<file>.+)' has no|No (?P<room>\w+)) attribute", message)
    if lacking and lacking["room"]:
        near = did_you_mean(f"{lacking['room']}.{name}", public_names(lacking["room"]))
        return f"{where}: {message}{near}"
    if lacking:
        near = did_you_mean(message.split("'")[3], dir(sys.modules.get(lacking["file"])))
        return f"{where}: {message}{near}"
    named = re.match(r"(?:No module named|cannot import name '\w+' from) '([\w.]+)'", message)
    if named:
        return f"{where} is {found.class_path or found.given}: {message}"
    message = message.partition(" - Expected a <class")[0]  # what its other types would be
    if "is abstract" in message or "does not correspond to a subclass" in message:
        return f"{where} is {found.given}: {message}"
    return ""
