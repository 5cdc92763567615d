"""One command from its words to its status: what is printed of an error, and how processes end."""

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
    """Run one command; an error of the configuration is printed as one sentence.

    Args:
        args: Arguments as typed after ``main.py``; ``--debug`` anywhere shows the whole traceback
            of an error.

    Raises:
        SystemExit: With status 2 after an error of the configuration, 75 where another process is
            gone or trains the same run, 128 and the signal's number after a signal.
    """
    debug = "--debug" in args
    args = [arg for arg in args if arg != "--debug"]
    prepare_output()
    keep_freed_memory()
    raise_limit()
    status = 0
    try:
        EnlargerCLI(args)
    except Checked:  # `check` has said what it found, and goes no further
        pass
    except Stopped as stopped:
        log.warning("%s; the same command continues", stopped)
        status = stopped.status
    except (KeyboardInterrupt, SystemExit) as ended:
        # Lightning makes its own end of Ctrl-C before the first step, and of a second one.
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
        # Or its threads are still there when the interpreter ends, which now and then aborts.
        dist.destroy_process_group()
    if status:
        raise SystemExit(status)


def _end(status: int) -> NoReturn:
    # The others may be gone, or wait for this process: nothing that talks to them would return.
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
