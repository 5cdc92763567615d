"""What is said of a class that nobody can make, or whose arguments nobody explains."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.contracts.arguments import build, check_arguments

HERE = Path(__file__).parent


class Needy:
    """Has arguments.

    Args:
        scale: A number.
        width: Another one: wide.
            With a colon: here.

    Raises:
        ValueError: Never.
    """

    def __init__(self, scale: float, width: int) -> None:
        self.scale, self.width = scale, width


class Vague(Needy):
    """Has arguments too.

    Args:
        scale: A number.
    """

    def __init__(self, scale: float, width: int) -> None: ...


class Untyped(Needy):
    """Has arguments too.

    Args:
        scale: A number.
        width: Another one.
    """

    def __init__(self, scale: float, width) -> None: ...


def test_a_class_without_a_line_in_the_table():
    message = (
        r"test_arguments\.Needy cannot be made without width: give them defaults, or add a line "
        r"for it to EXAMPLES in here"
    )
    with pytest.raises(pytest.fail.Exception, match=message):
        build(Needy, {}, "EXAMPLES in here", 2.0)


def test_check_arguments():
    check_arguments(Needy)
    with pytest.raises(AssertionError, match=r"docstring of .*Vague does not explain width"):
        check_arguments(Vague)
    with pytest.raises(AssertionError, match=r"Untyped\.__init__ has no type for width"):
        check_arguments(Untyped)


PLUGIN = '''
"""A dataset, a method and a metric outside the repository."""
import numpy as np
import torch
from callbacks.metrics.base import ImageMetric
from datamodules.base import Source
from lightning_modules.controls.simple import Bicubic

class Two(Source):
    """Two images."""
    def __init__(self) -> None:
        super().__init__()
    @property
    def keys(self):
        return ["a", "b"]
    def read(self, index):
        return {"hr": np.full((16, 16, 3), index, np.uint8)}

class Many(Two):
    def __init__(self, root: str) -> None:
        super().__init__()

class Mine(Bicubic):
    """Args as Bicubic.

    Args:
        scale: Factor.
    """

class Difference(ImageMetric):
    """Mean difference."""
    name = "mine"
    def protocol(self):
        return {"implementation": "mine"}
    def compute(self, sr, hr, batch):
        return -(sr - hr).abs().mean((1, 2, 3))

class Weighted(Difference):
    """Args as ImageMetric."""
    def __init__(self, weight: float = 1.0) -> None:
        super().__init__()

'''


@pytest.mark.slow
def test_plug_ins_of_all_kinds(tmp_path):
    """Of a folder outside the repository, by `--plugin`."""
    (tmp_path / "my_sr.py").write_text(PLUGIN)
    tests = [f"{HERE}/test_{kind}.py" for kind in ("sources", "models", "callbacks")]
    names = "test_keys or test_without_hr or one_value_an_image or arguments_are"
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", *tests, "--plugin", "my_sr"),
            *("-k", f"my_sr and ({names})", "-q", "-rfE", "--no-header", "-p", "no:cacheprovider"),
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    report = done.stdout + done.stderr
    assert done.returncode == 1, report
    # Many cannot be made; Weighted does not explain its argument.
    assert "1 failed, 7 passed" in report, report
    assert "my_sr.Many cannot be made without root: " in report
    assert "the docstring of my_sr.Weighted does not explain weight" in report
