"""Evaluations of one run that end at the same moment keep each other's numbers."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from callbacks.metrics.pixels import PSNR
from callbacks.results import files as results_files
from callbacks.results.files import read_file
from callbacks.results.results import Results
from files.locks import lock
from tests.callbacks.tiny import Images, Tiny, loader, trainer


def evaluate(run: Path, dataset: str) -> None:
    callbacks = [PSNR(), Results()]
    trainer(run, *callbacks).test(Tiny(), loader(Images(2, dataset)), verbose=False)


def test_nothing_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second one starts when the first has read the files, but not yet written them."""
    there, original = threading.Event(), results_files._retrained

    def second() -> None:
        try:
            evaluate(tmp_path, "b")
        finally:
            there.set()

    thread = threading.Thread(target=second)

    def announced(descriptor: int) -> None:
        if threading.current_thread() is thread:
            there.set()  # it waits for the first one
        lock(descriptor)

    def with_a_second(*args: Any) -> Any:
        found = original(*args)
        if threading.current_thread() is not thread and not thread.ident:
            thread.start()
            assert there.wait(60)
        return found

    monkeypatch.setattr(results_files, "lock", announced)
    monkeypatch.setattr(results_files, "_retrained", with_a_second)
    evaluate(tmp_path, "a")
    thread.join(60)
    assert not thread.is_alive()
    both = {"a", "b"}
    assert {row.dataset for row in read_file(tmp_path / "results.json")} == both
    assert {row.dataset for row in read_file(tmp_path / "images.json")} == both
