"""Every row of the benchmarks for a GPU takes its options."""

from __future__ import annotations

import pytest

from benchmarks.gpu import ROWS
from tests.conftest import REPO
from tests.docs.parsed import parsed


@pytest.mark.slow  # the process in which modules are run takes seconds to start
@pytest.mark.parametrize("row", [row for row in ROWS if "pytest" not in row.words], ids=str)
def test_every_module_of_the_table_takes_its_options(row):
    """By its own parser."""
    words = row.words.replace("$ENLARGER_PEERS", "peers").replace("$ENLARGER_DATA", "data")
    assert parsed(words.split(), REPO, {}) == "ok"
