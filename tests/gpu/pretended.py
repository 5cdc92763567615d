"""Run a module as a program on the pretended GPU: ``python -m tests.gpu.pretended MODULE ...``.

``benchmarks.gpu --pretend`` finds faults of its scripts in this way before a GPU is rented. What
the device has no counterpart for is skipped and named: compiled code and CUDA graphs run as they
are written, and inference mode, in which operations are invisible to it, without gradients.
Processes that the module starts pretend, too. Reports go to a folder that is deleted.
"""

from __future__ import annotations

import runpy
import subprocess
import sys
import tempfile
from contextlib import ExitStack, nullcontext
from pathlib import Path
from unittest import mock

import torch
from torch import nn

from benchmarks import report
from tests.gpu.device import pretended_gpu

_run = subprocess.run
_said = set()


def _skipped(what):
    if what not in _said:
        sys.stderr.write(f"skipped: {what}, which the pretended device does not have\n")
    _said.add(what)


def _compile(function=None, **_):
    _skipped("torch.compile and CUDA graphs")
    return (lambda f: f) if function is None else function


def _compile_in_place(module, **_):
    _skipped("torch.compile and CUDA graphs")


def _without_gradients(mode=True):
    return torch.no_grad() if mode else nullcontext()


def _pretending(command, *args, **kwargs):
    if list(command[:2]) == [sys.executable, "-m"]:
        command = [sys.executable, "-m", "tests.gpu.pretended", *command[2:]]
    return _run(command, *args, **kwargs)


def main(words):
    """Run a module.

    Args:
        words: Its name and its arguments.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for owner, name, value in (
            (report, "RESULTS", folder),
            (torch, "compile", _compile),
            (nn.Module, "compile", _compile_in_place),
            (torch, "inference_mode", _without_gradients),
            (subprocess, "run", _pretending),
            (sys, "argv", words),
        ):
            stack.enter_context(mock.patch.object(owner, name, value))
        stack.enter_context(pretended_gpu())
        runpy.run_module(words[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(sys.argv[1:])
