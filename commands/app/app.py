"""``main.py app``: a page in the browser that enlarges photographs; needs the extra ``app``.

python main.py app                   all runs, exports and released models on this machine
python main.py app runs/quickstart   begins with this one
python main.py app my/models         begins with the runs and files of weights in a folder
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
from commands.run.files import CONFIG
from files.paths import WEIGHTS

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
        models = models_to_offer(options.sources)
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
    add(
        "sources",
        nargs="*",
        metavar="RUN",
        help="run, export, weights, file, or folder of them, to offer first",
    )
    add("--port", type=int, default=7860, help="port (default: 7860)")
    add(
        "--host",
        default="127.0.0.1",
        help="address to listen on (default: 127.0.0.1, for this machine alone; with 0.0.0.0 all "
        "that reach this machine can use it: there is no password)",
    )
    return parser


def models_to_offer(typed: Sequence[str]) -> Models:
    """Return the models of the page.

    Args:
        typed: Those that come first, and folders of them.

    Raises:
        ValueError: If one cannot be loaded.
    """
    from commands.interface.models import sources

    first: list[str] = []
    for source in typed:
        first += _models_in(source)
    available = sources()
    photographs = [name for name in available if name.startswith("realesr")]
    offered = dict.fromkeys([*first, *photographs, DEFAULT, *available])
    models = Models([*offered])
    for source in reversed(typed):  # the first one stays in memory
        if source in offered:
            models.load(source)
    return models


def _models_in(source: str) -> list[str]:
    """Return the runs and files of weights of a folder; what is no such folder itself."""
    folder = Path(source).expanduser()
    if not folder.is_dir() or (folder / CONFIG).is_file():
        return [source]
    found = [
        str(path)
        for path in sorted(folder.iterdir())
        if path.suffix in WEIGHTS or (path / CONFIG).is_file()
    ]
    return found or [source]
