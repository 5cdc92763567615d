"""Rows for a GPU can be run, in the order of their value, and end within their budget."""

from __future__ import annotations

from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
import torch

from benchmarks import gpu, report
from benchmarks.gpu import ROWS, Row, main, measured
from tests.conftest import REPO
from tests.docs.parsed import parsed


@pytest.mark.slow  # the process in which modules are run takes seconds to start
@pytest.mark.parametrize("row", [row for row in ROWS if "pytest" not in row.words], ids=str)
def test_every_module_takes_its_options(row: Row) -> None:
    """By its own parser."""
    words = row.words.replace("$ENLARGER_PEERS", "peers").replace("$ENLARGER_DATA", "data")
    assert parsed(words.split(), REPO, {}) == "ok"


@pytest.mark.skipif(torch.cuda.is_available(), reason="it would run them")
def test_without_a_gpu_commands_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--only", "benchmarks.speed.streaming"]) == 0
    printed = capsys.readouterr().out
    assert "no GPU" in printed
    assert "needs $ENLARGER_DATA/bsds400" in printed


@pytest.fixture
def done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setattr(gpu, "DONE", tmp_path / "rows.json")
    monkeypatch.setattr(gpu, "commit", lambda: "abc")
    monkeypatch.setattr(gpu, "PATIENCE", 0.2)
    return {}


def test_a_row_ends_by_itself_or_is_ended(done: dict[str, Any]) -> None:
    deaf = "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(600)"
    rows = [
        Row("missing", "-c pass", needs=("$ENLARGER_DATA/nothing",)),
        Row("whole", "-c pass"),
        Row("broken", "-c 'raise SystemExit(3)'"),
        Row("long", f"-c '{deaf}'", limit=1.0),
    ]
    ended = measured(rows, 100.0, done)
    assert {name: how.split()[0] for name, how in ended.items()} == {
        "missing": "skipped:",
        "whole": "done",
        "broken": "status",
        "long": "stopped",
    }
    assert list(done) == ["whole"]
    assert measured(rows[1:2], 100.0, gpu.read_done()) == {"whole": "done before"}


def test_no_row_is_begun_without_time(done: dict[str, Any]) -> None:
    assert measured([Row("late", "-c pass")], 1.0, done)["late"].startswith("not begun")


def test_a_row_of_another_commit_is_repeated(
    done: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    measured([Row("whole", "-c pass")], 100.0, done)
    monkeypatch.setattr(gpu, "commit", lambda: "another")
    assert gpu.read_done() == {}


@pytest.mark.parametrize("status", [0, 1])
def test_how_the_pretended_device_ends_is_told(
    status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu.subprocess, "run", lambda words, **_: CompletedProcess(words, status))
    assert main(["--pretend"]) == status


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sampling", "InvSR"])
def test_a_dry_run(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    """The script whole, on the pretended device; the committed numbers stay."""
    before = {path: path.read_bytes() for path in report.RESULTS.glob("*.json")}
    assert main(["--pretend", "--only", name]) == 0
    printed = capfd.readouterr().out
    assert "status 0 on the pretended device" in printed
    assert '"gpu": "pretended"' in printed
    assert {path: path.read_bytes() for path in report.RESULTS.glob("*.json")} == before


def test_what_is_measured_on_a_gpu_overwrites_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "RESULTS", tmp_path)
    written = [report.write_report("loop", {}, 0, device=device) for device in ("cpu", "cuda")]
    assert [path.name for path in written] == ["loop.json", "loop_cuda.json"]
