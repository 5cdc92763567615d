"""What a newcomer reads first: files say what they are for, the project's forms are well made."""

from __future__ import annotations

import ast
import re
import subprocess
import tokenize
from pathlib import Path

import pytest
import yaml

from tests.conftest import REPO

FORMS = sorted((REPO / ".github" / "ISSUE_TEMPLATE").glob("[!c]*.yml"))
FIELDS = {"textarea", "input", "checkboxes"}


def tracked(pattern: str) -> list[Path]:
    """Files that are committed, or would be."""
    git = ["git", "-C", str(REPO), "ls-files", "--cached", "--others", "--exclude-standard"]
    found = subprocess.run([*git, pattern], capture_output=True, text=True, check=False)
    if found.returncode:
        pytest.skip("not in a git repository")
    return [path for name in found.stdout.splitlines() if (path := REPO / name).is_file()]


def docstring(path: Path) -> str:
    """A file's docstring, without reading the rest: there are a thousand files."""
    with tokenize.open(path) as file:
        tokens = tokenize.generate_tokens(file.readline)
        first = next(t for t in tokens if t.type not in (tokenize.COMMENT, tokenize.NL))
    return str(ast.literal_eval(first.string)) if first.type == tokenize.STRING else ""


def test_python_files_begin_with_what_they_are_for() -> None:
    """One sentence on the first line; a longer story comes after an empty line."""
    files = [path for path in tracked("*.py") if path.stat().st_size]
    assert len(files) > 300
    for path in files:
        first, _, rest = docstring(path).partition("\n")
        assert re.fullmatch(r"\S.*\.", first), f"{path}: {first!r} is no sentence"
        assert not rest.strip() or rest.startswith("\n"), f"{path}: its first line goes on"


def test_configurations_begin_with_what_they_are_for() -> None:
    for path in [*tracked("configs/*.yaml"), *tracked("benchmarks/configs/*.yaml")]:
        assert re.match(r"# \S", path.read_text()), f"{path} does not begin with a comment"


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.name)
def test_forms_of_issues_are_what_github_reads(path: Path) -> None:
    form = yaml.safe_load(path.read_text())
    assert form.keys() == {"name", "description", "labels", "body"}
    assert {field["type"] for field in form["body"]} <= FIELDS
    assert all(field["attributes"]["label"] for field in form["body"])
    names = [field["id"] for field in form["body"]]
    assert len(names) == len(set(names))


def test_contributing_is_one_page() -> None:
    assert len((REPO / "CONTRIBUTING.md").read_text().splitlines()) <= 60


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


def test_the_environment_has_pip_and_one_way_to_install_an_extra() -> None:
    assert "uv venv --seed" in (REPO / "Makefile").read_text()
    folders = "callbacks", "commands", "datamodules", "degradations", "docs", "lightning_modules"
    for folder in folders:
        for path in [*(REPO / folder).rglob("*.py"), *(REPO / folder).rglob("*.md")]:
            assert not re.search(r"pip\s+install\s+(-e|')", path.read_text()), path


def test_every_benchmark_knows_help() -> None:
    """One that knows no options would run for minutes, and write its JSON, when asked for help."""
    for path in sorted((REPO / "benchmarks").rglob("*.py")):
        text = path.read_text()
        if '__name__ == "__main__"' in text:
            assert "ArgumentParser(" in text or "parser(__doc__" in text, path
