"""The training that `python -m degradations.plugin` suggests runs."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from degradations import plugin
from tests.commands.test_resume import newest


@pytest.fixture
def folder(tiny: Path) -> Iterator[Path]:
    path = list(sys.path)
    yield tiny
    sys.path[:] = path
    for name in [name for name in sys.modules if name.split(".")[0] == "my_sr"]:
        del sys.modules[name]


def test_fit_as_printed(folder: Path, enlarger: Callable[..., None]) -> None:
    assert plugin.main(["RainDrops"]) == 0
    steps = plugin.next_steps(plugin.plugin_of("RainDrops", Path("my_sr")))
    (command,) = [line for line in steps if "main.py" in line]
    arguments = shlex.split(command)[3:]
    assert arguments[0] == "fit"
    small = [
        *("--trainer.max_steps", 2, "--data.init_args.val", "null", "--trainer.accelerator", "cpu"),
        *("--trainer.val_check_interval", "null", "--data.init_args.batch_size", 4),
        *("--data.init_args.workers", 0),
    ]
    enlarger(*arguments, *small)
    assert newest("rain_drops")["global_step"] == 2
    text = Path("runs/rain_drops/config.yaml").read_text()
    assert "my_sr.rain_drops.RainDrops" in text
