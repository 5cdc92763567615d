"""The tests of tests/gpu/, each file in a process of its own: the device stays registered there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize(
    "path", sorted((ROOT / "tests" / "gpu").glob("check_*.py")), ids=lambda path: path.stem
)
def test_on_a_pretended_gpu(path: Path) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTEST_ADDOPTS": ""}
    for name in [name for name in env if name.startswith("PYTEST_XDIST")]:
        del env[name]
    run = subprocess.run([*command, str(path)], env=env, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout[-20000:] + run.stderr[-2000:]
    assert re.search(r"[1-9]\d* passed", run.stdout)
