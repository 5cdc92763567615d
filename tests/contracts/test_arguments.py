"""The check of docstrings reports a class whose arguments are not explained."""

from __future__ import annotations

import pytest

from tests.contracts.arguments import check_arguments


class Needy:
    """Has arguments.

    Args:
        scale: A number.
        width: Another one: wide.
            With a colon: here.

    Raises:
        ValueError: Never.
    """

    def __init__(self, scale: float, width: int) -> None:
        self.scale, self.width = scale, width


class Vague(Needy):
    """Has arguments too.

    Args:
        scale: A number.
    """

    def __init__(self, scale: float, width: int) -> None: ...


class Untyped(Needy):
    """Has arguments too.

    Args:
        scale: A number.
        width: Another one.
    """

    def __init__(self, scale: float, width) -> None: ...


def test_check_arguments():
    check_arguments(Needy)
    with pytest.raises(AssertionError, match=r"docstring of .*Vague does not explain width"):
        check_arguments(Vague)
    with pytest.raises(AssertionError, match=r"Untyped\.__init__ has no type for width"):
        check_arguments(Untyped)
