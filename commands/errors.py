"""Errors of configuration as one readable sentence: the key, the value, and the mend."""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import importlib.util
import inspect
import os
import pkgutil
import re
import typing
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from files.paths import IMAGE_EXTENSIONS

ROOT = Path(__file__).resolve().parents[1]
EXPERIMENTS = ROOT / "configs" / "experiment"
COMMANDS = [
    *("fit", "validate", "test", "predict"),
    *("check", "throughput", "encode", "export", "doctor"),
]
NO_FILE = '"<unicode string>"'  # in the place of a name, where YAML's library speaks of a file
_RATE = "model.init_args.optimizer.init_args"
# Keys by the words that other programs, and impatience, have for them.
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
_AT_TAB = "found character that cannot start any token"


class ConfigurationError(Exception):
    """Something in the configuration or on the command line is wrong; the message says so."""


class RepeatedError(Exception):
    """Another process has failed at the same thing, and says so for all of them.

    Args:
        status: Status to end with.
    """

    def __init__(self, status: int) -> None:
        super().__init__("the first process says why")
        self.status = status


class TemporaryError(Exception):
    """Another process or the network failed: the same command may succeed when started again.

    Args:
        message: What happened.
        status: Status to end with; that of the process which failed first, where it is known.
    """

    def __init__(self, message: str, status: int = 75) -> None:  # EX_TEMPFAIL
        super().__init__(message)
        self.status = status


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """The nearest of the choices as half a sentence, or nothing."""
    choices = list(choices)
    near = [choice for choice in choices if choice.startswith(f"{word}_")]  # its short name
    near = near or difflib.get_close_matches(word, choices, n=1)
    if not near:  # a long dotted key may differ in its last part only
        tail = word.rpartition(".")[2]
        tails = {choice.rpartition(".")[2]: choice for choice in choices}
        near = [tails[t] for t in difflib.get_close_matches(tail, tails, n=1)]
        near = near or [choice for t, choice in tails.items() if t.startswith(f"{tail}_")]
    return f"; did you mean {near[0]!r}?" if near else ""


def readable(message: str, keys: Iterable[str], typed: Sequence[str] = ()) -> str:
    """Turn a parser's message, which lists every type that it tried, into one sentence.

    Args:
        message: What the parser said.
        keys: All keys of the parser, for suggestions.
        typed: The command line, for the file in which an unknown key stands.
    """
    sentence = _sentence(message, list(keys), typed)
    if match := re.match(r"unknown key '([^']+)'", sentence):
        sentence = f"{_place_of(match[1], typed)}{sentence}"
    return sentence


def _sentence(message: str, keys: list[str], typed: Sequence[str]) -> str:
    lines = [line.strip().removeprefix("- ") for line in message.splitlines() if line.strip()]
    if message.startswith("Unexpected config:"):
        return _no_mapping(message.partition(":")[2], keys)
    path, class_path, leaf = _walk(lines)
    where = ".init_args.".join(path)
    if leaf.startswith("Problems parsing config"):
        return _with_tab(" ".join(lines))  # with the line and column of the mistake
    return (
        _broken_file(message, where)
        or _command(leaf)
        or _no_option(leaf, typed)
        or _unknown_option(leaf, where, class_path, keys, lines, typed)
        or _unknown_class(leaf, where, class_path, lines)
        or _empty(leaf, where, lines)
        or _no_file(leaf, where, keys)
        or _missing(leaf, where, class_path)
        or _wrong_value(leaf, where, lines)
        or " ".join([*([f"{where}:"] if where and where not in leaf else []), leaf])
    )


def _walk(lines: list[str]) -> tuple[list[str], str | None, str]:
    # The chain of keys down to the first innermost complaint.
    path: list[str] = []
    class_path = None
    for number, line in enumerate(lines):
        if match := re.match(
            r"Type \S*Callable.* expects a function or a callable class: (.+)", line
        ):
            line = match[1]
            # In the line itself or, where the type has several parts, in the value after all.
            if inner := re.search(r"class_path='([^']+)'", " ".join([line, *lines[number + 1 :]])):
                class_path = inner[1]
        if match := re.match(r'Parser key "([^"]+)":\s*(.*)', line):
            path.append(match[1])
            if match[2]:
                return path, class_path, match[2]
        elif match := re.match(r"Problem with given class_path '([^']+)':", line):
            class_path = match[1]
        elif not re.match(
            r"Does not validate|Subtypes:|Errors:|Given value|Expected a path but|"
            r"Expected a <class 'NoneType'>",
            line,
        ):
            return path, class_path, line
    return path, class_path, " ".join(lines)


def _broken_file(message: str, where: str) -> str | None:
    # A file that another one or an option names in the place of a group.
    found = re.search(
        r"(?:Invalid content in sub-config file (\S+): |Unable to load config '([^']+)'\s+- )"
        rf"(.+{NO_FILE}, line \d+, column \d+)",
        message,
        re.DOTALL,
    )
    if found is None:
        return None
    why = " ".join(found[3].replace(f"in {NO_FILE}, ", "").split())
    return _with_tab(f"{where} names the file {found[1] or found[2]!r}, which is no YAML: {why}")


def _with_tab(sentence: str) -> str:
    tab = " (a tab? YAML is indented by spaces)" if _AT_TAB in sentence else ""
    return f"{sentence}{tab}"


def _no_mapping(content: str, keys: list[str]) -> str:
    import yaml  # here, because `doctor` judges it, and needs this file

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
    return f"a configuration file holds no keys with values, but {content.strip()[:60]!r}"


def _command(leaf: str) -> str | None:
    if match := re.match(r"argument subcommand: invalid choice: '([^']+)'", leaf):
        near = did_you_mean(match[1], COMMANDS)
        return f"unknown command {match[1]!r}{near}; there are {', '.join(COMMANDS)}"
    if leaf.startswith('expected "subcommand" to be one of'):
        return f"name a command first: {', '.join(COMMANDS)} (--help explains them)"
    return None


def _unknown_option(
    leaf: str,
    where: str,
    class_path: str | None,
    keys: list[str],
    lines: list[str],
    typed: Sequence[str],
) -> str | None:
    match = (
        re.match(r"Option '([^']+)' is not accepted", leaf)
        or re.search(r"(?:Group '(?P<group>[^']+)' )?does not accept option '([^']+)'", leaf)
        or re.match(r"unrecognized arguments: --?([^\s=]+)", leaf)
        or re.match(r"No action for key \"?([^\s\"]+)", leaf)
    )
    if match is None:
        return None
    unknown, group = match[match.re.groups], match.groupdict().get("group")
    if class_path is None:
        if unknown in keys:
            return f"{unknown!r} is no key of this command, only of another one"
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
    for below in names[1:]:  # into arguments that are dataclasses, which have keys of their own
        inner = _fields(of, name)
        if not inner:
            break
        full = f"{full}.{name}".removeprefix(".")
        of, name, choices = full, below, inner
    full = f"{full}.{name}".removeprefix(".")
    if name in choices:  # the class is called with it, as a network with the scale
        return (
            f"unknown key {full!r}: the first argument of {of}, {name!r}, is filled in; of a "
            "network it is the scale, which is data.init_args.scale"
        )
    listed = f"; it takes: {', '.join(choices)}" if choices else ""
    if where == "model" and "optimizer" in choices and (meant := _meant(full, keys, typed)):
        return f"unknown key {full!r}: {of} has no argument {name!r}{meant}"
    return (
        f"unknown key {full!r}: {of} has no argument {name!r}"
        f"{did_you_mean(name, choices) or listed}"
    )


def _no_option(leaf: str, typed: Sequence[str]) -> str | None:
    match = re.match(r"unrecognized arguments: ((?!-).+)", leaf)
    if match is None:
        return None
    words = [word for word in typed if match[1] == word or match[1].startswith(f"{word} ")]
    word = max(words, key=len, default=match[1].split()[0])
    command = next((word for word in typed if word in COMMANDS), "")
    path, several = Path(word), match[1] != word
    picture = path.suffix.lower() in IMAGE_EXTENSIONS
    given = any(re.match(r"--data\.(init_args\.)?predict(=|$)", word) for word in typed)
    if picture and (several or given or command != "predict"):  # the shell has replaced a pattern
        return f"{word!r} is no option: put a pattern in quotation marks, 'photos/*.jpg'"
    named = _experiment(word)
    if (
        path.suffix in (".yaml", ".yml", ".json")
        or named != word
        or (path.is_file() and not picture)
    ):
        return f"{word!r} is no option: a file is named as --config {named}"
    if (path / "config.yaml").is_file():
        return f"{word!r} is no option: a run is named as --config {path / 'config.yaml'}"
    if command == "predict":
        return f"{word!r} is no option: images are named as --data.init_args.predict {word}"
    if path.is_dir():
        key, source = {"validate": "val", "test": "test"}.get(command, "train"), _FOLDER % word
        source = source if key == "train" else f"{{photos: {source}}}"
        return f"{word!r} is no option: images are named as --data.init_args.{key} '{source}'"
    return f"{word!r} is no option: a file is named as --config {word}"


_FOLDER = "{class_path: datamodules.folder.Folder, init_args: {root: %s}}"


def _meant(unknown: str, keys: list[str], typed: Sequence[str]) -> str:
    """The key that a word of other programs means, as half a sentence, or nothing."""
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
    """The file and the line in which a key stands, or nothing where it was typed."""
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


def _bare(parts: Iterable[str]) -> list[str]:
    # A key without what may be left out of it.
    return [part for part in parts if part != "init_args"]


def _keys_of(file: Path, above: tuple[Path, ...]) -> Iterator[tuple[tuple[str, ...], Path, int]]:
    # All keys of a file and of those that it names, with their places.
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
    # The file of an experiment that was given by its name alone; or else what was given.
    file = EXPERIMENTS / f"{word.removesuffix('.yaml')}.yaml"
    return str(file) if file.is_file() else word


def _unknown_class(leaf: str, where: str, class_path: str | None, lines: list[str]) -> str | None:
    if match := re.match(r"module '([^']+)' has no attribute '([^']+)'", leaf):
        module, name = match.groups()
        near = hidden(module) or did_you_mean(name, _members(module))
        return f"{where}: there is no {name!r} in {module}{near}"
    if match := re.match(r"cannot import name '([^']+)' from '([^']+)'", leaf):
        name, module = match.groups()
        return f"{where}: cannot import {name!r} from {module}{hidden(module)}"
    if match := re.match(r"Unexpected import path format: (.+\.ya?ml)$", leaf):
        return (
            f"{where} names the file {match[1]!r}, which cannot be read; a path in a configuration "
            "is relative to the file that it stands in"
        )
    if match := re.match(r"No module named '([^']+)'", leaf):
        named = re.search(r"Got value: ([\w.]+)$", leaf)
        class_path = named[1] if named else class_path
        within = class_path is not None and not f"{class_path}.".startswith(f"{match[1]}.")
        if class_path and within and _import(class_path) is None:
            return (
                f"{where}: {class_path} cannot be imported, because its file imports "
                f"{match[1]!r}, which is not there"
                f"{hidden(match[1]) or ': check the spelling, or install it'}"
            )
        if hides := hidden(match[1]):
            return f"{where}: there is no module {match[1]!r}{hides}"
        return (
            f"{where}: there is no module {match[1]!r}; a class is named as folder.file.Class, for "
            "example lightning_modules.regression.Regression, and your own are found in the "
            "working directory"
        )
    if match := re.match(r"Expected a dot import path string: (.+)", leaf):
        return (
            f"{where}: {match[1]!r} is no class; name it as folder.file.Class, "
            f"{_class_named(match[1]) or 'for example lightning_modules.regression.Regression'}"
        )
    if match := re.match(r"Expected an instantiatable class, but (?:(\S+) )?is abstract", leaf):
        name = match[1] or _given(lines)
        lacks = ", ".join(sorted(getattr(_import(name), "__abstractmethods__", ())))
        return (
            f"{where} needs a class, and {name} is abstract (it lacks {lacks}): name a subclass of "
            f"it as {where}.class_path, or an experiment with --config configs/experiment/NAME.yaml"
        )
    if match := re.search(r"does not correspond to a subclass of (\S+)", leaf):
        given = class_path or _given(lines)
        return f"{where} is {_given(lines)}, which is no {match[1]}{hidden(given)}"
    return None


def hidden(module: str) -> str:
    """Say which module is imported instead of the user's file of the same name, if one is.

    The working directory comes last in the search for modules, so that it can never replace a
    module that Enlarger needs.

    Args:
        module: The module, or the path of a class in it.

    Returns:
        Half a sentence that names both files, or nothing.
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
    # By its text alone: nothing is imported for a word that was mistyped.
    known: dict[str, str] = {}
    for room in ("lightning_modules", "datamodules", "callbacks", "degradations"):
        for file in sorted((ROOT / room).rglob("*.py")):
            module = ".".join(file.relative_to(ROOT).with_suffix("").parts)
            classes = re.findall(r"^class ([A-Za-z]\w*)", file.read_text(encoding="utf-8"), re.M)
            for found in classes:
                known.setdefault(found.lower(), f"{module}.{found}")
    near = difflib.get_close_matches(name.rpartition(".")[2].lower(), known, n=1, cutoff=0.8)
    return f"here {known[near[0]]}" if near else ""


def _empty(leaf: str, where: str, lines: list[str]) -> str | None:
    # What the library says where it finds nothing, and does not look for that.
    if leaf.startswith("'NoneType' object has no attribute 'keys'"):
        return f"{where}.init_args is empty: set a key below it, or leave the line init_args: out"
    if leaf.startswith("argument of type 'NoneType' is not iterable"):
        return f"{where}.class_path is empty: name a class as folder.file.Class"
    if leaf.startswith("Not a valid subclass of"):
        return _no_class(where, leaf.partition(". Got value: ")[2] or _given(lines))
    return None


def _no_class(where: str, given: str) -> str:
    return (
        f"{where} takes class_path and init_args, but is {given}: check the spelling, and that "
        "each line is indented as deep as it should be"
    )


def _no_file(leaf: str, where: str, keys: list[str]) -> str | None:
    if match := re.match(r"File does not exist: '([^']+)'", leaf):
        path = Path(match[1])
        beside = {p.stem: p.name for p in path.parent.glob("*.y*ml")}
        near = difflib.get_close_matches(path.stem, beside, n=1)
        mend = f"; did you mean {beside[near[0]]!r}?" if near else ""
        if not near and (named := _experiment(path.name)) != path.name:
            mend = f"; did you mean {named}?"
        elif not near and (others := _experiments_like(path.stem)):
            mend = f"; there are {', '.join(others)}"
        return f"{where} is {match[1]}, and there is no such file{mend}"
    if match := re.match(r"Unable to load config '([^']+)'", leaf):
        below = ", ".join(key for key in keys if key.startswith(f"{where}."))
        return f"{where} is {match[1]!r}, and there is no such file; set its keys: {below}"
    return None


def _experiments_like(stem: str) -> list[str]:
    # As typed from the working directory, where that is possible.
    names = {file.stem: file for file in EXPERIMENTS.rglob("*.yaml")}
    near = [name for name in sorted(names) if name.startswith(f"{stem}_")][:3]
    near = near or difflib.get_close_matches(stem, names, n=3)
    return [os.path.relpath(names[name]) for name in near]


def _missing(leaf: str, where: str, class_path: str | None) -> str | None:
    match = re.match(r"the following arguments are required: (.+?)(\. Got value: .*)?$", leaf)
    if match is None:
        return None
    if where == "data.init_args.degradation":
        return f"{where} is filled in from the top-level key degradation: write it there"
    names = [name.strip() for name in match[1].split(",")]
    # The parser puts the subcommand before a key: fit.data
    names = [re.sub(rf"^({'|'.join(COMMANDS)})\.", "", name) for name in names]
    full = ", ".join(f"{where}.init_args.{name}" if where else name for name in names)
    what = f" ({class_path} needs it)" if class_path else ""
    mend = "" if where else ": name an experiment with --config configs/experiment/NAME.yaml"
    if mend and match[1].startswith("export."):
        mend = f": name a run, export runs/NAME, or{mend.removeprefix(': name')}"
    return f"missing {full}{what}{mend}"


def _wrong_value(leaf: str, where: str, lines: list[str]) -> str | None:
    if not where or not re.match(r"Expected an? ", leaf):
        return None
    leaf = leaf.partition(". Got value: Namespace(")[0]
    if leaf.rstrip().endswith(". Got value:"):  # as of --KEY=$VARIABLE, where that is not set
        leaf = f"{leaf.rstrip()} empty"
    tried, _, value = leaf.partition(". Got value: ")
    if not value:
        # A type of several parts: the parser tells of each that it did not fit, then of the value.
        start = next(n for n, s in enumerate(lines) if leaf in s)
        end = next((n for n, s in enumerate(lines) if n > start and s.startswith("Given")), start)
        others = [line for line in lines[start + 1 : end] if re.match(r"Expected an? ", line)]
        nothing = "empty" if "Given value:" in lines[end:] else "wrong"
        tried, value = "; ".join([tried, *others]), _given(lines[end:]) or nothing
    if nested := re.fullmatch(r"NestedArg\(key='([^']*)', .*\)", value):
        return f"unknown key '{where}.{nested[1]}': {where} has no keys; expected {_types(tried)}"
    value = value.partition(". Got value: Namespace(")[0]
    if value == "None":
        return f"{where} is null; expected {_types(tried)}: leave it out, or give a value"
    named = hidden(value) if re.fullmatch(r"\w+(\.\w+)+", value) else ""
    return f"{where} is {value}; expected {_types(tried)}{named}"


def _types(tried: str) -> str:
    # Without NoneType and the type's syntax: "Expected a <class 'int'>; Expected a <class 'str'>".
    names = []
    for part in tried.split("; "):
        name = re.sub(r"^Expected an? ", "", part).removesuffix(".")
        name = re.sub(r"<class '([^']+)'>", r"\1", name)
        name = re.sub(r"^(dot )?import path (string:|or ).*", "the path of a class", name)
        name = re.sub(r"typing\.Literal\[(.+)\]", r"\1", name)
        if name != "NoneType":
            names.append(name)
    return " or ".join(dict.fromkeys(names))


def _given(lines: list[str]) -> str:
    value = next((s.split(":", 1)[1].strip() for s in lines if s.startswith("Given value:")), "")
    nested = re.fullmatch(r"NestedArg\(key='[^']*', val='?(.*?)'?\)", value)
    return nested[1] if nested else value


def _import(class_path: str) -> object:
    module, _, name = class_path.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name, None)
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
    # Keys of an argument that is a dataclass, or may be one; none of any other.
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
        found = importlib.import_module(module)
    except ImportError:
        return []
    files = [info.name for info in pkgutil.iter_modules(getattr(found, "__path__", []))]
    return files + [name for name, value in vars(found).items() if inspect.isclass(value)]
