"""A process killed while writing leaves the newest complete checkpoint."""

from __future__ import annotations

import multiprocessing
import random
import time
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from commands.run.files import (
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


@pytest.mark.parametrize("content", [b"", b"\xff\x00" * 40, b"0  step-000000002.ckpt\n"])
def test_a_checksum_that_is_damaged(tmp_path: Path, content: bytes) -> None:
    older, newer = (tmp_path / f"step-{step:09d}.ckpt" for step in (1, 2))
    for path in (older, newer):
        write_whole(path, lambda file: file.write(b"x") and None)
    checksum_of(newer).write_bytes(content)
    assert newest_whole(tmp_path) == older
    assert fingerprint(newer) in (file_hash(newer), "0")


def test_killed_while_a_checkpoint_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "step-000000001.ckpt"
    write_whole(path, lambda file: file.write(b"old") and None)
    with monkeypatch.context() as patched:
        patched.setattr("os.replace", Mock(side_effect=OSError("killed")))
        with pytest.raises(OSError, match="killed"):
            write_whole(path, lambda file: file.write(b"new") and None)
    assert is_whole(path)
    assert fingerprint(path) == file_hash(path)
    write_whole(path, lambda file: file.write(b"newest") and None)
    assert checksum_of(path).read_text() == f"{file_hash(path)}  {path.name}\n"
