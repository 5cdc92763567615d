"""The commit beside results: without git, of a copy in another repository, with local changes."""

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


def test_changed_code_makes_a_commit_dirty_and_a_benchmarks_results_do_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = tmp_path / "callbacks" / "provenance.py"
    results = tmp_path / "benchmarks" / "results" / "a.json"
    for file in (code, results):
        file.parent.mkdir(parents=True)
        file.touch()
    for command in ("init", "add .", "-c user.name=a -c user.email=b commit -m first"):
        subprocess.run(["git", *command.split()], cwd=tmp_path, check=True, capture_output=True)
    head = subprocess.check_output(["git", "rev-parse", "HEAD"], cwd=tmp_path, text=True).strip()
    monkeypatch.setattr(provenance, "__file__", str(code))

    results.write_text("{}")
    after_a_benchmark = commit()
    code.write_text("# other")

    assert after_a_benchmark == head
    assert commit() == f"{head}-dirty"
