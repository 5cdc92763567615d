"""Numbers with a range are refused where they are read, and are plain numbers where they fit."""

from __future__ import annotations

import pytest
from jsonargparse import ArgumentError, ArgumentParser
from lightning.pytorch.cli import LightningCLI

from datamodules import SRDataModule
from files.numbers import (
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    UnitInterval,
)
from lightning_modules import Regression


class Settings:
    """A range of each kind, alone and nested."""

    def __init__(
        self,
        size: PositiveInt | None = 3,
        count: NonNegativeInt = 0,
        weight: PositiveFloat = 1.0,
        sigma: tuple[NonNegativeFloat, NonNegativeFloat] = (0.0, 1.0),
        share: dict[str, UnitInterval] | None = None,
    ) -> None:
        self.size = size


@pytest.fixture
def parser() -> ArgumentParser:
    """Return a parser of the class."""

    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(Settings, "a")
    return parser


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("size", "5", 5),
        ("size", "null", None),
        ("count", "0", 0),
        ("weight", "1e-4", 1e-4),
        ("sigma", "[0, 2]", (0.0, 2.0)),
        ("share", "{a: 1}", {"a": 1.0}),
    ],
)
def test_a_number_in_the_range_is_a_plain_number(parser, key, text, value):
    got = parser.parse_args([f"--a.{key}={text}"]).a[key]
    assert got == value
    assert type(got) is type(value)


@pytest.mark.parametrize(
    ("key", "text"),
    [
        *(("size", text) for text in ("0", "-1", "2.5", "8.0", "true", "x", "[]")),
        ("count", "-1"),
        *(("weight", text) for text in ("0", "-1", "nan", ".inf")),
        ("sigma", "[0, -1]"),
        *(("share", text) for text in ("{a: 1.1}", "{a: -0.1}", "{a: nan}")),
    ],
)
def test_a_number_out_of_the_range_is_refused(parser, key, text):
    with pytest.raises(ArgumentError, match=rf"(?s){key}.*xpected an? (integer|finite|number)"):
        parser.parse_args([f"--a.{key}={text}"])


def test_a_plain_lightning_cli_takes_classes_with_ranges(monkeypatch):
    """Our own parser is not needed for them: a user's program may build our classes, too."""
    monkeypatch.setattr("sys.argv", ["own.py"])  # else Lightning warns of pytest's arguments
    model = ("--model.scale=2", "--model.network=lightning_modules.EDSR")
    data = ("--data.scale=2", "--data.crop_size=16", "--trainer.logger=false")
    cli = LightningCLI(Regression, SRDataModule, args=[*model, *data], run=False)
    assert cli.model.scale == 2.0
    assert cli.datamodule.crop_size == 16
