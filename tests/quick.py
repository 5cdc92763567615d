"""Which cases of a long table `make test` runs; the others are left to `make test-nightly`."""

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
    rows = [case if isinstance(case, tuple) else (case,) for case in cases]
    unknown = set(names) - {row[0] for row in rows}
    assert not unknown, f"no case is called {unknown}: expected some of {[row[0] for row in rows]}"
    return [pytest.param(*row, marks=() if row[0] in names else pytest.mark.slow) for row in rows]
