"""The Dockerfile and the development container name files, targets and options that there are."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

from callbacks import provenance
from callbacks.provenance import commit
from tests.conftest import REPO

DOCKERFILE = (REPO / "Dockerfile").read_text()
PAGE = (REPO / "docs/jobs/container.md").read_text()


def test_it_installs_extras_that_there_are_by_make() -> None:
    extras = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]
    (default,) = set(re.findall(r"^ARG EXTRAS=(\S+)$", DOCKERFILE, re.MULTILINE))
    installs = re.findall(r"^RUN (make install.*)$", DOCKERFILE, re.MULTILINE)
    installs = [command.replace("$EXTRAS", default) for command in installs]
    assert len(installs) == 2
    for command in installs:
        (named,) = re.findall(r"EXTRAS=(\S+)", command)
        assert {*named.split(",")} <= {*extras["optional-dependencies"]}
        shown = subprocess.run(
            [*command.split(), "--dry-run", "--always-make"],
            cwd=REPO, capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
        assert f"-e '.[{named}]'" in shown
        assert ("--torch-backend cpu" in shown) == ("TORCH=cpu" in command)


def test_what_is_installed_is_copied() -> None:
    copied = re.findall(r"^!(\S+)$", (REPO / ".dockerignore").read_text(), re.MULTILINE)
    find = tomllib.loads((REPO / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    assert {name.rstrip("*") for name in find["find"]["include"]} <= {*copied}
    assert all((REPO / name).exists() for name in copied)


def test_what_is_run_is_there() -> None:
    named = re.findall(r'"/enlarger/(\S+?)"', DOCKERFILE) + re.findall(r" /enlarger/(\S+)", PAGE)
    assert "main.py" in named
    assert all((REPO / name).is_file() for name in named)


def test_results_have_the_commit_without_git(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("ENLARGER_COMMIT", "0f1e2d")
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
