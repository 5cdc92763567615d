"""Processes that watch each other, as threads of this one over a real store."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
import torch.distributed as dist

from commands.lifeline import LOST, Lifeline, last_words

BEAT, LIMIT = 0.05, 0.6
PATIENCE = 20.0


class Ends:
    """Takes the place of `os._exit`."""

    def __init__(self) -> None:
        self.status: int | None = None
        self.done = threading.Event()

    def __call__(self, status: int) -> None:
        self.status = status
        self.done.set()


@pytest.fixture
def server() -> dist.TCPStore:
    return dist.TCPStore(
        "127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=5)
    )


class Process:
    """What one of three processes has."""

    def __init__(self, server: dist.TCPStore, rank: int, folder: Path) -> None:
        self.ends, self.signal, self.step = Ends(), 0, 10 * (rank + 1)
        self.line = Lifeline(
            *(server.clone(), rank, ["a", "b", "c"], folder, BEAT, LIMIT),
            state=lambda: (self.step, self.signal),
            end=self.ends,
        )


@pytest.fixture
def three(server: dist.TCPStore, tmp_path: Path) -> Iterator[list[Process]]:
    processes = [Process(server, rank, tmp_path) for rank in range(3)]
    for process in processes:
        process.line.start()
    yield processes
    for process in processes:
        process.line._over.set()


def words(folder: Path, rank: int) -> str:
    return (folder / "lastwords" / f"rank-{rank}.txt").read_text()


def test_nobody_ends_who_sees_the_others(three: list[Process]) -> None:
    assert not three[0].ends.done.wait(3 * LIMIT)
    assert not any(process.ends.done.is_set() for process in three)


def test_a_silent_process_ends_the_others(three: list[Process], tmp_path: Path) -> None:
    three[1].line._over.set()  # as after SIGKILL: no leave is taken
    for rank in (0, 2):
        assert three[rank].ends.done.wait(PATIENCE)
        assert three[rank].ends.status == LOST == 75
        assert "no sign of rank 1 (on b) for 1 s, last at step 20: stopping" in words(
            tmp_path, rank
        )
    assert "rank 2" not in words(tmp_path, 0).partition("no sign of")[2]


def test_a_process_that_took_leave_is_not_missed(three: list[Process]) -> None:
    three[1].line.leave()
    assert not three[0].ends.done.wait(3 * LIMIT)
    assert not three[2].ends.done.is_set()


def test_a_process_that_failed_is_named_with_its_error(
    three: list[Process], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("commands.lifeline.GRACE", 0.1)
    three[2].line.leave("ValueError: no such thing")
    assert three[0].ends.done.wait(PATIENCE)
    assert "rank 2 (on c) stopped (ValueError: no such thing)" in words(tmp_path, 0)


def test_a_signal_is_heard_by_all(three: list[Process]) -> None:
    three[1].signal = 15
    deadline = time.monotonic() + PATIENCE
    while {three[0].line.signal, three[2].line.signal} != {15}:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_store_that_is_gone(tmp_path: Path) -> None:
    server = dist.TCPStore(
        "127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=5)
    )
    client = dist.TCPStore(
        *("127.0.0.1", server.port), is_master=False, wait_for_workers=False,
        timeout=timedelta(seconds=1),
    )  # fmt: skip
    process = Process(client, 1, tmp_path)
    server.set("alive/0", json.dumps({"beat": 1, "step": 3, "signal": 0, "word": "done"}))
    server.set("alive/2", json.dumps({"beat": 1, "step": 3, "signal": 0, "word": "done"}))
    process.line.start()
    del server
    assert process.ends.done.wait(PATIENCE)
    assert "no answer from the place where all processes meet (on a)" in words(tmp_path, 1)


def test_a_pause_of_the_process_itself_is_not_held_against_the_others(
    three: list[Process], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = time.monotonic
    monkeypatch.setattr("commands.lifeline.time.monotonic", lambda: real() + 1000.0)
    assert not three[0].ends.done.wait(2 * LIMIT)


def test_last_words_where_nothing_can_be_written(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "lastwords").write_text("a file, where the folder should be")
    last_words(tmp_path, 3, "the reason")
    said = capfd.readouterr().err
    assert "rank 3 on " in said
    assert "the reason: stopping" in said
    assert "could not be written down" in said


def test_last_words_are_kept_over_restarts(tmp_path: Path) -> None:
    last_words(tmp_path, 0, "one")
    last_words(tmp_path, 0, "two")
    assert [line.rpartition(": ")[0][-3:] for line in words(tmp_path, 0).splitlines()] == [
        "one",
        "two",
    ]
