"""The message of an exception that replaces its traceback."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from commands.tracebacks import sentence_of, status_of


def caught(number: int, *names: str | bytes | None) -> OSError:
    """Raised by the system, not by a `raise` of ours."""
    return OSError(number, os.strerror(number), *names)


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (caught(errno.ENOSPC, "/a"), "/a: No space left on device; free space there"),
        (caught(errno.ENOENT, "/a"), "/a: No such file or directory; name one that exists"),
        (caught(errno.EACCES, "/a"), "/a: Permission denied; choose a writable place"),
        (caught(errno.EEXIST, __file__), f"{__file__}: File exists; a file exists"),
    ],
)
def test_what_a_disk_refuses_is_a_sentence(error: OSError, sentence: str) -> None:
    said = sentence_of(error)
    assert said is not None
    assert said.startswith(sentence)
    assert status_of(error) == 2


@pytest.mark.parametrize("empty", [np.empty, torch.empty])
def test_a_lack_of_memory_is_a_sentence(empty: Callable[[int], object]) -> None:
    with pytest.raises((MemoryError, RuntimeError)) as raised:
        empty(1 << 55)
    said = sentence_of(raised.value)
    assert said is not None
    assert re.match(r"out of memory: .* allocate .*; lower .* crops\.per_image", said)
    assert status_of(raised.value) == 2


@pytest.mark.parametrize(
    "error",
    [
        *(caught(errno.EACCES), caught(errno.EPIPE), OSError("?")),
    ],
)
def test_what_may_be_a_bug_is_none(error: OSError) -> None:
    assert sentence_of(error) is None
    assert status_of(error) == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_that_names_no_file_is_told_by_the_code_that_wrote() -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    with pytest.raises(OSError, match="No space left") as raised:
        os.write(full, b"a")
    os.close(full)
    said = sentence_of(raised.value)
    assert said is not None
    assert said.startswith(f"No space left on device, where {__file__} writes; free space there")
