"""What the libraries say without need is not printed."""

from __future__ import annotations

import os
import warnings

from torch.utils.data import DataLoader

from commands.output import prepare_output


def test_nothing_is_said_of_more_workers_than_cores() -> None:
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        prepare_output()
        DataLoader([0], num_workers=2 * (os.cpu_count() or 1))  # type: ignore[arg-type]
    assert [str(warning.message) for warning in said] == []
