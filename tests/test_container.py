"""The commit beside results: without git, and not that of a repository around a copy."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from callbacks import provenance
from callbacks.provenance import commit


def test_without_git_the_commit_is_that_of_the_container_or_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("ENLARGER_COMMIT", "0f1e2d")  # as Dockerfile does
    assert commit() == "0f1e2d"
    monkeypatch.delenv("ENLARGER_COMMIT")
    assert commit() is None


def test_the_commit_is_not_that_of_a_repository_around_a_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for command in ("init", "-c user.name=a -c user.email=b commit --allow-empty -m other"):
        subprocess.run(["git", *command.split()], cwd=tmp_path, check=True, capture_output=True)
    copied = tmp_path / "packages" / "callbacks" / "provenance.py"
    copied.parent.mkdir(parents=True)
    copied.touch()
    monkeypatch.setattr(provenance, "__file__", str(copied))
    monkeypatch.setenv("ENLARGER_COMMIT", "0f1e2d")
    assert commit() == "0f1e2d"
