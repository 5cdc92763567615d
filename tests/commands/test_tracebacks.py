"""What of an exception is said in place of its traceback."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

from commands.tracebacks import sentence_of, status_of


def caught(number: int, *names: str | bytes | None) -> OSError:
    """As the system raises it, far from any `raise` of ours."""
    return OSError(number, os.strerror(number), *names)


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (caught(errno.ENOSPC), "No space left on device; make room there"),
        (caught(errno.EROFS, b"/a/b"), "/a/b: Read-only file system; name a place"),
        (caught(errno.EACCES, "/a"), "/a: Permission denied; name a place that may be written"),
        (caught(errno.ENOTEMPTY, "a", None, "b"), "a -> b: Directory not empty; a file stands"),
        (caught(errno.ENAMETOOLONG, "aaa"), "aaa: File name too long; give it a shorter name"),
    ],
)
def test_what_a_disk_refuses_is_a_sentence(error: OSError, sentence: str) -> None:
    said = sentence_of(error)
    assert said is not None
    assert said.startswith(sentence)
    assert status_of(error) == 2


@pytest.mark.parametrize(
    "error", [caught(errno.EACCES), caught(errno.ENOENT, "a"), caught(errno.EPIPE), OSError("?")]
)
def test_what_may_be_a_bug_is_none(error: OSError) -> None:
    assert sentence_of(error) is None
    assert status_of(error) == 1


@pytest.mark.skipif(find_spec("wandb") is not None, reason="wandb is installed")
def test_what_a_class_of_lightning_lacks(tiny: Path, refusal: Callable[..., str]) -> None:
    """The parser wraps it in sentences on the class path."""
    logger = ("--trainer.logger", "lightning.pytorch.loggers.WandbLogger")
    said = refusal("fit", "--config", "tiny.yaml", *logger)
    assert "wandb" in said
    assert "Problem with given class_path" not in said
