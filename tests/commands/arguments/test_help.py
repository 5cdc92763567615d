"""`--help` is readable for every command and class, and quick."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from commands.arguments.help import SHOWN, short_help
from datamodules.base import SRDataModule
from lightning_modules.base import ImageModel
from tests.quick import quick


@pytest.mark.parametrize("command", quick(SHOWN, "fit", "predict", "export"))
def test_the_short_help_names_options_that_there_are(
    tiny: Path, configured: Callable[..., Any], command: str
) -> None:
    keys = [key for key in SHOWN[command] if key not in ("RUN", "debug", "print_config")]
    assert len(keys) == len({*keys})
    assert 4 < len(keys) < 30
    found = configured(command, "--config", "tiny.yaml")
    inside = {"data": inspect.signature(SRDataModule), "model": inspect.signature(ImageModel)}
    for key in keys:
        group, _, name = key.partition(".")
        if name and group in inside:
            assert name.partition(".")[0] in inside[group].parameters, key
        else:
            assert key in found, key
    assert all(f"--{key} " in short_help(command) for key in keys)
