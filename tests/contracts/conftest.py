"""`pytest tests/contracts --plugin MODULE`: the contracts for classes of your own."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.contracts import discovery


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--plugin",
        action="append",
        metavar="MODULE",
        default=[],
        help="Run the contracts on the classes of this module or package too, e.g. "
        "my_sr.degradations (found from the current folder; may be given several times; "
        "`-k my_sr` leaves ours out).",
    )

    parser.addoption(
        "--plugin-yaml",
        action="append",
        metavar="FILE",
        default=[],
        help="Take the arguments of classes that need some from this file; files of the current "
        "folder, and those beside the classes, are looked at in any case.",
    )


def pytest_configure(config: pytest.Config) -> None:
    discovery.FILES[:] = map(Path, config.getoption("plugin_yaml", default=None) or [])
    missing = [str(file) for file in discovery.FILES if not file.is_file()]
    if missing:
        raise pytest.UsageError(f"--plugin-yaml {missing[0]}: there is no such file")
