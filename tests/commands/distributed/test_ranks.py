"""Processes that end together, as threads of this one with a real store."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta

import pytest
import torch.distributed as dist

from callbacks.evaluation import FailedElsewhereError
from commands.distributed import ranks
from commands.distributed.ranks import LOST, Ranks, is_broken_link, seconds_after_launcher
from commands.errors import TemporaryError

PATIENCE = 60.0
GLOO = RuntimeError(
    "[/a/third_party/gloo/gloo/transport/tcp/pair.cc:545] Read error [10.77.0.2]:59033: "
    "Connection reset by peer. This is typically caused by a remote worker hanging."
)
Start = Callable[[dist.TCPStore, int], "Process"]


class Process(Ranks):
    """One process, which notes its end."""

    def __init__(self, store: dist.TCPStore, rank: int) -> None:
        super().__init__(limit=PATIENCE)
        self.rank, self.met = rank, True
        self.ended = threading.Event()
        self.status = 0
        threading.Thread(target=self._listen, args=(store.clone(),), daemon=True).start()

    def _exit(self, reason: str, status: int) -> None:
        self.status = status
        self.ended.set()


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> dist.TCPStore:
    monkeypatch.setattr(ranks, "POLL_SECONDS", 0.02)
    monkeypatch.setattr(ranks, "LAST_SECONDS", 0.0)
    return dist.TCPStore(
        "127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=5)
    )


def test_a_failure_ends_the_others_with_its_status(store: dist.TCPStore) -> None:
    first, second, third = (Process(store, rank) for rank in range(3))
    assert second.fail(ValueError("no such key"), 2) is None
    assert first.ended.wait(PATIENCE)
    assert third.ended.wait(PATIENCE)
    assert (first.status, third.status) == (2, 2)
    assert str(first.first).endswith("stopped: no such key")


@pytest.mark.parametrize("error", [GLOO, FailedElsewhereError("no such key")])
def test_what_follows_from_a_failure_has_its_status(store: dist.TCPStore, error: Exception) -> None:
    """A job that ends with a configuration error must not be started again."""
    first, second = (Process(store, rank) for rank in range(2))
    second.fail(ValueError("no such key"), 2)
    reason = first.fail(error, 1)
    assert isinstance(reason, TemporaryError)
    assert reason.status == 2


def test_a_lost_connection_without_a_reason(store: dist.TCPStore) -> None:
    reason = Process(store, 0).fail(GLOO, 1)
    assert isinstance(reason, TemporaryError)
    assert reason.status == LOST == 75
    assert "lost (Read error [10.77.0.2]:59033: Connection reset by peer.)" in str(reason)


def test_an_error_that_names_a_path_is_no_lost_connection() -> None:
    assert not is_broken_link(RuntimeError("/data/igloo/1.png cannot be read"))


def test_a_process_that_lightning_started_ends_after_the_first_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The first one takes up to 2.5 s; then its launcher's thread may kill it."""
    assert seconds_after_launcher() == 0
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert seconds_after_launcher() > 2.5


def test_one_of_those_that_fail_alike_says_why(store: dist.TCPStore) -> None:
    first, second = (Process(store, rank) for rank in range(2))
    second.fail(ValueError("no such key"), 2)
    reason = first.fail(ValueError("no such key"), 2)
    assert isinstance(reason, TemporaryError)
    assert "no such key" not in str(reason)


def test_a_store_that_is_gone(store: dist.TCPStore) -> None:
    server = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    process = Process(server, 1)
    del server
    assert process.ended.wait(PATIENCE)
    assert process.status == LOST
