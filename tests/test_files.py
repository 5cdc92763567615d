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


def test_changelog_keeps_its_form() -> None:
    lines = (REPO / "CHANGELOG.md").read_text().splitlines()
    assert max(map(len, lines)) <= 150
    kinds = [line for line in lines if line.startswith("###")]
    known = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    assert {kind.removeprefix("### ") for kind in kinds} <= known
    versions = [line for line in lines if line.startswith("## ")]
    form = r"## \d+\.\d+\.\d+ - (unreleased|\d{4}-\d\d-\d\d)"
    assert versions
    assert all(re.fullmatch(form, line) for line in versions)


def test_every_benchmark_knows_help() -> None:
    """One that knows no options would run for minutes, and write its JSON, when asked for help."""
    for path in sorted((REPO / "benchmarks").rglob("*.py")):
        text = path.read_text()
        if '__name__ == "__main__"' in text:
            assert "ArgumentParser(" in text or "parser(__doc__" in text, path
