"""Errors of configuration as one readable sentence: the key, the value, and the mend."""

from __future__ import annotations

import difflib
import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterable


class ConfigurationError(Exception):
    """The configuration or the command line is wrong; the message says what to change."""


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """The nearest of the choices as half a sentence, or nothing."""
    choices = list(choices)
    near = difflib.get_close_matches(word, choices, n=1, cutoff=0.5)
    if not near:  # a long dotted key may differ in its last part only
        tails = {c.rpartition(".")[2]: c for c in choices}
        near = [
            tails[t]
            for t in difflib.get_close_matches(word.rpartition(".")[2], tails, n=1, cutoff=0.6)
        ]
    return f"; did you mean {near[0]!r}?" if near else ""


def readable(message: str, keys: Iterable[str]) -> str:
    """Turn a parser's message, which lists every type that it tried, into one sentence.

    Args:
        message: What the parser said.
        keys: All keys of the parser, for suggestions.
    """
    lines = [line.strip().removeprefix("- ") for line in message.splitlines() if line.strip()]
    path, class_path, leaf = _walk(lines)
    where = ".init_args.".join(path)
    if leaf.startswith("Problems parsing config"):
        return " ".join(lines)  # with the line and column of the mistake
    return (
        _unknown_option(leaf, where, class_path, keys)
        or _unknown_class(leaf, where, lines)
        or _missing(leaf, where, class_path)
        or _wrong_value(leaf, where, lines)
        or " ".join([*([f"{where}:"] if where and where not in leaf else []), leaf])
    )


def _walk(lines: list[str]) -> tuple[list[str], str | None, str]:
    # The chain of keys down to the first innermost complaint.
    path: list[str] = []
    class_path = None
    for line in lines:
        if match := re.match(r'Parser key "([^"]+)":\s*(.*)', line):
            path.append(match[1])
            if match[2]:
                return path, class_path, match[2]
        elif match := re.match(r"Problem with given class_path '([^']+)':", line):
            class_path = match[1]
        elif match := re.match(
            r"Type \S*Callable.* expects a function or a callable class: (.+)", line
        ):
            inner = re.search(r"class_path='([^']+)'", match[1])
            return path, inner[1] if inner else class_path, match[1]
        elif not re.match(
            r"Does not validate|Subtypes:|Errors:|Given value|Expected a path but"
            r"|Expected a <class 'NoneType'>",
            line,
        ):
            return path, class_path, line
    return path, class_path, " ".join(lines)


def _unknown_option(
    leaf: str, where: str, class_path: str | None, keys: Iterable[str]
) -> str | None:
    match = (
        re.match(r"Option '([^']+)' is not accepted", leaf)
        or re.search(r"does not accept option '([^']+)'", leaf)
        or re.match(r"unrecognized arguments: --([^\s=]+)", leaf)
        or re.match(r"unrecognized arguments: (\S+)", leaf)
        or re.match(r"No action for key \"?([^\s\"]+)", leaf)
    )
    if match is None:
        return None
    unknown = match[1]
    if class_path is None:
        return f"unknown key {unknown!r}{did_you_mean(unknown, keys)}"
    name = unknown.removeprefix("init_args.").split(".")[0]
    choices = _parameters(class_path)
    full = f"{where}.init_args.{name}" if where else name
    listed = f"; it takes: {', '.join(choices)}" if choices else ""
    hint = did_you_mean(name, choices) or listed
    return f"unknown key {full!r}: {class_path} has no argument {name!r}{hint}"


def _unknown_class(leaf: str, where: str, lines: list[str]) -> str | None:
    if match := re.match(r"module '([^']+)' has no attribute '([^']+)'", leaf):
        module, name = match.groups()
        return f"{where}: there is no {name!r} in {module}{did_you_mean(name, _members(module))}"
    if match := re.match(r"Unexpected import path format: (.+\.ya?ml)$", leaf):
        return (
            f"{where} names the file {match[1]!r}, which cannot be read; a path in a "
            "configuration is relative to "
            "the file that it stands in"
        )
    if match := re.match(r"No module named '([^']+)'", leaf):
        return (
            f"{where}: there is no module {match[1]!r}; a class is named as folder.file.Class, "
            "for example "
            "lightning_modules.regression.Regression, and your own are found in the working "
            "directory"
        )
    if match := re.match(r"Expected a dot import path string: (.+)", leaf):
        return (
            f"{where}: {match[1]!r} is no class; name it as folder.file.Class, "
            "for example lightning_modules.regression.Regression"
        )
    if "not a subclass" in leaf or "is not a subclass" in " ".join(lines):
        return f"{where}: {leaf}"
    return None


def _missing(leaf: str, where: str, class_path: str | None) -> str | None:
    match = re.match(r"the following arguments are required: (.+)", leaf)
    if match is None:
        return None
    names = [name.strip() for name in match[1].split(",")]
    # The parser puts the subcommand before a key: fit.data
    names = [re.sub(r"^(fit|validate|test|predict)\.", "", name) for name in names]
    full = ", ".join(f"{where}.init_args.{name}" if where else name for name in names)
    what = f" ({class_path} needs it)" if class_path else ""
    mend = "" if where else ": name an experiment with --config configs/experiment/NAME.yaml"
    return f"missing {full}{what}{mend}"


def _wrong_value(leaf: str, where: str, lines: list[str]) -> str | None:
    match = re.match(r"Expected an? (.+?)\.? Got value: (.+)", leaf) or re.match(
        r"Expected an? (.+)", leaf
    )
    if match is None or not where:
        return None
    expected = re.sub(r"<class '([^']+)'>", r"\1", match[1])
    if match.lastindex == 2:
        return f"{where} is {match[2]}; expected {expected}"
    given = next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("Given value:")), ""
    )
    return f"{where} is {given or 'wrong'}; expected {expected}"


def _import(class_path: str) -> object:
    module, _, name = class_path.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name, None)
    except ImportError:
        return None


def _parameters(class_path: str) -> list[str]:
    found = _import(class_path)
    if not callable(found):
        return []
    return [
        name
        for name in inspect.signature(found).parameters
        if name not in ("self", "args", "kwargs")
    ]


def _members(module: str) -> list[str]:
    # Classes of a file, or files of a folder.
    try:
        found = importlib.import_module(module)
    except ImportError:
        return []
    files = [info.name for info in pkgutil.iter_modules(getattr(found, "__path__", []))]
    return files + [name for name, value in vars(found).items() if inspect.isclass(value)]
