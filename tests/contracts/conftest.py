"""`pytest tests/contracts --plugin MODULE`: the contracts for classes of your own."""

from __future__ import annotations


def pytest_addoption(parser):
    parser.addoption(
        "--plugin",
        action="append",
        metavar="MODULE",
        default=[],
        help="Run the contracts on the classes of this module or package too, e.g. "
        "my_sr.degradations (found from the current folder; may be given several times; "
        "`-k my_sr` leaves ours out).",
    )
