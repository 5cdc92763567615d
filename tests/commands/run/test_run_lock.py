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
from lightning.pytorch import Callback, Trainer

import main
from commands.errors import TemporaryError
from commands.run import directory as run_lock
from commands.run.directory import RunDirectory, alone_in
from commands.run.folder_lock import HOLDER

Enlarger = Callable[..., None]
FORK = multiprocessing.get_context("fork")  # without the seconds of an import
PATIENCE = 0.3  # seconds
FIT = ("fit", "--config", "tiny.yaml")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for a lock for a moment only."""
    monkeypatch.setattr(run_lock, "SILENT_SECONDS", 0.1)
    monkeypatch.setattr(run_lock, "POLL_SECONDS", 0.01)
    monkeypatch.setattr("commands.table.LOCK_SECONDS", 0.4)


def hold(run: Path, end: Connection[Any, Any]) -> None:
    """Hold a run's lock, with a child that leaves it and lives until it is asked to end."""
    with alone_in(run, PATIENCE):
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
    with alone_in(trained, PATIENCE):
        for more in ((), ("--run.overwrite", "true")):
            with pytest.raises(SystemExit) as stopped:
                main.main([*FIT, "--trainer.max_steps", "13", *more])
            assert stopped.value.code == 75
            holder = f"process {os.getpid()} on {os.uname().nodename}"
            assert f"{holder} writes to runs/tiny" in capsys.readouterr().err
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
        pytest.raises(TemporaryError, match=f"process {process.pid} on"),
        alone_in(tmp_path / "run", PATIENCE),
    ):
        pass
    process.kill()
    process.join()
    with alone_in(tmp_path / "run", PATIENCE):
        pass
    assert not mine.poll()
    mine.send("end")


class Moves(Callback):
    """Move the run's folder after the third step, and let another one take its place."""

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        if trainer.global_step == 3:
            Path("runs/tiny").rename("runs/other")
            Path("runs/tiny").mkdir()


def test_a_run_whose_folder_is_moved_writes_to_no_other(
    tiny: Path, refusal: Callable[..., str]
) -> None:
    sentence = refusal(*FIT, "--trainer.callbacks+", f"{__name__}.Moves")
    assert "runs/tiny was moved" in sentence
    assert list(Path("runs/tiny").iterdir()) == []


class MovesEarly(Callback):
    """Do so before the command is set up."""

    def setup(self, *args: Any, **kwargs: Any) -> None:
        Path("runs/tiny").rename("runs/other")
        Path("runs/tiny").mkdir()


def test_numbers_go_to_no_folder_that_takes_the_place_of_the_run(
    trained: Path, refusal: Callable[..., str]
) -> None:
    moves = ("--trainer.callbacks+", f"{__name__}.MovesEarly")
    assert "runs/tiny was moved" in refusal("test", "--config", "tiny.yaml", *moves)
    assert list(trained.iterdir()) == []


def test_one_predict_at_a_time_in_a_folder(
    tiny: Path, photo_folder: Path, enlarger: Enlarger, quick: None
) -> None:
    predict = ("predict", *FIT[1:], "--model", "lightning_modules.Bicubic")
    command = (*predict, "--data.predict", photo_folder, "--writer.folder", "out")
    with alone_in(Path("out"), PATIENCE), pytest.raises(SystemExit) as stopped:
        enlarger(*command)
    assert stopped.value.code == 75
    enlarger(*command)
    assert len(list(Path("out").glob("*.png"))) == 10


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
    with (
        alone_in(runs / "run", PATIENCE),
        pytest.raises(TemporaryError),
        alone_in(runs / name, PATIENCE),
    ):
        pass
    with alone_in(runs / name, PATIENCE):
        pass


def test_the_folder_that_replaces_a_run_is_locked_too(tmp_path: Path, quick: None) -> None:
    run = RunDirectory(tmp_path / "run")
    with run.alone(PATIENCE):
        run.path.joinpath("config.yaml").touch()
        run.move_aside()
        with pytest.raises(TemporaryError), alone_in(tmp_path / "run", PATIENCE):
            pass
    (aside,) = tmp_path.iterdir()
    assert [path.name for path in aside.iterdir()] == ["config.yaml"]


def test_a_disk_without_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def flock(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    with (
        caplog.at_level(logging.WARNING),
        alone_in(tmp_path / "run", PATIENCE),
        alone_in(tmp_path / "run", PATIENCE),
    ):
        assert "No locks available" in caplog.text
