"""Committed results are of benchmarks that are there, take the same options and write the same."""

from __future__ import annotations

import ast
import json
import re
import shlex
import sys
from importlib import import_module
from importlib.util import find_spec

import pytest

from benchmarks.report import RESULTS
from tests.conftest import REPO
from tests.docs.parsed import only_parse

FILES = sorted(RESULTS.glob("*.json"))
COLUMN = re.compile(r"[a-z]+(_[a-z]+)+")  # other keys are of rows, which are made up at run time


def words_of(file):
    """The first command of a JSON file of results, without variables, as words."""
    command = json.loads(file.read_text())["command"].partition(";")[0]
    return [word for word in shlex.split(command) if not re.match(r"[A-Z_]+=", word)]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_the_command_of_a_result_is_there_and_takes_its_options(file, accepted, monkeypatch):
    """So that a reader can repeat the measurement, also after the benchmark has changed."""
    program, *words = words_of(file)
    if program == "make":
        assert f"\n{words[0].rstrip(',')}:" in (REPO / "Makefile").read_text()
    elif words[0] == "-m":
        package = find_spec(words[1])
        assert package is not None, words[1]
        name = f"{words[1]}.__main__" if package.submodule_search_locations else words[1]
        only_parse(monkeypatch.setattr)  # exit with 0 after parsing, instead of measuring
        monkeypatch.setattr(sys, "argv", words[1:])
        with pytest.raises(SystemExit) as ended:
            import_module(name).main()
        assert ended.value.code == 0
    else:  # main.py
        accepted(*words[1:])


MEASURED = [file for file in FILES if "-m" in words_of(file) and "photographs" not in file.stem]


@pytest.mark.parametrize("file", MEASURED, ids=lambda file: file.stem)
def test_the_columns_of_a_result_are_still_written_by_its_module(file):
    """A renamed column is found by this: no string in the benchmark's source has the old name."""
    module = REPO / words_of(file)[2].replace(".", "/")
    # Of a package all modules, and what all benchmarks share.
    sources = [*module.glob("*.py")] or [module.with_suffix(".py")]
    written = set()
    for source in (*sources, *(REPO / "benchmarks").glob("*.py")):
        for node in ast.walk(ast.parse(source.read_text())):
            if isinstance(node, ast.Constant):
                written.add(node.value)

    keys = set()
    json.loads(file.read_text(), object_hook=keys.update)  # called with each mapping in the file

    assert {key for key in keys if COLUMN.fullmatch(key)} <= written
