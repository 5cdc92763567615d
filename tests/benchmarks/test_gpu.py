"""Every command for a GPU is one that can be run; a folder that is not there is no error."""

from __future__ import annotations

from pathlib import Path
from subprocess import CompletedProcess

import pytest
import torch

from benchmarks import gpu, report
from benchmarks.gpu import COMMANDS, Command, failed, main, read_done
from tests.conftest import REPO
from tests.docs.parsed import parsed

OWN = [command.words for command in COMMANDS if "pytest" not in command.words]


@pytest.mark.slow  # the process in which modules are run takes seconds to start
@pytest.mark.parametrize("words", OWN)
def test_every_module_takes_its_options(words: str) -> None:
    """By its own parser."""
    words = words.replace("$ENLARGER_PEERS", "peers").replace("$ENLARGER_DATA", "data")
    assert parsed(words.split(), REPO, {}) == "ok"


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


def test_a_command_without_its_folder_is_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = Command("it", "-c 'raise\tSystemExit(3)'", ("$ENLARGER_DATA/photographs",))
    monkeypatch.delenv("ENLARGER_DATA", raising=False)
    monkeypatch.setattr(gpu, "DONE", tmp_path / "done.json")
    assert not failed(command, {})
    monkeypatch.setenv("ENLARGER_DATA", str(tmp_path))
    assert not failed(command, {})
    skipped = "it: skipped, because there is no $ENLARGER_DATA/photographs\n"
    assert capsys.readouterr().out == 2 * skipped
    (tmp_path / "photographs").mkdir()
    assert failed(command, {})
    assert "it: status 3" in capsys.readouterr().out
    assert not gpu.DONE.exists()


def test_what_is_done_is_not_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gpu, "DONE", tmp_path / "runs" / "done.json")
    monkeypatch.setattr(gpu, "commit", lambda: "abc")
    command = Command("it", "-c pass")
    assert not failed(command, read_done())
    assert not failed(command, read_done())
    assert [line.split(",")[0] for line in capsys.readouterr().out.splitlines()] == [
        "it: status 0",
        "it: done before",
    ]
    monkeypatch.setattr(gpu, "commit", lambda: "another")
    assert read_done() == {}


def test_what_takes_too_long_is_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gpu, "DONE", tmp_path / "done.json")
    assert failed(Command("it", "-c 'import time; time.sleep(600)'"), {}, 0.2)
    assert "it: stopped after 0.2 s" in capsys.readouterr().out
    assert not gpu.DONE.exists()


def test_a_dry_run_names_what_it_skips(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("ENLARGER_PEERS", "ENLARGER_DATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(gpu.subprocess, "run", lambda words, **_: CompletedProcess(words, 0))
    assert main(["--pretend"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(COMMANDS)
    ran = [line for line in lines if line.endswith("status 0 on the pretended device")]
    assert len(ran) == 3
    assert all("skipped, because" in x for x in lines if x not in ran)
    monkeypatch.setattr(gpu.subprocess, "run", lambda words, **_: CompletedProcess(words, 1))
    assert main(["--pretend"]) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "module",
    [f"benchmarks.speed.{name}" for name in ("sampling", "invsr")],
)
def test_a_dry_run(module: str, capfd: pytest.CaptureFixture[str]) -> None:
    """The script whole, on the pretended device; the committed numbers stay."""
    name = module.rpartition(".")[2]
    kept = report.RESULTS / f"{name}_cuda.json"
    before = kept.read_bytes() if kept.exists() else None
    assert main(["--pretend", "--only", f"{module}"]) == 0
    printed = capfd.readouterr().out
    assert "status 0 on the pretended device" in printed
    assert '"gpu": "pretended"' in printed
    assert (kept.read_bytes() if kept.exists() else None) == before


def test_what_is_measured_on_a_gpu_overwrites_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    written = [report.write_report("loop", {}, 0, device=device) for device in ("cpu", "cuda")]
    assert [path.name for path in written] == ["loop.json", "loop_cuda.json"]
