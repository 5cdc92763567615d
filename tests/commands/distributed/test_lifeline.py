"""Processes that watch each other, as threads of this one with a real store."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
import torch.distributed as dist

from commands.distributed.heartbeat import LOST, Heartbeat, Ranks
from commands.errors import RepeatedError

BEAT, LIMIT = 0.1, 1.0  # seconds; a thread that pauses for longer counts as lost
PATIENCE = 60.0

pytestmark = pytest.mark.timing


class Ends:
    """Ends nothing, and keeps why."""

    def __init__(self) -> None:
        self.why, self.status = "", -1
        self.done = threading.Event()

    def __call__(self, why: str, status: int) -> None:
        self.why, self.status = why, status
        self.done.set()


def made_store() -> dist.TCPStore:
    return dist.TCPStore(
        "127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=5)
    )


class Process:
    """One of three processes."""

    def __init__(self, server: dist.TCPStore, rank: int) -> None:
        self.ends, self.signal, self.step = Ends(), 0, 10 * (rank + 1)
        self.heard = 0
        self.line = Heartbeat(
            server.clone(), rank, ["a", "b", "c"], BEAT, LIMIT, self.state, self.hear, self.ends
        )

    def hear(self, number: int) -> None:
        self.heard = number

    def state(self) -> dict[str, Any]:
        return {"step": self.step, "signal": self.signal}


@pytest.fixture
def three() -> Iterator[list[Process]]:
    server = made_store()
    processes = [Process(server, rank) for rank in range(3)]
    for process in processes:
        process.line.start()
    yield processes
    for process in processes:
        process.line._over.set()


def test_a_silent_process_ends_the_others(three: list[Process]) -> None:
    three[1].line._over.set()  # as after SIGKILL
    for rank in (0, 2):
        assert three[rank].ends.done.wait(PATIENCE)
        assert three[rank].ends.status == LOST == 75
        said = three[rank].ends.why
        assert re.fullmatch(
            r"no heartbeat of rank 1 \(on b\) for \d+ s, the last at its step 20", said
        )


def test_a_process_that_finished_is_not_missed(three: list[Process]) -> None:
    threading.Thread(target=three[1].line.finish, daemon=True).start()
    assert not three[0].ends.done.wait(2 * LIMIT)
    assert not three[2].ends.done.is_set()


def test_a_process_that_failed_is_named_with_its_error(
    three: list[Process], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("commands.distributed.heartbeat.GRACE", 0.1)
    three[2].line.fail("ValueError: no such thing", status=2)
    assert three[0].ends.done.wait(PATIENCE)
    assert three[0].ends.why == "rank 2 (on c) stopped (ValueError: no such thing)"
    assert three[0].ends.status == 2


def test_the_first_failure_is_the_reason_of_those_that_follow(three: list[Process]) -> None:
    three[2].line.fail("ValueError: no such thing", status=2)
    three[1].line.fail("RuntimeError: a connection broke", status=75)
    assert three[1].line.first == [2, "ValueError: no such thing", 2]


def test_a_signal_is_heard_by_all(three: list[Process]) -> None:
    three[1].signal = 15
    deadline = time.monotonic() + PATIENCE
    while {three[0].heard, three[2].heard} != {15}:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_store_that_is_gone() -> None:
    server = made_store()
    client = dist.TCPStore(
        *("127.0.0.1", server.port), is_master=False, wait_for_workers=False,
        timeout=timedelta(seconds=1),
    )  # fmt: skip
    process = Process(client, 1)
    sign = {"beat": 1, "step": 3, "signal": 0, "word": "done"}
    server.set("alive/0", json.dumps(sign))
    server.set("alive/2", json.dumps(sign))
    process.line.start()
    del server
    assert process.ends.done.wait(PATIENCE)
    assert "no answer from the shared store (on a)" in process.ends.why


def test_nobody_waits_for_the_store_after_all_have_finished() -> None:
    server = made_store()
    lines = [Process(server, rank).line for rank in range(3)]
    ends = [threading.Thread(target=line.finish) for line in lines]
    for end in ends:
        end.start()
    for end in ends:
        end.join(PATIENCE)
    del server  # rank 0 has exited
    began = time.monotonic()
    lines[1].fail("late", 1)
    assert time.monotonic() - began < 1


def test_a_broken_connection_has_the_status_of_who_failed(three: list[Process]) -> None:
    """A job that ends with a configuration error must not be started again."""
    three[2].line.fail("ConfigurationError: no such key", status=2)
    assert three[0].line.explain() == ("rank 2 (on c) stopped (ConfigurationError: no such key)", 2)


GLOO = RuntimeError(
    "[/a/third_party/gloo/gloo/transport/tcp/pair.cc:545] Read error [10.77.0.2]:59033: "
    "Connection reset by peer. This is typically caused by a remote worker hanging."
)


@pytest.fixture
def _little_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the process whose store the others use, which waits for them."""
    monkeypatch.setattr("commands.distributed.heartbeat.TOGETHER", 0.1)


@pytest.mark.usefixtures("_little_patience")
def test_a_broken_connection_is_blamed_on_who_is_lost(three: list[Process]) -> None:
    ranks = Ranks(limit=1.0, lost_after=LIMIT)
    ranks.rank, ranks.world, ranks._heartbeat = 0, 3, three[0].line
    three[1].line._over.set()
    blamed = ranks.fail(GLOO, 1)
    assert blamed is not None
    assert blamed.status == LOST
    said = str(blamed)
    assert said.startswith("rank 0 on ")
    assert "no heartbeat of rank 1 (on b)" in said
    assert "(a connection broke: Read error [10.77.0.2]:59033: Connection reset by peer.)" in said


def test_one_of_those_that_fail_alike_reports_it(three: list[Process]) -> None:
    three[2].line.fail("ValueError: no such thing", status=2)
    ranks = Ranks(limit=1.0, lost_after=LIMIT)
    ranks.rank, ranks.world, ranks._heartbeat = 1, 3, three[1].line
    with pytest.raises(RepeatedError):
        ranks.fail(ValueError("no such thing"), 2)
