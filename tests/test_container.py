"""The commit beside results: without git, and not that of a repository around a copy."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from callbacks import provenance
from callbacks.provenance import commit


def test_without_git_the_commit_is_that_of_the_environment_or_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("ENLARGER_COMMIT", "0f1e2d")  # which Dockerfile sets
    assert commit() == "0f1e2d"
    monkeypatch.delenv("ENLARGER_COMMIT")
    assert commit() is None


def test_the_commit_is_not_that_of_a_foreign_repository_around_the_installed_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for command in ("init", "-c user.name=a -c user.email=b commit --allow-empty -m other"):
        subprocess.run(["git", *command.split()], cwd=tmp_path, check=True, capture_output=True)
    installed = tmp_path / "packages" / "callbacks" / "provenance.py"
    installed.parent.mkdir(parents=True)
    installed.touch()
    monkeypatch.setattr(provenance, "__file__", str(installed))
    monkeypatch.setenv("ENLARGER_COMMIT", "0f1e2d")
    assert commit() == "0f1e2d"
