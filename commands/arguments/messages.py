"""What the parser's messages say, as one sentence: the key, the value, and the fix.

A message of the library lists every type that it has tried. It is walked once, to the key, the
class, and the innermost message. An unknown key, a missing one, a wrong value and a class that is
not there have a sentence of ours; of all else, the key and the innermost message are printed.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Sequence
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple

from commands.errors import EXPERIMENTS, did_you_mean, hidden
from commands.options import ROOMS, public_names

# Keys, by their names in other programs.
_NAMES = {
    "model.init_args.optimizer.init_args.lr": "lr learning_rate rate",
    "model.init_args.optimizer.init_args.weight_decay": "weight_decay wd",
    "model.init_args.optimizer": "optimizer optim optimiser",
    "model.init_args.lr_scheduler": "scheduler lr_scheduler schedule",
    "model.init_args.weights": "weights pretrained model_path",
    "model.init_args.network": "network arch",
    "data.init_args.batch_size": "batch_size bs batch",
    "data.init_args.workers": "workers num_workers n_threads",
    "data.init_args.crop_size": "crop_size patch_size gt_size crop",
    "data.init_args.scale": "scale upscale outscale s",
    "data.init_args.predict": "input i images in predict",
    "trainer.max_steps": "steps max_steps iters iterations total_iter max_iter",
    "trainer.max_epochs": "epochs max_epochs num_epochs n_epochs",
    "trainer.devices": "gpus gpu devices gpu_id num_gpus",
    "trainer.accelerator": "device accelerator cuda cpu",
    "trainer.num_nodes": "nodes num_nodes",
    "trainer.precision": "precision amp fp16 bf16 half",
    "seed_everything": "seed manual_seed",
    "run.name": "name experiment exp",
    "run.root": "output out o output_dir save_dir dir directory folder work_dir log_dir",
    "tiling.size": "tile tile_size",
    "ckpt_path": "resume checkpoint_path ckpt",
}
MEANT = {word: key for key, words in _NAMES.items() for word in words.split()}

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
_EMPTY = {  # messages about what is null
    "'NoneType' object has no attribute 'keys'": ".init_args is empty: set a key below it, or "
    "remove the line init_args:",
    "argument of type 'NoneType' is not iterable": ".class_path is empty: name a class as "
    "folder.file.Class",
}


class _Found(NamedTuple):
    """The innermost message, and where it is."""

    where: str  # the full key
    class_path: str
    message: str
    given: str  # the value, where the message does not name it


def readable(message: str, keys: Iterable[str], typed: Sequence[str] = ()) -> str:
    """Turn a parser's message, which lists every type that it tried, into one sentence.

    Args:
        message: The message of the parser.
        keys: All keys of the parser, for suggestions.
        typed: The command line.
    """
    if message.startswith("Unexpected config:"):
        content = message.partition(":")[2].strip()
        return f"a configuration file must hold keys with values, but holds {content[:60]!r}"
    found = _walk(message)
    if not found.where:
        return unknown_key(found.message, keys, typed) or _top_level(found, typed)
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


def unknown_key(message: str, keys: Iterable[str], typed: Sequence[str] = ()) -> str:
    """Return the sentence about an unknown key of a parser; empty for another message.

    Args:
        message: The message of the parser.
        keys: Its keys.
        typed: The command line, for the parser of a whole command.
    """
    match = _UNKNOWN.search(message)
    if match is None:
        return ""
    unknown = next(filter(None, match.groups()[1:]))
    unknown = f"{match['group']}.{unknown}" if match["group"] else unknown
    keys = [key for key in keys if not key.startswith("print_")]
    unknown = _outermost(unknown, keys)
    alike = [key for key in keys if key.count(".") == unknown.count(".")]
    near = meant(unknown, typed) if typed else ""
    near = near or did_you_mean(unknown, alike) or did_you_mean(unknown, keys)
    listed = f"; it takes {', '.join(alike)}" if 0 < len(alike) <= MOST_LISTED else ""
    return f"{UNKNOWN}{unknown!r}{near or listed}"


def _outermost(unknown: str, keys: Sequence[str]) -> str:
    # Of an unknown group with keys below it, the group.
    parts = unknown.split(".")
    groups = (".".join(parts[:count]) for count in range(1, len(parts)))
    return next((g for g in groups if not any(f"{k}.".startswith(f"{g}.") for k in keys)), unknown)


def meant(unknown: str, typed: Sequence[str]) -> str:
    """Return the key that a word of other programs means as half a sentence, or an empty text.

    Args:
        unknown: The unknown key.
        typed: The command line.
    """
    group, _, word = unknown.replace("-", "_").rpartition(".")
    full = MEANT.get(word.lower(), "")
    if full == "run.root" and "predict" in typed:
        full = "writer.folder"
    fits = group in ("", "trainer", "train") or group.split(".")[0] == full.split(".")[0]
    return f"; did you mean {full!r}?" if full and fits else ""


def unknown_argument(where: str, sentence: str) -> str:
    """Return the sentence about an unknown key of a class, with full keys.

    Args:
        where: The key of the class.
        sentence: As of ``unknown_key``, from the arguments of the class.
    """
    name = sentence.split("'")[1]
    if where == "model" and MEANT.get(name, "").startswith("model."):
        return f"{UNKNOWN}'model.init_args.{name}'{meant(f'model.{name}', ())}"
    return re.sub(r"(key |mean )'([^']+)'", rf"\1'{where}.init_args.\2'", sentence)


def _unknown(found: _Found) -> str:
    if not found.message.startswith(UNKNOWN):
        return ""
    name = found.message.split("'")[1]
    if did_you_mean(name, ("class_path", "init_args")):
        return f"{found.where} takes class_path and init_args, but is {found.given}"
    if found.class_path.rpartition(".")[2] in ("Optimizer", "LRScheduler"):
        return (
            f"{found.where} has no class in this configuration: name it before {name!r}, as "
            f"--{found.where} torch.optim.Adam"
        )
    if name == "scale":  # the caller gives it, as to a network
        return f"{UNKNOWN}'{found.where}.init_args.scale': it follows from data.init_args.scale"
    return unknown_argument(found.where, found.message)


# ------------------------------------------------------------------------------ missing, and words


def _top_level(found: _Found, typed: Sequence[str]) -> str:
    missing = re.match("the following arguments are required: (.*)", found.message)
    if missing:
        return missing_keys([key.partition(".")[2] for key in missing[1].split(", ")])
    word = found.message.removeprefix("unrecognized arguments: ")
    if word == found.message:
        return word + (" (a tab? YAML is indented by spaces)" if "any token" in word else "")
    word = max((each for each in typed if word.startswith(each)), key=len, default=word)
    path, experiment = Path(word), EXPERIMENTS / f"{word.removesuffix('.yaml')}.yaml"
    if experiment.is_file() or path.suffix == ".yaml" or (path / "config.yaml").is_file():
        place = experiment if experiment.is_file() else path
        place = place / "config.yaml" if place.is_dir() else place
        return f"{word!r} is not an option: name a file as --config {place}"
    return (
        f"{word!r} is not an option: write its key before it, as --data.predict {word}, and put a "
        "pattern in quotation marks, as 'photos/*.jpg'"
    )


def missing_keys(keys: Sequence[str]) -> str:
    """Return the sentence about keys of a command that nothing sets."""
    files = " ".join(f"--{key} configs/{key}/NAME.yaml" for key in keys)
    return (
        f"missing {', '.join(keys)}: name an experiment with --config "
        f"configs/experiment/NAME.yaml, or add {files}"
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
    named = hidden(value) if re.fullmatch(r"(\w+\.)+\w+", value) else ""
    fix = ": leave it out, or give a value" if value == "null" else named
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
    if message in _EMPTY:
        return where + _EMPTY[message]
    if message.startswith("Not a valid subclass of"):
        return f"{where} takes class_path and init_args, but is {found.given}"
    word = message.removeprefix("Expected a dot import path string: ")
    if word != message:
        if os.path.exists(word):
            return f"{where}: {word!r} is a path, not a class: give it as --{where}.root {word}"
        names = {name.rpartition(".")[2]: name for room in ROOMS for name in public_names(room)}
        near = did_you_mean(names.get(word, word), names.values())
        return f"{where}: {word!r} is not a class, named as folder.file.Class{near}"
    if message.startswith("Unexpected import path format: ") and message.endswith(".yaml"):
        return f"{where} names {found.given!r}, which is no file beside the file that names it"
    name = (found.class_path or found.given).rpartition(".")[2]
    lacking = re.match(r"(?:module '(?P<file>.+)' has no|No (?P<room>\w+)) attribute", message)
    if lacking and lacking["room"]:
        near = did_you_mean(f"{lacking['room']}.{name}", public_names(lacking["room"]))
        return f"{where}: {message}{hidden(lacking['room']) or near}"
    if lacking:
        near = did_you_mean(message.split("'")[3], dir(sys.modules.get(lacking["file"])))
        return f"{where}: {message}{hidden(lacking['file']) or near}"
    named = re.match(r"(?:No module named|cannot import name '\w+' from) '([\w.]+)'", message)
    if named:
        return f"{where} is {found.class_path or found.given}: {message}{hidden(named[1])}"
    if "is abstract" in message or "does not correspond to a subclass" in message:
        return f"{where} is {found.given}: {message}{hidden(found.given)}"
    return ""
