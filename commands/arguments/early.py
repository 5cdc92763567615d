"""Misspelt commands, options, classes and files, answered before torch is imported.

The arguments of classes are left to the parser, as are the keys of files.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from commands.errors import EXPERIMENTS, ConfigurationError, did_you_mean, unknown_key
from commands.names import ABOUT
from commands.options import ROOMS, SOURCES, options, public_names
from files.paths import CONFIGURATIONS

# First parts of the commands' options.
TOP = (
    "config",
    "print_config",
    "help",
    "debug",
    "seed_everything",
    "ckpt_path",
    "model",
    "data",
    "degradation",
    "trainer",
    "run",
    "tiling",
    "checkpoint",
    "writer",
    "encode",
    "export",
)
# A file that is the value of one key: a class, or a list of callbacks.
_PART = re.compile(r"(?:[ \t]*(?:#.*)?\n)*(?:- )?(?:\{?class_path: *)?(\w+)\.\w+")
_TAKES = {
    "lightning_modules": "model",
    "datamodules": "data",
    "degradations": "degradation",
    "callbacks": "trainer.callbacks",
}
_SPECIAL = {*"$~*?[]{},:\n"}  # characters of patterns, lists and addresses


def refuse_typos(args: Sequence[str]) -> None:
    """Raise for a misspelt command, key, class or file.

    Args:
        args: Arguments as typed after ``main.py``.

    Raises:
        ConfigurationError: With the sentence that the parser's error would become.
    """
    args = [word for word in args if word != "--debug"]
    if not args or args[0].startswith("-"):
        raise ConfigurationError(f"name a command first: {', '.join(ABOUT)} (--help explains them)")
    if args[0] not in ABOUT:
        near = did_you_mean(args[0], ABOUT) or f"; the commands are {', '.join(ABOUT)}"
        raise ConfigurationError(f"unknown command {args[0]!r}{near}")
    for word, following in pairwise([*args, ""]):
        option, equals, value = word.partition("=")
        if not option.startswith("--"):
            continue
        key = option.removeprefix("--")
        if not equals:
            value = following
        if key == "config":
            _refuse_file(value)
        key = key.rstrip("+")
        if key in ("dry-run", "dry_run"):
            raise ConfigurationError(f"unknown key {key!r}; main.py check tries the first step")
        _refuse_key(key)
        _refuse_class(key, value)


def _refuse_key(key: str) -> None:
    group, _, rest = key.partition(".")
    if group not in TOP:
        near = difflib.get_close_matches(group, TOP, n=1, cutoff=0.75)
        if near and rest:
            meant = f"{near[0]}.{rest}"
            raise ConfigurationError(f"unknown key {key!r}; did you mean {meant!r}?")
        groups = [source for source in SOURCES if source not in ABOUT]  # of all commands
        below = [f"{source}.{option}" for source in groups for option in options(source)]
        raise ConfigurationError(unknown_key(group, [*TOP, *below]))
    if rest and group in SOURCES and group != "data":  # whose class may be another one
        name = rest.partition(".")[0]
        keys = [f"{group}.{option}" for option in options(group)]
        if keys and f"{group}.{name}" not in keys and name != "help":
            raise ConfigurationError(unknown_key(f"{group}.{name}", keys))


def _refuse_file(value: str) -> None:
    if _SPECIAL & {*value} or not value:
        return
    path = Path(value)
    if not path.exists():
        files = {file.stem: file for file in EXPERIMENTS.rglob("*.yaml")}
        files |= {file.stem: file for file in path.parent.glob("*.y*ml")}
        names = [stem for stem in sorted(files) if f"{stem}_".startswith(f"{path.stem}_")]
        names = names or difflib.get_close_matches(path.stem, files, n=1)
        near = " or ".join(os.path.relpath(files[name]) for name in names[:3])
        meant = f"; did you mean {near}?" if near else ""
        raise ConfigurationError(f"config is {value}, and there is no such file{meant}")
    if not value.endswith(CONFIGURATIONS) or not path.is_file():
        return
    part = _PART.match(path.read_text(encoding="utf-8", errors="replace"))
    if part and part[1] in _TAKES:
        raise ConfigurationError(
            f"{value} is the value of a key, so give it by that key, such as --{_TAKES[part[1]]} "
            f"{value}"
        )


def _refuse_class(key: str, value: str) -> None:
    # One of a room's public names, which its stub lists; other classes are left to the parser.
    room, _, name = value.partition(".")
    if room in ROOMS and re.fullmatch(r"[A-Z]\w*", name) and value not in public_names(room):
        near = did_you_mean(value, public_names(room))
        raise ConfigurationError(f"{key}: {room} has no {name!r}{near}")
