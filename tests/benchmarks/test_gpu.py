"""What a GPU would be asked exists, and one that is not there is no error."""

from __future__ import annotations

import importlib.util

import pytest
import torch

from benchmarks.gpu import COMMANDS, main
from tests.conftest import REPO


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.words)
def test_every_command_names_what_is_there(command) -> None:
    words = command.words.split()
    files = [word for word in words if word.endswith((".py", ".yaml"))]
    assert [file for file in files if not (REPO / file).is_file()] == []
    if words[0] == "-m":
        assert importlib.util.find_spec(words[1]) is not None


@pytest.mark.skipif(torch.cuda.is_available(), reason="it would run them")
def test_without_a_gpu_commands_are_printed(capsys) -> None:
    assert main(["--only", "benchmarks.sampling"]) == 0
    printed = capsys.readouterr().out
    assert "no GPU" in printed
    assert [line for line in printed.splitlines() if line.startswith("python ")] == [
        "python -m benchmarks.sampling --device cuda --repeats 50"
    ]


def test_folders_that_are_needed_are_named() -> None:
    needs = {command.what: command.needs for command in COMMANDS}
    assert needs["reading against the limit and other loaders"] == ["ENLARGER_DATA"] * 2
    assert needs["sampling against plain loops"] == []
