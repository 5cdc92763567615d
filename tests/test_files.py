"""Configurations say what they are for."""

from __future__ import annotations

import re

import pytest

from tests.conftest import REPO


@pytest.mark.parametrize("folder", ["configs", "benchmarks/configs"])
def test_configurations_begin_with_what_they_are_for(folder: str) -> None:
    files = list((REPO / folder).rglob("*.yaml"))
    assert files
    for file in files:
        assert re.match(r"# \S", file.read_text()), f"{file} does not begin with a comment"
