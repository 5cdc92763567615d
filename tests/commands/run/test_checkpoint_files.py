"""A process killed while writing leaves the newest complete checkpoint."""

from __future__ import annotations

import json
import logging
import multiprocessing
import random
import time
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from commands.run.files import (
    best_or_newest,
    checksum_of,
    file_hash,
    fingerprint,
    is_whole,
    list_checkpoints,
    newest_whole,
    write_whole,
)

FORK = multiprocessing.get_context("fork")  # without the seconds of an import


def write_steps(folder: Path, first: int, said: Connection[Any, Any]) -> None:
    for step in range(first, first + 100000):
        content = step.to_bytes(8, "little") * 40000
        write_whole(folder / f"step-{step:09d}.ckpt", lambda file, c=content: file.write(c))
        said.send(step)


def test_killed_at_any_moment(tmp_path: Path) -> None:
    chance, reported = random.Random(3), -1
    for _ in range(12):
        heard, said = FORK.Pipe(duplex=False)
        process = FORK.Process(target=write_steps, args=(tmp_path, reported + 1, said))
        process.start()
        said.close()
        last = heard.recv()
        time.sleep(chance.uniform(0.0, 0.02))
        process.kill()
        process.join()
        with suppress(EOFError):
            while True:
                last = heard.recv()
        found = newest_whole(tmp_path)
        assert found is not None
        step = int(found.stem.removeprefix("step-"))
        assert step in (last, last + 1)  # killed after the rename, before it was reported
        assert found.read_bytes() == step.to_bytes(8, "little") * 40000
        assert found == list_checkpoints(tmp_path)[0]  # a named file is always complete
        reported = step


def test_two_processes_write_the_same_name(tmp_path: Path) -> None:
    """The second write begins and ends in the middle of the first."""
    path = tmp_path / "step-000000001.ckpt"

    def write(file: BinaryIO) -> None:
        file.write(b"A" * 50000)
        file.flush()
        other = FORK.Process(target=write_whole, args=(path, lambda f: f.write(b"B" * 100000)))
        other.start()
        other.join()
        assert other.exitcode == 0
        assert is_whole(path)
        assert path.read_bytes() == b"B" * 100000
        file.write(b"A" * 50000)

    write_whole(path, write)
    assert is_whole(path)
    assert path.read_bytes() == b"A" * 100000
    assert sorted(tmp_path.iterdir()) == [path, checksum_of(path)]


def test_a_ranking_that_names_what_is_gone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Outdated after copying some of the files, or a power cut in between."""
    for step in (1, 2):
        write_whole(tmp_path / f"step-{step:09d}.ckpt", lambda file: file.write(b"x") and None)
    names = ["step-000000009.ckpt", "step-000000001.ckpt"]
    ranking = {"monitor": "val/psnr", "best": names, "scores": dict.fromkeys(names, 30.0)}
    (tmp_path / "best.json").write_text(json.dumps(ranking))
    with caplog.at_level(logging.ERROR):
        found = best_or_newest(tmp_path)
    assert found == (tmp_path / names[1], "best val/psnr 30.0000")
    assert "step-000000009.ckpt, is missing" in caplog.text
    (tmp_path / names[1]).unlink()
    assert best_or_newest(tmp_path) == (tmp_path / "step-000000002.ckpt", "the newest")


@pytest.mark.parametrize("content", [b"", b"\xff\x00" * 40, b"0  step-000000002.ckpt\n"])
def test_a_checksum_that_is_damaged(tmp_path: Path, content: bytes) -> None:
    older, newer = (tmp_path / f"step-{step:09d}.ckpt" for step in (1, 2))
    for path in (older, newer):
        write_whole(path, lambda file: file.write(b"x") and None)
    checksum_of(newer).write_bytes(content)
    assert newest_whole(tmp_path) == older
    assert fingerprint(newer) in (file_hash(newer), "0")


def test_a_failure_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "step-000000001.ckpt"
    write_whole(path, lambda file: file.write(b"first") and None)

    def fail(file: object) -> None:
        raise RuntimeError("the disk is full, as torch puts it")

    with pytest.raises(OSError, match="the disk is full"):
        write_whole(path, fail)
    assert path.read_bytes() == b"first"
    assert is_whole(path)
    assert {p.name for p in tmp_path.iterdir()} == {path.name, checksum_of(path).name}
