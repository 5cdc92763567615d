"""Each extra can be installed as pages and errors say, with the versions that CI tested."""

from __future__ import annotations

import subprocess
import sys
import tomllib

import pytest

from tests.conftest import REPO

PROJECT = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]
EXTRAS = sorted(PROJECT["optional-dependencies"])


@pytest.mark.network
@pytest.mark.parametrize("extra", EXTRAS)
def test_pip_can_install_an_extra_with_the_versions_of_constraints_txt(extra: str) -> None:
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run"]
    packages = ["-c", "constraints.txt", "-e", f".[{extra}]"]
    done = subprocess.run([*pip, *packages], cwd=REPO, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
