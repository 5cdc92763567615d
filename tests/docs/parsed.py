"""Parse commands of the pages without running them: their options with their values, and no more.

Each in a process of its own, which has imported torch and Lightning already: that takes longer than
all the rest.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import multiprocessing
import os
import re
import runpy
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import yaml

import main
from commands.arguments import early
from commands.names import TOOLS
from tests.docs.stand_in import asks

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(
    [
        *("commands.cli", "callbacks.metrics.pixels", "torch.distributed.run"),
        *("benchmarks.photographs.page", "benchmarks.speed.invsr"),  # each a second
    ]
)
NOT_PRINTED = {"config", "debug", "help", "print_config"}  # options of `main.py` that are no keys
FOR_THE_READER = re.compile(r"|[a-z]|[\w/]*[A-Z]{2,}(\.\w+)?")  # values: NAME, MODEL.yaml, n


def parsed(
    words: Sequence[str], folder: Path, environment: Mapping[str, str], option: str = ""
) -> str:
    """`ok`, or what is wrong with a command.

    Args:
        words: Of the command: `main.py ...` or `-m MODULE ...`, also after `torchrun ...`.
        folder: Where it is typed.
        environment: What is set there.
        option: Options to add, as a page has them: `--run.name NAME --run.overwrite true`.
    """
    receives, sends = PROCESSES.Pipe(duplex=False)
    given = (sends, list(words), option, str(folder), dict(environment))
    process = PROCESSES.Process(target=_child, args=given)
    process.start()
    sends.close()
    try:
        return str(receives.recv())
    except EOFError:
        return "its process ended without a word"
    finally:
        process.join()


def accept_missing(patch: Callable[[object, str, object], None] = setattr) -> None:
    """Let commands of `main.py` name files and runs that do not exist.

    Args:
        patch: Replaces an attribute; by default for the rest of the process.
    """
    patch(early, "_refuse_missing", lambda key, path: None)
    patch(early, "refuse_missing_run", lambda words: None)


def _child(
    sends: Connection, words: list[str], option: str, folder: str, environment: dict[str, str]
) -> None:
    os.chdir(folder)
    os.environ.update(environment)
    accept_missing()  # the reader has the files
    printed, said = io.StringIO(), io.StringIO()
    failed: object = None
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(said):
        try:
            _parse(words, *split(option), printed)
        except SystemExit as end:
            failed = end.code
        except Exception as error:
            failed = repr(error)
    last = (said.getvalue().strip().splitlines() or ["it said nothing"])[-1]
    sends.send("ok" if not failed else failed if isinstance(failed, str) else last)


def split(option: str) -> tuple[list[str], list[str]]:
    """Words of options with their values; and names of those whose value is the reader's.

    Args:
        option: As a page has it.
    """
    words: list[str] = []
    names = []
    for part in re.split(r" (?=--\w)", option) if option else []:
        name, _, value = part.partition(" ")
        if "=" in name:
            words += shlex.split(part)
        elif FOR_THE_READER.fullmatch(value):
            names.append(name.removeprefix("--").rstrip(".+").removesuffix(".help"))
        else:
            words += [name, *shlex.split(value)]
    return words, names


def _parse(words: list[str], added: list[str], names: list[str], printed: io.StringIO) -> None:
    if words[0] == "torchrun":
        from torch.distributed.run import get_args_parser

        start = words.index("main.py")
        get_args_parser().parse_args(words[1 : start + 1])
        words = words[start:]
    if words[0] == "-m":
        _only_parse(names)
        sys.argv = [words[1], *words[2:], *added]
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    if words[1] in TOOLS:
        _only_parse(names)
    if words[1] in TOOLS or asks(words):
        main.main([*words[1:], *added])
        return
    try:
        main.main([*words[1:], *added, "--print_config"])
    except SystemExit as end:
        if end.code:
            raise
    config = yaml.safe_load(printed.getvalue())
    if missing := [n for n in names if n not in NOT_PRINTED and not _holds(config, n)]:
        raise SystemExit(f"there is no {', '.join(missing)}")


def _only_parse(names: Sequence[str]) -> None:
    """Let argparse end the program where all is well, as it does where something is not."""
    parse, check = argparse.ArgumentParser.parse_known_args, argparse.ArgumentParser._check_value

    def parse_known_args(self: argparse.ArgumentParser, *args: Any, **kwargs: Any) -> Any:
        options, unknown = parse(self, *args, **kwargs)
        if unknown:
            return options, unknown  # the program refuses them in its own words
        missing = [n for n in names if not re.search(rf"--{n}\b", self.format_help())]
        raise SystemExit(f"there is no {', '.join(missing)}" if missing else 0)

    def check_value(self: argparse.ArgumentParser, action: Any, value: Any) -> None:
        if not FOR_THE_READER.fullmatch(str(value)):
            check(self, action, value)

    argparse.ArgumentParser.parse_known_args = parse_known_args  # type: ignore[method-assign]
    argparse.ArgumentParser._check_value = check_value  # type: ignore[method-assign]


def _holds(config: Any, key: str) -> bool:
    try:
        reduce(_of, key.split("."), config)
    except (KeyError, TypeError):
        return False
    return True


def _of(part: Any, name: str) -> Any:
    # On a command line, an argument of a class may be named without `init_args` before it.
    return part[name] if name in part or "init_args" not in part else part["init_args"][name]
