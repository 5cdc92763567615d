"""Errors of a configuration as one sentence."""

from __future__ import annotations

import dataclasses
import difflib
import importlib.util
import inspect
import itertools
import os
import pkgutil
import re
import typing
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from commands.names import ABOUT
from commands.options import SOURCES, options, public_names
from files.own_modules import import_own
from files.paths import CONFIGURATIONS, IMAGE_EXTENSIONS, VIDEO_EXTENSIONS

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ROOT / "configs"
EXPERIMENTS = CONFIGS / "experiment"
COMMANDS = list(ABOUT)
_RATE = "model.init_args.optimizer.init_args"

# Keys by their names in other programs.
_MEANT = {
    **dict.fromkeys(("lr", "learning_rate", "rate"), f"{_RATE}.lr"),
    **dict.fromkeys(("weight_decay", "wd"), f"{_RATE}.weight_decay"),
    **dict.fromkeys(("optimizer", "optim", "optimiser"), "model.init_args.optimizer"),
    **dict.fromkeys(("scheduler", "lr_scheduler", "schedule"), "model.init_args.lr_scheduler"),
    **dict.fromkeys(("weights", "pretrained", "model_path"), "model.init_args.weights"),
    **dict.fromkeys(("network", "arch"), "model.init_args.network"),
    **dict.fromkeys(("batch_size", "bs", "batch"), "data.init_args.batch_size"),
    **dict.fromkeys(("workers", "num_workers", "n_threads"), "data.init_args.workers"),
    **dict.fromkeys(("crop_size", "patch_size", "gt_size", "crop"), "data.init_args.crop_size"),
    **dict.fromkeys(("scale", "upscale", "outscale", "s"), "data.init_args.scale"),
    **dict.fromkeys(("input", "i", "images", "in", "predict"), "data.init_args.predict"),
    **dict.fromkeys(("steps", "max_steps", "iters", "iterations"), "trainer.max_steps"),
    **dict.fromkeys(("total_iter", "max_iter"), "trainer.max_steps"),
    **dict.fromkeys(("epochs", "max_epochs", "num_epochs", "n_epochs"), "trainer.max_epochs"),
    **dict.fromkeys(("gpus", "gpu", "devices", "gpu_id", "num_gpus"), "trainer.devices"),
    **dict.fromkeys(("device", "accelerator", "cuda", "cpu"), "trainer.accelerator"),
    **dict.fromkeys(("nodes", "num_nodes"), "trainer.num_nodes"),
    **dict.fromkeys(("precision", "amp", "fp16", "bf16", "half"), "trainer.precision"),
    **dict.fromkeys(("seed", "manual_seed"), "seed_everything"),
    **dict.fromkeys(("name", "experiment", "exp"), "run.name"),
    **dict.fromkeys(("tile", "tile_size"), "tiling.size"),
    **dict.fromkeys(("resume", "checkpoint_path", "ckpt"), "ckpt_path"),
    **dict.fromkeys(("output", "out", "o", "output_dir", "out_dir", "save_dir"), "run.root"),
    **dict.fromkeys(("dir", "directory", "folder", "work_dir", "log_dir"), "run.root"),
}
_OUTPUT = "run.root"
_AT_TAB = "found character that cannot start any token"  # of PyYAML


class ConfigurationError(Exception):
    """The configuration or the command line is wrong; the message names the key and the fix."""


class RepeatedError(Exception):
    """Another process has failed for the same reason, and reports it for all.

    Args:
        status: Exit status.
    """

    def __init__(self, status: int) -> None:
        super().__init__("another process reports the reason")
        self.status = status


class TemporaryError(Exception):
    """Another process or the network failed: the same command may succeed later.

    Args:
        message: What happened.
        status: Exit status; that of the process which failed first, if known.
    """

    def __init__(self, message: str, status: int = 75) -> None:  # EX_TEMPFAIL
        super().__init__(message)
        self.status = status


# Keys of images that have to be there, and commands whose first words are runs or folders.
_IMAGES = ("data.predict", "data.train.root")
_ON_RUNS = ("report", "compare", "measure")
_SPECIAL = {*"$~*?[]{},:"}  # characters of patterns, lists and addresses
_CLASS = re.compile(r"(lightning_modules|datamodules|degradations|callbacks)\.([A-Z]\w*)")

# Keys by the folder of configs/ whose files are their values, and by the room of such a class.
_PARTS = {
    "model": "model",
    "lightning_modules": "model",
    "data": "data",
    "datamodules": "data",
    "degradation": "degradation",
    "degradations": "degradation",
    "trainer": "trainer",
    "callbacks": "trainer.callbacks",
    "logger": "trainer.logger",
    "augment": "data.crops.augment",
    "backbone": "model.space",
}

# First parts of the commands' options.
TOP = (
    *("config", "print_config", "help", "debug", "seed_everything", "ckpt_path"),
    *("weights_only", "verbose", "return_predictions"),
    *("model", "data", "degradation", "trainer", "run", "tiling", "checkpoint", "writer"),
    *("encode", "export"),
)


def refuse_typos(args: Sequence[str]) -> None:
    """Raise for a misspelt command, option or file, before torch is imported, which takes seconds.

    What needs more than this module to judge is left to the parser.

    Args:
        args: Arguments as typed after ``main.py``.

    Raises:
        ConfigurationError: With the sentence that the parser's error would become.
    """
    if not args:
        raise ConfigurationError(readable('expected "subcommand" to be one of', []))
    if not args[0].startswith("-") and args[0] not in COMMANDS:
        message = f"argument subcommand: invalid choice: {args[0]!r}"
        raise ConfigurationError(readable(message, [], args))
    if len(args) == 1 and args[0] in COMMANDS:
        missing = f"{args[0]}.data, {args[0]}.model"
        raise ConfigurationError(readable(f"the following arguments are required: {missing}", []))
    shipped = _shipped(args)
    for number, word in enumerate(args):
        option, equals, value = word.partition("=")
        if not option.startswith("--"):
            continue
        first, _, rest = option[2:].rstrip("+").partition(".")
        near = difflib.get_close_matches(first, TOP, n=1, cutoff=0.75)
        # A key of a single part may be another program's name for ours, which the parser knows.
        if first not in TOP and near and (rest or near == ["config"]):
            meant = ".".join(filter(None, (near[0], rest)))
            raise ConfigurationError(f"unknown key {option[2:]!r}; did you mean {meant!r}?")
        _refuse_unknown(first, rest)
        value = value if equals else args[number + 1] if number + 1 < len(args) else ""
        if first == "config" and not rest and not {*"$~:{\n"} & {*value}:
            path = os.path.abspath(value)
            if value.endswith((".yaml", ".yml", ".json")) and not os.path.exists(path):
                raise ConfigurationError(_no_file(f"File does not exist: {path!r}", first, []))
            _refuse_part(value)
        _refuse_unknown_class(option[2:].rstrip("+"), value)
        is_image = option[2:].replace(".init_args.", ".") in _IMAGES
        if shipped and is_image and not re.fullmatch(r"(\w+\.)+[A-Z]\w*", value):  # a source
            _refuse_missing(option[2:], value)


def refuse_missing_run(words: Sequence[str]) -> None:
    """Raise if a command about runs, such as ``report``, names none or one that does not exist.

    Args:
        words: As typed after ``main.py``.

    Raises:
        ConfigurationError: If so.
    """
    if words[:1] == ["compare"] and len(words) == 1:
        raise ConfigurationError("name two runs, or folders of images: compare runs/A runs/B")
    if len(words) == 1 and words[0] in _ON_RUNS:
        what = "a folder of images" if words[0] == "measure" else "a run, such as runs/NAME"
        raise ConfigurationError(f"{words[0]} needs {what}")
    names = itertools.takewhile(lambda word: not word.startswith("-"), words[1:])
    for name in names if words[0] in _ON_RUNS else ():
        if not os.path.exists(name):
            _refuse_missing(words[0], name.partition("@")[0])  # runs/a@step-1000


def _refuse_missing(key: str, path: str) -> None:
    if not path or path == "null" or _SPECIAL & {*path} or os.path.lexists(path):
        return
    folder, name = os.path.split(os.path.normpath(path))
    beside = os.listdir(folder or ".") if os.path.isdir(folder or ".") else []
    near = difflib.get_close_matches(name, beside, n=1)
    meant = f"; did you mean {os.path.join(folder, near[0])!r}?" if near else ""
    raise ConfigurationError(f"{key} is {path!r}, which does not exist{meant}")


def _refuse_part(file: str) -> None:
    """Raise if a file holds the value of one key, such as a model, and is no configuration."""
    path = Path(file)
    if not path.is_file() or path.suffix not in CONFIGURATIONS:
        return
    text = path.read_text("utf-8", errors="replace")
    lines = (line for line in text.splitlines() if line.partition("#")[0].strip())
    classes = re.match(r"(?:- )?class_path: *(\w+)", next(lines, ""))
    key = _PARTS.get(path.resolve().parent.name) or (classes and _PARTS.get(classes[1], "model"))
    in_configs = CONFIGS in path.resolve().parents
    if classes or (in_configs and key):
        raise ConfigurationError(
            f"{file} is the value of one key, not a configuration: give it to its key, as "
            f"--{key} {file}"
        )


def _shipped(args: Sequence[str]) -> bool:
    # Whether all files are ours: a user's own source may take a root that it makes itself.
    pairs = [word.partition("=") for word in args]
    values = [value if equals else word for word, equals, value in pairs]
    files = [value for value in values if value.endswith(CONFIGURATIONS)]
    typed = {word.replace(".init_args.", ".").rstrip("+") for word, _, _ in pairs}
    ours = bool(files) and all(CONFIGS in Path(file).resolve().parents for file in files)
    return ours and "--data.train" not in typed


def _refuse_unknown_class(key: str, value: str) -> None:
    # One of a room's public names, which its stub lists; other classes are left to the parser.
    match = _CLASS.fullmatch(value)
    if match and value not in (known := public_names(match[1])):
        near = did_you_mean(value, known)
        raise ConfigurationError(f"{key}: {match[1]} has no {match[2]!r}{near}")


def _refuse_unknown(group: str, rest: str) -> None:
    # Keys of a class that a configuration names are left to the parser.
    known = options(group) if group in SOURCES and group != "data" and rest else {}
    key, name = f"{group}.{rest}", rest.partition(".")[0]
    if known and name not in (*known, "help"):
        near = did_you_mean(key, [f"{group}.{each}" for each in known])
        raise ConfigurationError(f"unknown key {key!r}{_meant(key, [*TOP], ()) or near}")


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """Return the nearest choice as half a sentence, or an empty text."""
    choices = list(choices)
    near = [choice for choice in choices if choice.startswith(f"{word}_")]  # a short name
    near = near or difflib.get_close_matches(word, choices, n=1)
    first, dot, rest = word.partition(".")
    heads = {choice.partition(".")[0] for choice in choices}
    if not near and dot and first not in heads:  # a misspelt group, with a key below it
        alike = difflib.get_close_matches(first, heads, n=1, cutoff=0.75)
        near = [f"{group}.{rest}" for group in alike]
    if not near:  # a long dotted key may differ in its last part only
        tail = word.rpartition(".")[2]
        tails = {choice.rpartition(".")[2]: choice for choice in choices}
        near = [tails[t] for t in difflib.get_close_matches(tail, tails, n=1)]
        near = near or [choice for t, choice in tails.items() if t.startswith(f"{tail}_")]
    return f"; did you mean {near[0]!r}?" if near else ""


def readable(message: str, keys: Iterable[str], typed: Sequence[str] = ()) -> str:
    """Turn a parser's message, which lists every type that it tried, into one sentence.

    An unknown key, an unknown class, a missing key and a value of the wrong type get a sentence of
    our own; any other message is returned on one line.

    Args:
        message: The message of the parser.
        keys: All keys of the parser, for suggestions.
        typed: The command line, to find the file of an unknown key.
    """
    sentence = _sentence(message, list(keys), typed)
    if sentence.startswith("unknown key '"):
        return f"{_place_of(_quoted(sentence)[0], typed)}{sentence}"
    return sentence


def _sentence(message: str, keys: list[str], typed: Sequence[str]) -> str:
    lines = [_OF_RANGE.sub("", line.strip()) for line in message.splitlines() if line.strip()]
    if message.startswith("Unexpected config:"):
        return _no_mapping(message.partition(":")[2], keys)
    lines = _below_typed_groups(lines)
    path, class_path, leaf = _walk(lines)
    where = ".init_args.".join(path)
    if _is_no_yaml(message):
        found = " ".join(lines)
        tab = " (a tab? YAML is indented by spaces)" if _AT_TAB in found else ""
        return f"{found}{tab}"
    return (
        _command(leaf)
        or _no_option(leaf, typed)
        or _unknown_option(leaf, where, class_path, keys, lines, typed)
        or _unknown_class(leaf, where, class_path, lines)
        or _empty(leaf, where, lines)
        or _no_file(leaf, where, keys)
        or _missing(leaf, where, class_path, typed)
        or _wrong_value(leaf, where, lines)
        or " ".join([*([f"{where}:"] if where and where not in leaf else []), leaf])
    )


def _below_typed_groups(lines: list[str]) -> list[str]:
    """Leave out that a group typed as text, such as ``{small: x}``, is no file.

    The error is that of a key in it.
    """
    kept = list(lines)
    for number in range(len(lines) - 2, 0, -1):
        group = (_after(lines[number - 1], 'Parser key "') or "").removesuffix('":')
        text, below = lines[number : number + 2]
        if text.startswith("Unable to load config '") and below.startswith(f'Parser key "{group}.'):
            del kept[number - 1 : number + 1]
    return kept


def _is_no_yaml(message: str) -> bool:
    # Of a file: other text may be YAML, or not.
    found = ("Problems parsing config", "Invalid content in sub-config file", "Unable to load")
    return any(text in message for text in found) and ", column " in message


def _quoted(text: str) -> list[str]:
    return text.split("'")[1::2]


def _after(text: str, start: str) -> str | None:
    """Return the rest of a text that begins so, or None."""
    return text.removeprefix(start) if text.startswith(start) else None


# Before a line's message; a type of files/numbers.py says itself what it expects.
_OF_RANGE = re.compile(r"^(- )?(Not of type \w+: (?=Expected))?")
# Lines about the types that the parser tried.
_ATTEMPTS = (
    *("Does not validate", "Subtypes:", "Errors:", "Given value"),
    *("Expected a path but", "Expected a <class 'NoneType'>"),
)


def _walk(lines: list[str]) -> tuple[list[str], str | None, str]:
    """Return keys down to the first innermost message, the last class named, and the message."""
    path: list[str] = []
    class_path = None
    for number, line in enumerate(lines):
        head, makes, rest = line.partition(" expects a function or a callable class: ")
        if makes and head.startswith("Type "):
            line = rest
            # In the line itself, or, for a type of several parts, in the value after all of them.
            _, named, value = " ".join([rest, *lines[number + 1 :]]).partition("class_path='")
            class_path = value.partition("'")[0] if named else class_path
        if (keyed := _after(line, 'Parser key "')) is not None:
            key, _, message = keyed.partition('":')
            path.append(key)
            if message.strip():
                return path, class_path, message.strip()
        elif (given := _after(line, "Problem with given class_path '")) is not None:
            class_path = given.removesuffix("':")
        elif not line.startswith(_ATTEMPTS):
            return path, class_path, line
    return path, class_path, " ".join(lines)


def _no_mapping(content: str, keys: list[str]) -> str:
    import yaml  # `doctor` checks whether it is installed

    try:
        config = yaml.safe_load(content)
    except yaml.YAMLError:
        config = content
    if isinstance(config, dict):
        unknown = next((str(key) for key in config if str(key) not in keys), None)
        if unknown is not None:
            return f"unknown key {unknown!r}{did_you_mean(unknown, keys)}"
    if config is None or isinstance(config, dict):
        return "a configuration file sets nothing: it is empty, or all of its keys are"
    return f"a configuration file must hold keys with values, but holds {content.strip()[:60]!r}"


def _command(leaf: str) -> str | None:
    if leaf.startswith("argument subcommand: invalid choice: '"):
        word = _quoted(leaf)[0]
        listed = f"; the commands are {', '.join(COMMANDS)}"
        return f"unknown command {word!r}{did_you_mean(word, COMMANDS) or listed}"
    if leaf.startswith('expected "subcommand" to be one of'):
        return f"name a command first: {', '.join(COMMANDS)} (--help explains them)"
    return None


_UNKNOWN = (
    r"(?:Group '(?P<group>[^']+)' )?does not accept option '([^']+)'"
    r"|^Option '([^']+)' is not accepted"
    r"|^unrecognized arguments: --?([^\s=]+)"
    r'|^No action for key "?([^\s"]+)'
)


def _unknown_option(
    leaf: str,
    where: str,
    class_path: str | None,
    keys: list[str],
    lines: list[str],
    typed: Sequence[str],
) -> str | None:
    match = re.search(_UNKNOWN, leaf)
    if match is None:
        return None
    unknown, group = next(filter(None, match.groups()[1:])), match["group"]
    if class_path is None:
        if unknown in keys:
            return f"{unknown!r} is not a key of this command, but of another one"
        return (
            f"unknown key {unknown!r}{_meant(unknown, keys, typed) or did_you_mean(unknown, keys)}"
        )
    if difflib.get_close_matches(unknown, ("class_path", "init_args"), cutoff=0.8):
        return _no_class(where, _given(lines))
    if (class_path.startswith("torch.optim.") and inspect.isabstract(_import(class_path))) or (
        class_path.rpartition(".")[2] in ("Optimizer", "LRScheduler")
    ):
        name = "torch.optim.Adam" if "optimizer" in where else "torch.optim.lr_scheduler.StepLR"
        return (
            f"{where} has no class in this configuration, so {unknown!r} cannot be set: name the "
            f"class before it, as --{where} {name}"
        )
    of, names = class_path, [group] if group else []
    names += unknown.removeprefix("init_args.").split(".")
    name, choices, full = names[0], _parameters(class_path), f"{where}.init_args" if where else ""
    for below in names[1:]:  # keys of arguments that are dataclasses
        inner = _fields(of, name)
        if not inner:
            break
        full = f"{full}.{name}".removeprefix(".")
        of, name, choices = full, below, inner
    full = f"{full}.{name}".removeprefix(".")
    if name in choices:  # the caller gives it, as the scale of a network
        return (
            f"unknown key {full!r}: the first argument of {of}, {name!r}, is filled in; for a "
            "network it is the scale, from data.init_args.scale"
        )
    return no_argument(full, of, name, choices, typed)


def no_argument(full: str, of: str, name: str, choices: Sequence[str], typed: Sequence[str]) -> str:
    """Return the sentence about a key of a class that does not have it.

    Args:
        full: The key, with all groups above it.
        of: The class.
        name: Last part of the key.
        choices: Arguments of the class.
        typed: The command line.
    """
    unknown = f"unknown key {full!r}: {of} has no argument {name!r}"
    of_method = full == f"model.init_args.{name}" and "optimizer" in choices
    if of_method and (meant := _meant(full, [*TOP], typed)):
        return f"{unknown}{meant}"
    listed = f"; it takes: {', '.join(choices)}" if choices else ""
    return f"{unknown}{did_you_mean(name, choices) or listed}"


def _no_option(leaf: str, typed: Sequence[str]) -> str | None:
    rest = _after(leaf, "unrecognized arguments: ")
    if rest is None or rest.startswith("-"):
        return None
    words = [word for word in typed if rest == word or rest.startswith(f"{word} ")]
    word = max(words, key=len, default=rest.split()[0])
    command = next((word for word in typed if word in COMMANDS), "")
    path, several = Path(word), rest != word
    image = path.suffix.lower() in IMAGE_EXTENSIONS | VIDEO_EXTENSIONS
    options = {word.partition("=")[0].replace(".init_args.", ".") for word in typed}
    given = "--data.predict" in options
    if image and (several or given or command != "predict"):  # the shell has expanded a pattern
        return f"{word!r} is not an option: put a pattern in quotation marks, 'photos/*.jpg'"
    named = _experiment(word)
    if path.suffix in (".yaml", ".yml", ".json") or named != word or (path.is_file() and not image):
        return f"{word!r} is not an option: name a file as --config {named}"
    if (path / "config.yaml").is_file():
        return f"{word!r} is not an option: name a run as --config {path / 'config.yaml'}"
    if command == "predict":
        return f"{word!r} is not an option: name images as --data.init_args.predict {word}"
    if path.is_dir():
        key, source = {"validate": "val", "test": "test"}.get(command, "train"), _FOLDER % word
        source = source if key == "train" else f"{{photos: {source}}}"
        return f"{word!r} is not an option: name images as --data.init_args.{key} '{source}'"
    return f"{word!r} is not an option: name a file as --config {word}"


_FOLDER = "{class_path: datamodules.Folder, init_args: {root: %s}}"


def _meant(unknown: str, keys: list[str], typed: Sequence[str]) -> str:
    """Return the key that a word of other programs means as half a sentence, or an empty text."""
    group, _, word = unknown.replace("-", "_").rpartition(".")
    full = _MEANT.get(word.lower())
    if full == _OUTPUT and "predict" in typed:
        full = "writer.folder"
    first = str(full).partition(".")[0]
    fits = group in ("", "trainer", "train") or group.split(".")[0] == first
    if full is None or first not in {key.partition(".")[0] for key in keys} or not fits:
        return ""
    return f"; did you mean {full!r}?"


def _place_of(key: str, typed: Sequence[str]) -> str:
    """Return file and line of a key, or an empty text if it was typed."""
    parts = _bare(key.split("."))
    best, place = 1, ""
    for number, word in enumerate(typed):
        option, equals, value = word.partition("=")
        if not equals:
            option, value = typed[number - 1], word
        if not option.startswith("--"):
            continue
        above = [] if option == "--config" else option[2:].split(".")
        if _bare(word.lstrip("-").partition("=")[0].split(".")) == parts and word.startswith("-"):
            return ""
        if value.endswith((".yaml", ".yml", ".json")) and Path(value).is_file():
            for path, file, line in _keys_of(Path(value), ()):
                own = _bare([*above, *path])
                alike = len(own) if own == parts[-len(own) :] else 0
                if alike > best or (alike and alike == len(parts)):
                    best, place = alike, f"{file}, line {line}: "
    return place


def _short(key: str) -> str:
    # A key as it may be typed.
    return ".".join(_bare(key.split(".")))


def _bare(parts: Iterable[str]) -> list[str]:
    # A key without its optional parts.
    return [part for part in parts if part != "init_args"]


def _keys_of(file: Path, above: tuple[Path, ...]) -> Iterator[tuple[tuple[str, ...], Path, int]]:
    # All keys of a file and of the files that it names, with their places.
    import yaml

    try:
        root = yaml.compose(file.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except (OSError, ValueError, yaml.YAMLError):
        return
    nodes: list[tuple[tuple[str, ...], Any]] = [((), root)]
    while nodes:
        path, node = nodes.pop()
        if isinstance(node, yaml.SequenceNode):
            nodes += [(path, item) for item in node.value]
        elif isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                here = (*path, *str(key.value).split("."))
                yield here, file, key.start_mark.line + 1
                nodes.append((here, value))
        elif isinstance(node, yaml.ScalarNode) and node.value.endswith((".yaml", ".yml")):
            inner = file.parent / node.value
            if inner.is_file() and inner not in above:
                for below, place, line in _keys_of(inner, (*above, file)):
                    yield (*path, *below), place, line


def _experiment(word: str) -> str:
    # The file of an experiment given by its name; otherwise the word itself.
    file = EXPERIMENTS / f"{word.removesuffix('.yaml')}.yaml"
    return str(file) if file.is_file() else word


def _unknown_class(leaf: str, where: str, class_path: str | None, lines: list[str]) -> str | None:
    quoted = _quoted(leaf)
    if leaf.startswith("module '") and "' has no attribute '" in leaf:
        module, name = quoted[:2]
        near = hidden(module) or did_you_mean(name, _members(module))
        return f"{where}: {module} has no class {name!r}{near}"
    missing = _after(leaf, "No ")
    if missing is not None and " attribute " in missing:  # of a room's public names
        module, _, name = missing.partition(" attribute ")
        path = class_path or _given(lines) or name
        public = [f"{module}.{known}" for known in dir(import_own(module))]
        near = did_you_mean(f"{module}.{path.rpartition('.')[2]}", public)
        return f"{where}: {module} has no {name!r}{near}"
    if leaf.startswith("cannot import name '"):
        name, module = quoted[:2]
        return f"{where}: cannot import {name!r} from {module}{hidden(module)}"
    file = _after(leaf, "Unexpected import path format: ")
    if file is not None and file.endswith((".yaml", ".yml")):
        return (
            f"{where} names the file {file!r}, which cannot be read; a path in a configuration is "
            "relative to the file that holds it"
        )
    if leaf.startswith("No module named '"):
        return _no_module(quoted[0], leaf, where, class_path)
    word = _after(leaf, "Expected a dot import path string: ")
    if word is not None and os.path.exists(word):
        return (
            f"{where}: {word!r} is a path, not a class: give it as --{_short(where)}.root {word}, "
            f"or as '{_FOLDER % word}'"
        )
    if word is not None:
        return (
            f"{where}: {word!r} is not a class; name it as folder.file.Class, "
            f"{_class_named(word) or 'for example lightning_modules.Regression'}"
        )
    if leaf.startswith("Expected an instantiatable class, but ") and " is abstract" in leaf:
        named = leaf.removeprefix("Expected an instantiatable class, but ").split()[0]
        name = _given(lines) if named == "is" else named
        lacks = ", ".join(sorted(getattr(_import(name), "__abstractmethods__", ())))
        return (
            f"{where} needs a class, and {name} is abstract (it lacks {lacks}): name a subclass of "
            f"it as {where}.class_path, or an experiment with --config configs/experiment/NAME.yaml"
        )
    _, other, kind = leaf.partition("does not correspond to a subclass of ")
    if other:
        given, base = _given(lines), kind.split()[0]
        return f"{where} is {given}, which is not a subclass of {base}{hidden(class_path or given)}"
    return None


def _no_module(module: str, leaf: str, where: str, class_path: str | None) -> str:
    named = leaf.rpartition("Got value: ")[2]
    if named != leaf and named.replace(".", "").isidentifier():
        class_path = named
    outside = class_path is not None and not f"{class_path}.".startswith(f"{module}.")
    if class_path and outside and _import(class_path) is None:
        return (
            f"{where}: {class_path} cannot be imported, because its file imports {module!r}, which "
            f"is missing{hidden(module) or ': check the spelling, or install it'}"
        )
    if hides := hidden(module):
        return f"{where}: no module {module!r}{hides}"
    return (
        f"{where}: no module {module!r}; name a class as folder.file.Class, for example "
        "lightning_modules.Regression; your own are found in the working directory"
    )


def hidden(module: str) -> str:
    """Return which module is imported instead of the user's file of the same name.

    The working directory is searched last, so that a user's file never replaces a module that
    Enlarger needs.

    Args:
        module: The module, or the path of a class in it.

    Returns:
        Half a sentence that names both files, or an empty text.
    """
    first = module.partition(".")[0]
    folder = Path.cwd()
    own = next((p for p in (folder / f"{first}.py", folder / first) if p.exists()), None)
    if own is None or not first.isidentifier():
        return ""
    try:
        spec = importlib.util.find_spec(first)
    except (ImportError, ValueError):
        return ""
    places = list(spec.submodule_search_locations or ()) if spec else []
    origin = spec.origin if spec and spec.has_location else None
    if spec is None or own in map(Path, [*places, *([origin] if origin else [])]):
        return ""
    other = origin or (places[0] if places else "a module that is built into Python")
    return f": {other} is imported first and hides {own}; give {own.name} another name"


def _class_named(name: str) -> str:
    # Files are searched as text: a mistyped word imports nothing.
    known: dict[str, str] = {}
    for room in ("lightning_modules", "datamodules", "callbacks", "degradations"):
        for file in sorted((ROOT / room).rglob("*.py")):
            module = ".".join(file.relative_to(ROOT).with_suffix("").parts)
            classes = re.findall(r"^class ([A-Za-z]\w*)", file.read_text(encoding="utf-8"), re.M)
            for found in classes:
                public = f"{room}.{found}" in public_names(room)
                full = f"{room}.{found}" if public else f"{module}.{found}"
                known.setdefault(found.lower(), full)
    near = difflib.get_close_matches(name.rpartition(".")[2].lower(), known, n=1, cutoff=0.8)
    return f"here {known[near[0]]}" if near else ""


def _empty(leaf: str, where: str, lines: list[str]) -> str | None:
    # Messages of the library for values that are empty.
    if leaf.startswith("'NoneType' object has no attribute 'keys'"):
        return f"{where}.init_args is empty: set a key below it, or remove the line init_args:"
    if leaf.startswith("argument of type 'NoneType' is not iterable"):
        return f"{where}.class_path is empty: name a class as folder.file.Class"
    if leaf.startswith("Not a valid subclass of"):
        return _no_class(where, leaf.partition(". Got value: ")[2] or _given(lines))
    return None


def _no_class(where: str, given: str) -> str:
    return (
        f"{where} takes class_path and init_args, but is {given}: check the spelling and the "
        "indentation"
    )


def _no_file(leaf: str, where: str, keys: list[str]) -> str | None:
    if leaf.startswith("File does not exist: '"):
        file = _quoted(leaf)[0]
        path = Path(file)
        beside = {p.stem: p.name for p in path.parent.glob("*.y*ml")}
        near = difflib.get_close_matches(path.stem, beside, n=1)
        fix = f"; did you mean {beside[near[0]]!r}?" if near else ""
        if not near and (named := _experiment(path.name)) != path.name:
            fix = f"; did you mean {named}?"
        elif not near and (others := _experiments_like(path.stem)):
            fix = f"; similar files are {', '.join(others)}"
        return f"{where} is {file}, and there is no such file{fix}"
    if leaf.startswith("Unable to load config '"):
        below = ", ".join(key for key in keys if key.startswith(f"{where}."))
        keys_of = f" set its keys: {below}" if below else " set keys below it"
        return f"{where} is {_quoted(leaf)[0]!r}, and there is no such file;{keys_of}"
    return None


def _experiments_like(stem: str) -> list[str]:
    # As typed from the working directory.
    names = {file.stem: file for file in EXPERIMENTS.rglob("*.yaml")}
    near = [name for name in sorted(names) if name.startswith(f"{stem}_")][:3]
    near = near or difflib.get_close_matches(stem, names, n=3)
    return [os.path.relpath(names[name]) for name in near]


def _missing(leaf: str, where: str, class_path: str | None, typed: Sequence[str]) -> str | None:
    found = _after(leaf, "the following arguments are required: ")
    if found is None:
        return None
    found = found.partition(". Got value: ")[0]
    if where and not {word.partition("=")[0] for word in typed} & {"--config", "--model"}:
        found, where, class_path = "model", "", None  # not what the default data module lacks
    if where == "data.init_args.degradation":
        return f"{where} is filled in from the top-level key degradation: write it there"
    # The parser puts the subcommand before a key: fit.data
    names = [_without_command(name.strip()) for name in found.split(",")]
    full = ", ".join(f"{where}.init_args.{name}" if where else name for name in names)
    what = f" ({class_path} needs it)" if class_path else ""
    fix = "" if where else ": name an experiment with --config configs/experiment/NAME.yaml"
    if fix and found.startswith("export."):
        fix = f": name a run, export runs/NAME, or{fix.removeprefix(': name')}"
    elif {*names} <= {"model", "data"} and any(w.partition("=")[0] == "--config" for w in typed):
        files = " ".join(f"--{name} configs/{name}/NAME.yaml" for name in names)
        fix = f", which no --config sets: add {files}"
    return f"missing {full}{what}{fix}"


def _without_command(key: str) -> str:
    command, _, rest = key.partition(".")
    return rest if command in COMMANDS and rest else key


def _wrong_value(leaf: str, where: str, lines: list[str]) -> str | None:
    if not where or not leaf.startswith(("Expected a ", "Expected an ")):
        return None
    leaf = leaf.partition(". Got value: Namespace(")[0]
    if leaf.rstrip().endswith(". Got value:"):  # as of --KEY=$VARIABLE with an unset variable
        leaf = f"{leaf.rstrip()} empty"
    tried, _, value = leaf.partition(". Got value: ")
    if not value:
        # A type of several parts: one line for each part, then the value.
        start = next(n for n, s in enumerate(lines) if leaf in s)
        end = next((n for n, s in enumerate(lines) if n > start and s.startswith("Given")), start)
        parts = lines[start + 1 : end]
        others = [line for line in parts if line.startswith(("Expected a ", "Expected an "))]
        nothing = "empty" if "Given value:" in lines[end:] else "wrong"
        tried, value = "; ".join([tried, *others]), _given(lines[end:]) or nothing
    if (nested := _after(value, "NestedArg(key='")) is not None:
        key = nested.partition("'")[0]
        return f"unknown key '{where}.{key}': {where} has no keys; expected {_types(tried)}"
    value = value.partition(". Got value: Namespace(")[0]
    if value == "None":
        return f"{where} is null; expected {_types(tried)}: leave it out, or give a value"
    words = value.split(".")
    named = hidden(value) if len(words) > 1 and all(map(str.isidentifier, words)) else ""
    return f"{where} is {value}; expected {_types(tried)}{named}"


def _types(tried: str) -> str:
    # "Expected a <class 'int'>; Expected a typing.Literal['a', 'b']", without NoneType.
    names = []
    for part in tried.split("; "):
        name = part.removeprefix("Expected ").partition(" ")[2].removesuffix(".")
        if name.startswith(("import path ", "dot import path ")):
            name = "the path of a class"
        elif name.startswith("<class '"):
            before, after = name[len("<class '") :].split("'>", 1)
            name = f"{before}{after}"
        elif name.startswith("typing.Literal["):
            name = name.removeprefix("typing.Literal[").replace("]", "", 1)
        if name != "NoneType":
            names.append(name)
    return " or ".join(dict.fromkeys(names))


def _given(lines: list[str]) -> str:
    value = next((s.split(":", 1)[1].strip() for s in lines if s.startswith("Given value:")), "")
    nested = _after(value, "NestedArg(")
    return nested.partition("val=")[2].removesuffix(")").strip("'") if nested else value


def _import(class_path: str) -> object:
    module, _, name = class_path.rpartition(".")
    try:
        return getattr(import_own(module), name, None)
    except ImportError:
        return None


def _parameters(class_path: str) -> list[str]:
    found = _import(class_path)
    names: dict[str, None] = {}
    for constructor in _constructors(found):
        names |= dict.fromkeys(inspect.signature(constructor).parameters)
    return [name for name in names if name not in ("self", "args", "kwargs")]


def _constructors(found: object) -> Iterator[Callable[..., object]]:
    """Yield a function, or a class's constructor and those of parents that get its ``kwargs``."""
    if not inspect.isclass(found):
        yield from [found] if callable(found) else []
        return
    for part in found.__mro__:
        if "__init__" in vars(part) and part is not object:
            constructor = vars(part)["__init__"]
            yield constructor
            kinds = {p.kind for p in inspect.signature(constructor).parameters.values()}
            if inspect.Parameter.VAR_KEYWORD not in kinds:
                return


def _fields(class_path: str, name: str) -> list[str]:
    # Keys of an argument that may be a dataclass; none for other types.
    found = _import(class_path)
    hints: dict[str, Any] = {}
    for constructor in _constructors(found):
        try:
            hints = typing.get_type_hints(constructor) | hints
        except (NameError, TypeError):  # of a name that is there for type checkers alone
            continue
    hint = hints.get(name)
    kinds = (hint, *typing.get_args(hint))
    kind = next((kind for kind in kinds if dataclasses.is_dataclass(kind)), None)
    return [] if kind is None else [field.name for field in dataclasses.fields(kind)]


def _members(module: str) -> list[str]:
    # Classes of a file, or files of a folder.
    try:
        found = import_own(module)
    except ImportError:
        return []
    files = [info.name for info in pkgutil.iter_modules(getattr(found, "__path__", []))]
    return files + [name for name, value in vars(found).items() if inspect.isclass(value)]
