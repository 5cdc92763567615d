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
import runpy
import sys
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import main
from commands.names import TOOLS
from tests.docs.stand_in import asks

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(
    [
        *("commands.cli", "callbacks.metrics.pixels", "torch.distributed.run"),
        *("benchmarks.photographs.page", "benchmarks.speed.invsr"),  # each a second
    ]
)


def parsed(words: Sequence[str], folder: Path, environment: Mapping[str, str]) -> str:
    """`ok`, or what is wrong with a command.

    Args:
        words: Of the command: `main.py ...` or `-m MODULE ...`, also after `torchrun ...`.
        folder: Where it is typed.
        environment: What is set there.
    """
    receives, sends = PROCESSES.Pipe(duplex=False)
    arguments = (sends, list(words), str(folder), dict(environment))
    process = PROCESSES.Process(target=_child, args=arguments)
    process.start()
    sends.close()
    try:
        return str(receives.recv())
    except EOFError:
        return "its process ended without a word"
    finally:
        process.join()


def _child(sends: Connection, words: list[str], folder: str, environment: dict[str, str]) -> None:
    os.chdir(folder)
    os.environ.update(environment)
    said = io.StringIO()
    failed: object = None
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(said):
        try:
            _parse(words)
        except SystemExit as end:
            failed = end.code
        except Exception as error:
            failed = repr(error)
    last = (said.getvalue().strip().splitlines() or ["it said nothing"])[-1]
    sends.send("ok" if not failed else failed if isinstance(failed, str) else last)


def _parse(words: list[str]) -> None:
    if words[0] == "torchrun":
        from torch.distributed.run import get_args_parser

        start = words.index("main.py")
        get_args_parser().parse_args(words[1 : start + 1])
        words = words[start:]
    if words[0] == "-m":
        only_parse()
        sys.argv = words[1:]
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    elif words[1] in TOOLS:
        only_parse()
        main.main(words[1:])
    elif asks(words) or words[1:] == ["check"]:  # without a configuration
        main.main(words[1:])
    else:
        main.main([*words[1:], "--print_config"])


def only_parse(patch: Callable[[object, str, object], None] = setattr) -> None:
    """Let argparse end the program where all is well, as it does where something is not.

    Args:
        patch: Replaces an attribute; by default for the rest of the process.
    """
    parse = argparse.ArgumentParser.parse_known_args

    def parse_known_args(self: argparse.ArgumentParser, *args: Any, **kwargs: Any) -> Any:
        options, unknown = parse(self, *args, **kwargs)
        if unknown:
            return options, unknown  # the program refuses them in its own words
        raise SystemExit(0)

    patch(argparse.ArgumentParser, "parse_known_args", parse_known_args)
