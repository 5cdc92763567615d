"""One training at a time in a run's directory."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import main
from commands import run_lock
from commands.cli import EnlargerCLI
from commands.errors import ConfigurationError, TemporaryError
from commands.run_lock import alone_in, lock_of
from tests.conftest import REPO

Enlarger = Callable[..., None]
FIT = ("fit", "--config", "tiny.yaml")


class Clock:
    """Time that passes only while somebody sleeps."""

    def __init__(self) -> None:
        self.now = 0.0
        self.then: Callable[[float], None] = lambda now: None

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.then(self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(run_lock, "time", made)
    return made


@pytest.fixture
def hold(tmp_path: Path) -> Callable[[Path], subprocess.Popen[str]]:
    """Have another process hold a run's lock, with a child that it forked."""

    def start(run: Path) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", HOLDS, str(run)],
            env={**os.environ, "PYTHONPATH": str(REPO)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "held, and a child that is through\n"
        return process

    return start


HOLDS = """
import os, signal, sys
from pathlib import Path
from commands.run_lock import alone_in
with alone_in(Path(sys.argv[1])):
    child = os.fork() == 0
    if not child:
        signal.pause()
print("held, and a child that is through", flush=True)
sys.stdin.read()  # lives on for as long as the test wants it to
"""


def test_a_second_fit_of_a_run_is_refused(
    trained: Path,
    enlarger: Enlarger,
    clock: Clock,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    before = {path: path.read_bytes() for path in trained.rglob("*") if path.is_file()}
    with alone_in(trained):
        for more in ((), ("--run.overwrite", "true")):
            with pytest.raises(SystemExit) as stopped:
                main.main([*FIT, "--trainer.max_steps", "13", *more])
            assert stopped.value.code == 75
            holder = f"process {os.getpid()} on {os.uname().nodename}"
            sentence = capsys.readouterr().err.partition("error: ")[2]
            assert sentence.startswith(f"the run in runs/tiny is being trained by {holder}: wait")
            assert "--run.name NAME" in sentence
        assert before == {path: path.read_bytes() for path in before}
        assert clock.now == pytest.approx(2 * run_lock.PATIENCE, abs=1)
        told = [r for r in caplog.records if "waiting for its end" in r.getMessage()]
        assert len(told) == 2
        enlarger("test", "--config", "tiny.yaml")
        enlarger("check", "--config", "tiny.yaml")
        enlarger(*FIT, "--trainer.fast_dev_run", "true")
    enlarger(*FIT, "--trainer.max_steps", 13)
    assert not lock_of(trained).exists()


def test_it_is_free_as_soon_as_the_other_ends(tmp_path: Path, clock: Clock) -> None:
    run = tmp_path / "run"
    other = alone_in(run)
    other.__enter__()
    clock.then = lambda now: other.__exit__(None, None, None) if now > 3 and not done() else None

    def done() -> bool:
        return not lock_of(run).exists()

    with alone_in(run):
        assert 3 < clock.now < 4
        assert lock_of(run).exists()
    assert done()


def test_a_killed_run_frees_it_though_its_workers_live(
    tmp_path: Path, hold: Callable[[Path], subprocess.Popen[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_lock, "PATIENCE", 0.0)
    process = hold(tmp_path / "run")
    with (
        pytest.raises(TemporaryError, match=f"by process {process.pid} on"),
        alone_in(tmp_path / "run"),
    ):
        pass
    process.send_signal(signal.SIGKILL)
    process.wait()
    with alone_in(tmp_path / "run"):
        pass
    process.communicate()  # now its child ends, too


def test_a_lock_that_its_holder_removes_is_none(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Opened before the holder ended, and locked after it: anybody could make another one."""
    flock, path = fcntl.flock, lock_of(tmp_path / "run")

    def removed(descriptor: int, operation: int) -> None:
        monkeypatch.setattr(fcntl, "flock", flock)
        path.unlink()
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", removed)
    with alone_in(tmp_path / "run"):
        assert clock.now == run_lock.LOOK  # it has tried twice
        assert path.exists()


def test_a_disk_without_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def flock(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    with caplog.at_level(logging.WARNING), alone_in(tmp_path / "run"), alone_in(tmp_path / "run"):
        assert "No locks available" in caplog.text


@pytest.mark.parametrize("kind", [TemporaryError, ConfigurationError])
def test_several_processes_end_with_the_status_of_the_first(kind: type[Exception]) -> None:
    def meet(*args: Any) -> None:
        raise ConfigurationError(f"the processes cannot run together:\n  {cli._refusal}")

    cli = EnlargerCLI.__new__(EnlargerCLI)
    cli._refusal = kind("another one trains")
    cli.resumed_from = None
    cli.trainer = SimpleNamespace(is_global_zero=True)  # type: ignore[assignment]
    cli._facts = dict  # type: ignore[method-assign]
    cli.company = SimpleNamespace(may_meet=lambda trainer: True, meet=meet)  # type: ignore[assignment]
    with pytest.raises(kind, match="another one trains"):
        cli._meet()
