"""What a newcomer reads first: files say what they are for, the project's forms are well made."""

from __future__ import annotations

import ast
import re
import subprocess
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.conftest import REPO
from tests.syntax import parsed

FORMS = sorted((REPO / ".github" / "ISSUE_TEMPLATE").glob("[!c]*.yml"))
ROOMS = (
    *("benchmarks", "callbacks", "commands", "datamodules", "degradations"),
    *("files", "lightning_modules"),
)
# Whose `open` reads no text: libraries of images, archives and clips, and descriptors.
BINARY = {"Image", "av", "lmdb", "os", "system", "tarfile"}
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


@pytest.mark.parametrize("room", ROOMS)
def test_text_is_utf_8_whatever_the_machine_has(room: str) -> None:
    """Where the locale is C, what is read or written without a word is ASCII."""
    for path in sorted((REPO / room).rglob("*.py")):
        lines = [call.lineno for call in calls_of_text(parsed(path))]
        assert not lines, f"{path}: no encoding= in lines {lines}"


def calls_of_text(tree: ast.AST) -> Iterator[ast.Call]:
    """Calls that read or write text and do not say in which encoding."""
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        if any(keyword.arg == "encoding" for keyword in call.keywords):
            continue
        name = getattr(call.func, "attr", getattr(call.func, "id", ""))
        places = {"read_text": 0, "write_text": 1}
        if name in places and len(call.args) <= places[name]:
            yield call
        elif name in ("open", "fdopen", "TemporaryFile", "NamedTemporaryFile"):
            owner = ast.unparse(call.func.value) if isinstance(call.func, ast.Attribute) else ""
            if name == "open" and owner in BINARY:
                continue
            behind = name == "fdopen" or (name == "open" and not owner)
            given = [k.value for k in call.keywords if k.arg == "mode"] or call.args[behind:][:1]
            binary = "w+b" if "Temporary" in name else "r"
            if "b" not in (ast.unparse(given[0]).strip("'") if given else binary):
                yield call


@pytest.mark.parametrize(
    ("code", "found"),
    [
        *(("path.read_text()", 1), ("path.read_text('ascii')", 0), ("path.write_text(a)", 1)),
        *(("path.open()", 1), ("path.open('rb')", 0), ("Image.open(a)", 0)),
        *(("open(a, mode='w')", 1), ("open(a, 'wb')", 0), ("open(a, encoding='utf-8')", 0)),
        *(("tempfile.TemporaryFile('w+')", 1), ("tempfile.TemporaryFile()", 0)),
    ],
)
def test_calls_of_text_are_found(code: str, found: int) -> None:
    assert len(list(calls_of_text(ast.parse(code)))) == found


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
