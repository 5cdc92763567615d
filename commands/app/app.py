"""``main.py app``: a page in the browser that enlarges photographs; needs the extra ``app``.

python main.py app                   all runs, exports and released models on this machine
python main.py app runs/quickstart   begins with this one
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import os
import signal
import socket
import tempfile
from collections.abc import Sequence
from pathlib import Path

from commands.app.models import Models
from commands.errors import ConfigurationError
from commands.released import DEFAULT

INSTALL = "pip install -c constraints.txt -e '.[app]'"


def main(words: Sequence[str] | None = None) -> int:
    """Serve the page until Ctrl-C or SIGTERM.

    Args:
        words: Command-line arguments; those of this process by default.

    Returns:
        0.

    Raises:
        ConfigurationError: If the extra ``app`` is missing, or the address cannot be used.
    """
    options = _parser().parse_args(words)
    if any(importlib.util.find_spec(package) is None for package in ("starlette", "uvicorn")):
        raise ConfigurationError(f"app needs Starlette and uvicorn, which are optional: {INSTALL}")
    try:
        listening = socket.create_server((options.host, options.port))
    except (OSError, OverflowError) as error:
        raise ConfigurationError(
            f"app cannot listen on {options.host}:{options.port} ({error}): set --host to an "
            "address of this machine, and --port to a free port"
        ) from error
    from commands.process import prepare_output

    prepare_output()
    with listening:
        models = _models(options.sources)
        ours = tempfile.TemporaryDirectory(prefix="enlarger-app-", ignore_cleanup_errors=True)
        with ours as folder:
            import uvicorn

            from commands.app.page import application

            page = application(models, Path(folder), options.host)
            print(
                f"http://{options.host}:{listening.getsockname()[1]} (Ctrl-C ends it)", flush=True
            )
            server = uvicorn.Server(uvicorn.Config(page, log_level="warning"))
            server.handle_exit = functools.partial(_end, ours)
            server.run([listening])
    return 0


def _end(ours: tempfile.TemporaryDirectory[str], number: int, _frame: object) -> None:
    # At once: the server would wait for a photograph to be finished.
    os.write(2, f"stopped by {signal.Signals(number).name}\n".encode())
    ours.cleanup()
    os._exit(0)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="main.py app", description="Enlarge photographs in the browser.", allow_abbrev=False
    )
    add = parser.add_argument
    add("sources", nargs="*", metavar="RUN", help="run, export, weights or file to offer first")
    add("--port", type=int, default=7860, help="port (default: 7860)")
    add(
        "--host",
        default="127.0.0.1",
        help="address to listen on (default: 127.0.0.1, for this machine alone; with 0.0.0.0 all "
        "that reach this machine can use it: there is no password)",
    )
    return parser


def _models(typed: Sequence[str]) -> Models:
    from commands.interface.models import sources

    available = sources()
    photographs = [name for name in available if name.startswith("realesr")]
    offered = dict.fromkeys([*typed, *photographs, DEFAULT, *available])
    models = Models([*offered])
    for source in reversed(typed):  # the first one stays in memory
        models.load(source)
    return models
