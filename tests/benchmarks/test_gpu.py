"""Every command for a GPU is one that can be run; a folder that is not there is no error."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks import report
from benchmarks.gpu import COMMANDS, Command, failed, main
from tests.conftest import REPO
from tests.docs.parsed import parsed

OWN = [command for command in COMMANDS if "pytest" not in command.words]


@pytest.mark.parametrize("command", OWN, ids=lambda command: command.words)
def test_every_command_takes_its_options(command: Command) -> None:
    """By the parser of the module itself, and for `main.py` with its values."""
    words = command.words.replace("$ENLARGER_PEERS", "peers").replace("$ENLARGER_DATA", "data")
    assert parsed(words.split(), REPO, {"ENLARGER_DATA": "data"}) == "ok"


@pytest.mark.skipif(torch.cuda.is_available(), reason="it would run them")
def test_without_a_gpu_commands_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--only", "benchmarks.speed.streaming"]) == 0
    printed = capsys.readouterr().out
    assert "no GPU" in printed
    assert "needs $ENLARGER_DATA/bsds400, $ENLARGER_DATA/kodak24" in printed
    assert [line for line in printed.splitlines() if line.startswith("python ")] == [
        "python -m benchmarks.speed.streaming $ENLARGER_DATA/bsds400 $ENLARGER_DATA/kodak24 "
        "--device cuda"
    ]


def test_a_command_without_its_folder_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = Command("it", "-c 'raise\tSystemExit(3)'", ("$ENLARGER_DATA/photographs",))
    monkeypatch.delenv("ENLARGER_DATA", raising=False)
    assert not failed(command)
    monkeypatch.setenv("ENLARGER_DATA", str(tmp_path))
    assert not failed(command)
    passed_over = "it: passed over, for there is no $ENLARGER_DATA/photographs\n"
    assert capsys.readouterr().out == 2 * passed_over
    (tmp_path / "photographs").mkdir()
    assert failed(command)
    assert "it: status 3" in capsys.readouterr().out


def test_what_is_measured_on_a_gpu_overwrites_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Runs of `main.py` are in a folder of their own, numbers in files of their own."""
    for command in COMMANDS:
        if command.words.startswith("main.py"):
            assert "--run.root runs/cuda " in f"{command.words} "
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    written = [report.write_report("loop", {}, 0, device=device) for device in ("cpu", "cuda")]
    assert [path.name for path in written] == ["loop.json", "loop_cuda.json"]
