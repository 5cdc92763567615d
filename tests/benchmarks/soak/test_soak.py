"""The soak: its plan, its comparison and its slopes; and one of two minutes with every fault."""

from __future__ import annotations

import json
import os
import random
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch

from benchmarks.soak.__main__ import soak
from benchmarks.soak.faults import KINDS, Fault, plan
from benchmarks.soak.numbers import (
    FAULTS,
    SETTLED,
    WARM,
    by_kind,
    compare,
    kinds_of,
    slope_of,
    slopes,
    together,
    undecided,
    verdict,
)
from benchmarks.soak.parts import TRACE, Board, NotANumber, Trace, handed_out
from benchmarks.soak.run import Run, Usage, damage, prepare
from degradations.draws import Draws
from tests.datamodules.shards.test_shards import indexed, write


def test_each_kind_comes_once_before_any_comes_again() -> None:
    faults = plan(KINDS, 10_000, 100.0, seed=3)
    assert faults == plan(KINDS, 10_000, 100.0, seed=3)
    assert {fault.kind for fault in faults[: len(KINDS)]} == set(KINDS)
    assert {fault.kind for fault in faults[len(KINDS) : 2 * len(KINDS)]} == set(KINDS)
    places = np.array([fault.place for fault in faults])
    assert (np.diff(places) >= 49).all()
    assert 50 < np.diff(places).mean() < 150
    assert places[-1] < 10_000


def test_the_board_is_one_for_all(tmp_path: Path) -> None:
    ours, theirs = Board(tmp_path / "board"), Board(tmp_path / "board")
    ours.write(0, -3600.5)
    theirs.write(1, 7)
    assert ours.read() == theirs.read() == (-3600.5, 7, 0, 0, 0.0)


def test_a_slow_disk_is_slow_for_reads_and_flushes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []
    for name in ("pread", "fsync"):
        monkeypatch.setattr(os, name, getattr(os, name))  # what it was comes back
    monkeypatch.setattr(time, "time", time.time)
    monkeypatch.setattr(time, "sleep", slept.append)
    board = Trace(str(tmp_path)).board
    with (tmp_path / "file").open("wb+") as file:
        file.write(b"pixels")
        file.flush()
        os.fsync(file.fileno())
        board.write(4, 0.25)
        os.fsync(file.fileno())
        assert os.pread(file.fileno(), 3, 2) == b"xel"
    assert slept == [0.25, 0.25]


def test_what_malloc_has_handed_out() -> None:
    """Not what is free in its heap, by which resident memory is more."""
    before = handed_out()
    if not before:
        pytest.skip("mallinfo2 came with glibc 2.33")
    pieces = [bytes(1 << 20) for _ in range(50)]
    assert 50 << 20 <= handed_out() - before < 60 << 20
    del pieces
    assert handed_out() - before < 10 << 20


def test_a_bad_sample_is_bad_by_its_seed() -> None:
    stage, x = NotANumber(0.3), torch.rand(64, 3, 4, 4)
    params = stage.draw(Draws(torch.arange(64)), x.shape)
    y = stage(x, {"wrong": torch.from_numpy(params["wrong"])})
    wrong = torch.from_numpy(params["wrong"])
    assert 5 < wrong.sum() < 40
    assert y[wrong].isnan().all()
    assert torch.equal(y[~wrong], x[~wrong])
    alone = stage.draw(Draws(torch.tensor([5])), x.shape)["wrong"]
    assert alone[0] == params["wrong"][5]


def test_damage_keeps_size_and_time(tmp_path: Path) -> None:
    tar = write(tmp_path / "a.tar", [("a.png", bytes(1000)), ("b.png", bytes(1000))])
    indexed(tar)
    before, state = tar.read_bytes(), tar.stat()
    damage(tar, random.Random(0))
    changed = [i for i, (a, b) in enumerate(zip(before, tar.read_bytes(), strict=True)) if a != b]
    assert len(changed) == 16
    assert (tar.stat().st_size, tar.stat().st_mtime_ns) == (state.st_size, state.st_mtime_ns)


def trace(folder: Path, *starts: str) -> Path:
    (folder / TRACE).mkdir(parents=True)
    for number, text in enumerate(starts):
        (folder / TRACE / f"start-{number:03d}.txt").write_text(text)
    return folder


def test_two_runs_are_compared_batch_by_batch(tmp_path: Path) -> None:
    whole = trace(tmp_path / "whole", "1 a s1 0 0\n2 b s1 1 0\n3 c s2 1 1\n")
    harmed = trace(tmp_path / "harmed", "1 a s1 0 0\n2 b s1 1 0\n3 c", "2 b s1 1 0\n3 c s2 1 1\n")
    found = compare(harmed, whole)
    assert found["batches whose crops or state differ from the undisturbed run's"] == 0
    assert found["batches that differed when they were repeated"] == 0
    assert (found["batches"], found["batches done, repeated ones included"]) == (3, 4)
    assert found["states that are distinct"] == 2
    assert (found["steps left out"], found["samples replaced"]) == ([1, 1], [1, 1])

    other = trace(tmp_path / "other", "1 a s1 0 0\n2 b s1 1 0\n", "2 b s9 1 0\n")
    found = compare(other, whole)
    assert found["batches whose crops or state differ from the undisturbed run's"] == 2
    assert found["the first of them"] == 2
    assert found["batches that differed when they were repeated"] == 1


def test_a_slope_within_groups() -> None:
    chance = np.random.default_rng(0)
    points = [
        (start, seconds, 1000.0 * start + 4.0 * seconds / 3600 + 0.1 * chance.normal())
        for start in range(5)
        for seconds in range(3600 * start, 3600 * start + 1800, 60)
    ]
    found = slope_of(points)
    assert found is not None
    assert found["low"] < 4.0 < found["high"]
    assert found["high"] - found["low"] < 0.5
    assert found["points"] == 150
    assert slope_of(points[:2]) is None
    whole = slope_of([(0, seconds, value) for _, seconds, value in points])
    assert whole is not None
    assert whole["slope"] > 900  # from group to group


def test_what_grows_is_said() -> None:
    looks = []
    for age in range(0, 7200, 5):
        # A validation's workers come and go, later on two at a time: that is no growth.
        passing = {100 + age // 80: 50, **({101 + age // 80: 50} if age > 3600 else {})}
        memory = {7: int(9e8 + 20e6 * age / 3600), 8: int(1e8), **passing}
        used = {7: int(2e8 + 20e6 * age / 3600)}
        opened = {7: Counter(pipes=40), 8: Counter(pipes=50, sockets=10 if age < 600 else 12)}
        opened |= {number: Counter(shards=count) for number, count in passing.items()}
        looks.append(Usage(1, age, age, memory, used, opened, 9))
    points = together(looks, "memory", WARM)
    assert {value for *_, value in together(looks, "descriptors", WARM)} == {100, 102}
    assert kinds_of(looks, WARM) == {"pipes": [90, 90, 90], "sockets": [10, 12, 12]}
    assert len(points) == (7200 - WARM) // 30
    growth = slopes(looks, looks, WARM, SETTLED)
    assert growth["memory"]["within processes"] is growth["used"]["within processes"] is None
    results: dict[str, Any] = {
        "same": {
            "batches that differed when they were repeated": 0,
            "batches whose crops or state differ from the undisturbed run's": 1,
        },
        "final checkpoint is bit-equal": True,
        "faults": by_kind([line("kill", -9, True), line("clock", 1, False), line("nothing", 1)]),
        "growth an hour": growth,
    }
    assert verdict(results) == [
        "batches whose crops or state differ from the undisturbed run's",
        "clock: not as expected",
        "nothing: not as expected",
        "memory undisturbed: grows by at least 20 MB an hour",
        "used undisturbed: grows by at least 20 MB an hour",
    ]
    none = [f"{what} over restarts: too few looks" for what in growth]  # there is one process
    assert undecided(growth) == none
    growth["descriptors"]["undisturbed"] = {"low": -1.0, "high": 1.1}
    growth["memory"]["over restarts"] = {"low": -20.0, "high": 30.0}
    assert undecided(growth) == [
        "memory over restarts: up to 30 MB an hour",
        "descriptors undisturbed: up to 1.1 descriptors an hour",
        *none[1:],
    ]
    for least, wrong in ((FAULTS - 1, 5), (FAULTS + 1, 6)):
        growth["descriptors"]["within processes"] = {"low": least}
        assert len(verdict(results)) == wrong


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux says which files are open")
def test_shards_in_the_cache_are_not_counted_and_removed_ones_are(tmp_path: Path) -> None:
    run = Run(tmp_path, "")
    run.cache.mkdir(parents=True)
    before = run._open_in(psutil.Process())
    kept, removed = run.cache / "a.tar", run.cache / "b.tar"
    with kept.open("wb"), removed.open("wb"):
        assert run._open_in(psutil.Process()) == before
        removed.unlink()
        assert run._open_in(psutil.Process()) == before + Counter(shards=1)


def line(kind: str, status: int | None, expected: bool = False) -> dict[str, Any]:
    return {"kind": kind, "status": status, "expected": expected}


@pytest.mark.slow
@pytest.mark.distributed
def test_every_fault_once(tmp_path: Path) -> None:
    """Minutes on a quiet machine; what is waited for are batches, so a busy one takes longer."""
    steps = 300
    prepare(tmp_path, steps, seed=0)
    kinds = list(KINDS)
    random.Random(0).shuffle(kinds)
    faults = [Fault(kind, 20 + 28 * number) for number, kind in enumerate(kinds)]
    results = soak(tmp_path, steps, faults, seed=0, seconds=3.0)
    assert results["same"]["batches"] >= steps
    assert results["same"]["states that are distinct"] == results["same"]["batches"]
    assert results["same"]["steps left out"][0] >= 1
    assert results["same"]["samples replaced"][0] >= 1
    happened = set(KINDS) if results["a disk of its own"] else {k for k in KINDS if "disk" not in k}
    assert set(results["faults"]) == happened
    wrong = [text for text in results["what is wrong"] if "grows" not in text]
    assert not wrong, json.dumps(results, indent=1)
