"""The tests of tests/gpu/ in a process of their own: the device stays registered there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("marked", ["not slow", pytest.param("slow", marks=pytest.mark.slow)])
def test_the_checks_of_tests_gpu_pass_on_a_pretended_gpu(marked: str) -> None:
    """They find waits of the host for a GPU, and tensors on two devices, on machines without one.

    They register a device on the CPU as `cuda` (tests/gpu/device.py), for good in that process.
    Their files are `check_*.py`, which pytest does not collect by itself.
    """
    files = sorted(map(str, (ROOT / "tests" / "gpu").glob("check_*.py")))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
    command += ["-m", marked]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTEST_ADDOPTS": ""}
    for name in [name for name in env if name.startswith("PYTEST_XDIST")]:
        del env[name]  # or it would take itself for a worker of this run
    run = subprocess.run([*command, *files], env=env, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout[-20000:] + run.stderr[-2000:]
    assert re.search(r"[1-9]\d* passed", run.stdout)
    assert "skipped" not in run.stdout
