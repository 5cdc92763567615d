"""Which cases of a long table `make test` runs; the others are left to `make test-slow`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def quick(cases: Iterable[Any], *names: Any) -> list[Any]:
    """Mark all cases but the named ones as slow.

    Args:
        cases: Of `pytest.mark.parametrize`: values, or tuples of them.
        names: The cases that stay; of a tuple its first value.
    """
    cases = list(cases)
    firsts = [case[0] if isinstance(case, tuple) else case for case in cases]
    unknown = set(names) - set(firsts)
    assert not unknown, f"no case is called {unknown}: expected some of {firsts}"
    return [
        case if first in names else pytest.param(*_values(case), marks=pytest.mark.slow)
        for case, first in zip(cases, firsts, strict=True)
    ]


def _values(case: Any) -> tuple[Any, ...]:
    return case if isinstance(case, tuple) else (case,)
