"""Configurations say what they are for."""

from __future__ import annotations

import re

import pytest

from tests.conftest import REPO


@pytest.mark.parametrize("folder", ["configs", "benchmarks/configs"])
def test_each_configuration_begins_with_a_comment(folder: str) -> None:
    files = list((REPO / folder).rglob("*.yaml"))
    assert files
    for file in files:
        assert re.match(r"# \S", file.read_text()), f"{file} does not say what it is for"
