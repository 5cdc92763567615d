"""Run one command: print its error as one sentence, and end with its status."""

from __future__ import annotations

import logging
import os
import signal
import sys
import traceback
from typing import NoReturn

import torch.distributed as dist

from callbacks.processes import several
from commands.check import Checked
from commands.cli import EnlargerCLI
from commands.errors import RepeatedError
from commands.memory import keep_freed_memory
from commands.open_files import raise_limit
from commands.output import prepare_output
from commands.signals import Stopped
from commands.tracebacks import sentence_of, status_of

log = logging.getLogger(__name__)


def run(args: list[str]) -> None:
    """Run one command; print a configuration error as one sentence.

    Args:
        args: Arguments as typed after ``main.py``; ``--debug`` shows the traceback of any error.

    Raises:
        SystemExit: With status 2 after a configuration error, 75 if another process is lost or
            trains the same run, 128 plus the signal's number after a signal.
    """
    debug = "--debug" in args
    args = [arg for arg in args if arg != "--debug"]
    prepare_output()
    keep_freed_memory()
    raise_limit()
    status = 0
    try:
        EnlargerCLI(args)
    except Checked:  # `check` has printed its table
        pass
    except Stopped as stopped:
        log.warning("%s; the same command continues", stopped)
        status = stopped.status
    except (KeyboardInterrupt, SystemExit) as ended:
        # Lightning turns Ctrl-C before the first step, and a second one, into SystemExit.
        if isinstance(ended, SystemExit) and not isinstance(ended.__context__, KeyboardInterrupt):
            raise
        sys.stderr.write("stopped by SIGINT\n")
        status = 128 + signal.SIGINT
        if several():
            _end(status)
    except RepeatedError as repeated:
        _end(repeated.status)
    except Exception as error:
        sentence = None if debug else sentence_of(error)
        if sentence is None and not several():
            raise
        if sentence is None:
            traceback.print_exc()
        else:
            sys.stderr.write(f"error: {sentence}\n")
        if several():
            _end(status_of(error))
        raise SystemExit(status_of(error)) from error
    if dist.is_available() and dist.is_initialized():
        # Its threads would outlive the interpreter, which sometimes aborts then.
        dist.destroy_process_group()
    if status:
        raise SystemExit(status)


def _end(status: int) -> NoReturn:
    # The others may be lost, or wait for this process: communication with them would hang.
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
