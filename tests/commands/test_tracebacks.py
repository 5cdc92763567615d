"""The message of an exception that replaces its traceback."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, StochasticWeightAveraging

from commands.tracebacks import sentence_of, status_of


def caught(number: int, *names: str | bytes | None) -> OSError:
    """Raised by the system, not by a `raise` of ours."""
    return OSError(number, os.strerror(number), *names)


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (caught(errno.ENOSPC, "/a"), "/a: No space left on device; free space there"),
        (caught(errno.EROFS, b"/a/b"), "/a/b: Read-only file system; choose a writable place"),
        (caught(errno.EACCES, "/a"), "/a: Permission denied; choose a writable place"),
        (caught(errno.ENOTDIR, "a", None, "b"), "a -> b: Not a directory; a file exists"),
        (caught(errno.EEXIST, __file__), f"{__file__}: File exists; a file exists"),
        (caught(errno.ENAMETOOLONG, "aaa"), "aaa: File name too long; give it a shorter name"),
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
        *(caught(errno.EACCES), caught(errno.ENOENT, "a"), caught(errno.EPIPE), OSError("?")),
        *(caught(errno.EEXIST, "/"), caught(errno.ENOTEMPTY, "/"), caught(errno.ENOSPC)),
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


@pytest.mark.parametrize("mean", [True, False])
def test_of_lightning_s_callbacks_only_what_they_mean(mean: bool) -> None:
    averages = StochasticWeightAveraging(swa_lrs=0.1)
    stopping = EarlyStopping("val/psnr")
    meant = partial(stopping._validate_condition_metric, {"val/ssim": torch.tensor(1.0)})
    # torch's message about shapes that do not match.
    bug = partial(averages.avg_fn, torch.zeros(2), torch.zeros(3), torch.tensor(1))
    with pytest.raises(RuntimeError) as raised:
        (meant if mean else bug)()
    error = raised.value
    assert error.__traceback__ is not None
    error.__traceback__ = error.__traceback__.tb_next  # as if called by the command, not from here
    assert (sentence_of(error) is None) is not mean


@pytest.mark.skipif(find_spec("wandb") is not None, reason="wandb is installed")
def test_what_a_class_of_lightning_lacks(tiny: Path, refusal: Callable[..., str]) -> None:
    """The parser wraps it in sentences about the class path."""
    logger = ("--trainer.logger", "lightning.pytorch.loggers.WandbLogger")
    said = refusal("fit", "--config", "tiny.yaml", *logger)
    assert "wandb" in said
    assert "Problem with given class_path" not in said


def test_a_compiler_that_fails_is_a_sentence() -> None:
    def backend(graph: object, inputs: object) -> Callable[..., object]:
        raise OSError("no compiler found\nin a long text")

    with pytest.raises(RuntimeError) as raised:
        torch.compile(lambda x: x + 1, backend=backend)(torch.ones(2))
    said = sentence_of(raised.value)
    assert said is not None
    assert said == (
        "torch.compile failed (no compiler found): "
        "set compile of the network or degradation to false"
    )
    assert status_of(raised.value) == 2
