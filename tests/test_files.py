"""Configurations say what they are for, the changelog keeps its form, benchmarks know --help."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.conftest import REPO


def tracked(pattern: str) -> list[Path]:
    """Files that are committed, or would be."""
    git = ["git", "-C", str(REPO), "ls-files", "--cached", "--others", "--exclude-standard"]
    found = subprocess.run([*git, pattern], capture_output=True, text=True, check=False)
    if found.returncode:
        pytest.skip("not in a git repository")
    return [path for name in found.stdout.splitlines() if (path := REPO / name).is_file()]


def test_configurations_begin_with_what_they_are_for() -> None:
    for path in [*tracked("configs/*.yaml"), *tracked("benchmarks/configs/*.yaml")]:
        assert re.match(r"# \S", path.read_text()), f"{path} does not begin with a comment"
