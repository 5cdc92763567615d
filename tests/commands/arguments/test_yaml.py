"""What YAML means in a configuration."""

from __future__ import annotations

import pytest

from files.configuration.yaml_loader import StrictLoader


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *(("012", "012"), ("1:30:00", "1:30:00"), ("1:30.5", "1:30.5")),  # not 10, 5400 and 90.5
        *(("12", 12), ("-1_200", -1200), ("0", 0), ("0x1F", 31), ("0b11", 3), ("1e-4", 1e-4)),
    ],
)
def test_numbers_are_those_of_yaml_1_2(text: str, value: object) -> None:
    assert StrictLoader(text).get_single_data() == value
