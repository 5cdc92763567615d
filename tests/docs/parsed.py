"""Parse commands of the pages without running them: their options with their values, and no more.

Each in a process of its own, which has imported torch and Lightning already: that takes longer than
all the rest.
"""

import argparse
import contextlib
import io
import multiprocessing
import os
import runpy
import sys

import main
from commands.names import TOOLS
from tests.docs.stand_in import asks

PROCESSES = multiprocessing.get_context("forkserver")
PRELOADED = ["commands.cli", "callbacks.metrics.pixels", "torch.distributed.run"]
PRELOADED += ["benchmarks.photographs.page", "benchmarks.speed.invsr"]  # each a second
PROCESSES.set_forkserver_preload(PRELOADED)


def parsed(words, folder, environment):
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
        return receives.recv()
    except EOFError:
        return "its process ended without a word"
    finally:
        process.join()


def _child(sends, words, folder, environment):
    os.chdir(folder)
    os.environ.update(environment)
    said = io.StringIO()
    status = None
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(said):
        try:
            _parse(words)
        except SystemExit as end:
            status = end.code
        except Exception as error:
            status = repr(error)
    if not status:
        sends.send("ok")
    elif isinstance(status, str):
        sends.send(status)
    else:
        sends.send((said.getvalue().strip().splitlines() or ["it said nothing"])[-1])


def _parse(words):
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


def only_parse(patch=setattr):
    """Let argparse end the program where all is well, as it does where something is not.

    Args:
        patch: Replaces an attribute; by default for the rest of the process.
    """
    parse = argparse.ArgumentParser.parse_known_args

    def parse_known_args(self, *args, **kwargs):
        options, unknown = parse(self, *args, **kwargs)
        if unknown:
            return options, unknown  # the program refuses them in its own words
        raise SystemExit(0)

    patch(argparse.ArgumentParser, "parse_known_args", parse_known_args)
