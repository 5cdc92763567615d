"""Each extra can be installed as pages and errors say, with the versions that CI tested."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.conftest import REPO

PROJECT = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]
EXTRAS = sorted(PROJECT["optional-dependencies"])


@pytest.mark.network
@pytest.mark.parametrize("extra", EXTRAS)
def test_an_extra_goes_with_the_constraints(extra: str, tmp_path: Path) -> None:
    """Gradio takes no Pillow 13: pages name its command without constraints."""
    lines = (REPO / "constraints.txt").read_text().splitlines(keepends=True)
    kept = [line for line in lines if extra != "app" or not line.startswith("pillow==")]
    (tmp_path / "constraints.txt").write_text("".join(kept))
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run"]
    asked = ["-c", str(tmp_path / "constraints.txt"), "-e", f".[{extra}]"]
    done = subprocess.run([*pip, *asked], cwd=REPO, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
