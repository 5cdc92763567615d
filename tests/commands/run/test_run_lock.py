"""One training at a time in a run directory."""

from __future__ import annotations

import errno
import fcntl
import logging
import multiprocessing
import os
import signal
import stat
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

import main
from commands.errors import TemporaryError
from commands.run import directory as run_lock
from commands.run.directory import RunDirectory, alone_in
from commands.run.folder_lock import HOLDER

Enlarger = Callable[..., None]
FORK = multiprocessing.get_context("fork")  # without the seconds of an import
FIT = ("fit", "--config", "tiny.yaml")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for a lock for a moment only."""
    monkeypatch.setattr(run_lock, "SILENT_SECONDS", 0.1)
    monkeypatch.setattr(run_lock, "LOCK_SECONDS", 0.3)
    monkeypatch.setattr(run_lock, "POLL_SECONDS", 0.01)


def hold(run: Path, end: Connection[Any, Any]) -> None:
    """Hold a run's lock, with a child that leaves it and lives until it is asked to end."""
    with alone_in(run):
        child = os.fork() == 0
        if not child:
            signal.pause()
    end.send("held, and the child is out")
    end.poll(60)
    os._exit(0)


def test_a_second_fit_of_a_run_is_refused(
    trained: Path,
    enlarger: Enlarger,
    quick: None,
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
        waits = [r for r in caplog.records if "waiting for it to end" in r.getMessage()]
        assert len(waits) == 2
        enlarger("check", "--config", "tiny.yaml")
        enlarger(*FIT, "--trainer.fast_dev_run", "true")
    enlarger(*FIT, "--trainer.max_steps", 13)
    assert not (trained / HOLDER).exists()


def test_a_killed_run_frees_it_though_its_workers_live(tmp_path: Path, quick: None) -> None:
    mine, other = FORK.Pipe()
    process = FORK.Process(target=hold, args=(tmp_path / "run", other))
    process.start()
    assert mine.recv() == "held, and the child is out"
    with (
        pytest.raises(TemporaryError, match=f"by process {process.pid} on"),
        alone_in(tmp_path / "run"),
    ):
        pass
    process.kill()
    process.join()
    with alone_in(tmp_path / "run"):
        pass
    assert not mine.poll()
    mine.send("end")


def on_files_alone(descriptor: int, operation: int, flock: Any = fcntl.flock) -> None:
    """Lock as NFS does."""
    if stat.S_ISDIR(os.fstat(descriptor).st_mode):
        raise OSError(errno.EBADF, "Bad file descriptor")
    flock(descriptor, operation)


@pytest.mark.parametrize("name", ["alias", "links/run", "../runs/run", "by/../../runs/run"])
@pytest.mark.parametrize("nfs", [False, True])
def test_a_run_by_any_name(
    tmp_path: Path, quick: None, monkeypatch: pytest.MonkeyPatch, name: str, nfs: bool
) -> None:
    if nfs:
        monkeypatch.setattr(fcntl, "flock", on_files_alone)
    runs = tmp_path / "runs"
    (runs / "by").mkdir(parents=True)
    (runs / "alias").symlink_to("run")
    (runs / "links").symlink_to(runs)
    with alone_in(runs / "run"), pytest.raises(TemporaryError), alone_in(runs / name):
        pass
    with alone_in(runs / name):
        pass


def test_the_folder_that_replaces_a_run_is_locked_too(tmp_path: Path, quick: None) -> None:
    run = RunDirectory(tmp_path / "run")
    with run.alone():
        run.path.joinpath("config.yaml").touch()
        run.move_aside()
        with pytest.raises(TemporaryError), alone_in(tmp_path / "run"):
            pass
    (aside,) = tmp_path.iterdir()
    assert [path.name for path in aside.iterdir()] == ["config.yaml"]


def test_a_disk_without_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def flock(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    with caplog.at_level(logging.WARNING), alone_in(tmp_path / "run"), alone_in(tmp_path / "run"):
        assert "No locks available" in caplog.text
