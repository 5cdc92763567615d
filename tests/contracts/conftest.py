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


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Of a class that cannot be made for want of arguments, let one test say so."""
    if discovery.plugins(config):
        items[:], left_out = discovery.one_error(items)
        if left_out:
            config.hook.pytest_deselected(items=left_out)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Say so."""
    if message := item.stash.get(discovery.CANNOT, None):
        pytest.fail(message, pytrace=False)
