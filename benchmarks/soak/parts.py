"""Parts of the runs of `benchmarks.soak`: a trace, a clock to shift, bad samples."""

from __future__ import annotations

import ctypes
import mmap
import os
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import numpy as np
import torch
import xxhash
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from callbacks.training.ema import EMA
from callbacks.training.guard import Guard
from degradations.base import Stage
from degradations.draws import Draws, Params, per_image

P = ParamSpec("P")
R = TypeVar("R")
TRACE, BOARD = "trace", "board"
NUMBERS = struct.Struct("5d")
COUNTED = 10  # batches between two looks at what malloc has handed out


class Board:
    """Five numbers that the soak and all processes of a run share, also after a SIGKILL.

    shift: Seconds by which the run's clock is wrong.
    place: Number of batches of the whole run that are done.
    own: Number of them that the process which trains now has done.
    used: Bytes that this process has from malloc; 0 where that is not known.
    slow: Seconds that each read of a shard and each flush of a file to the disk takes longer.

    Args:
        path: A file; made if it is not there.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            path.write_bytes(NUMBERS.pack(*[0.0] * 5))
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), NUMBERS.size)

    def read(self) -> tuple[float, int, int, int, float]:
        """Shift, place, own, used and slow."""
        shift, place, own, used, slow = NUMBERS.unpack_from(self._map)
        return shift, int(place), int(own), int(used), slow

    def write(self, number: int, value: float) -> None:
        """Set one of them, by its number."""
        struct.pack_into("d", self._map, 8 * number, value)


class Trace(Callback):
    """Write a line a batch: its place, a digest of its crops, one of the run's state after it.

    The state is all that training goes on from: weights, running statistics, the optimiser's
    moments, averaged weights, learning rates and Guard's counts. Each start writes a file of its
    own, so a line that a SIGKILL cuts is the last of its file. Two counts end a line: steps that
    Guard has left out so far, and samples of this batch whose image was replaced.

    It also makes the process, and the workers that it forks later, see the board's wrong time and
    have its slow disk.

    Args:
        folder: Where the files and the board are.
    """

    def __init__(self, folder: str = TRACE) -> None:
        self.folder = Path(folder)
        self.board = Board(self.folder / BOARD)
        self._file: Any = None
        self._own = self._replaced = 0
        true = time.time
        time.time = lambda: true() + self.board.read()[0]
        os.pread, os.fsync = self._slowed(os.pread), self._slowed(os.fsync)

    def _slowed(self, function: Callable[P, R]) -> Callable[P, R]:
        def slowed(*args: P.args, **kwargs: P.kwargs) -> R:
            if seconds := self.board.read()[4]:
                time.sleep(seconds)
            return function(*args, **kwargs)

        return slowed

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin a file."""
        number = len(list(self.folder.glob("start-*.txt")))
        self._file = (self.folder / f"start-{number:03d}.txt").open(
            "w", buffering=1, encoding="utf-8"
        )

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Write the line."""
        place = trainer.current_epoch * int(trainer.num_training_batches) + batch_idx + 1
        crops = xxhash.xxh3_64_hexdigest(repr([batch["key"], batch["seed"].tolist()]).encode())
        replaced = trainer.datamodule.tally.unreadable  # type: ignore[attr-defined]
        left_out = sum(c.skipped for c in trainer.callbacks if isinstance(c, Guard))  # type: ignore[attr-defined, misc]
        state = state_digest(trainer, pl_module)
        self._file.write(f"{place} {crops} {state} {left_out} {replaced - self._replaced}\n")
        self._replaced, self._own = replaced, self._own + 1
        self.board.write(1, place)
        self.board.write(2, self._own)
        if self._own % COUNTED == 0:
            self.board.write(3, handed_out())

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """End the file."""
        if self._file is not None:
            self._file.close()


_FIELDS = (  # of mallinfo2 in malloc.h
    *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
    *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
)


class _Mallinfo2(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in _FIELDS]


def handed_out() -> int:
    """Bytes that malloc has handed out and not got back; 0 without glibc 2.33 or newer.

    Holes that lie between them in the heap, which is what resident memory has more, do not count.
    """
    try:
        mallinfo2 = ctypes.CDLL(None).mallinfo2
    except (AttributeError, OSError, TypeError):
        return 0
    mallinfo2.restype = _Mallinfo2
    info = mallinfo2()
    return int(info.uordblks + info.hblkhd)


def state_digest(trainer: Trainer, module: LightningModule) -> str:
    """xxh3 of all that training goes on from, in hexadecimal."""
    digest = xxhash.xxh3_64()
    for tensor in (*module.parameters(), *module.buffers()):
        _add(digest, tensor)
    for optimizer in trainer.optimizers:
        for group in optimizer.param_groups:
            digest.update(repr(group["lr"]).encode())
            for parameter in group["params"]:
                for value in optimizer.state.get(parameter, {}).values():
                    _add(digest, value)
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, EMA):
            for tensor in callback.state_dict()["weights"].values():
                _add(digest, tensor)
        if isinstance(callback, Guard):
            digest.update(repr(callback.state_dict()).encode())
    return digest.hexdigest()


def _add(digest: Any, value: Any) -> None:
    if isinstance(value, Tensor):
        digest.update(np.ascontiguousarray(value.detach().cpu().numpy()).reshape(-1))
    else:
        digest.update(repr(value).encode())


class NotANumber(Stage):
    """Make all pixels of some images NaN, those whose seed says so.

    Args:
        probability: Share of the images.
    """

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability

    def draw(self, draws: Draws, shape: torch.Size) -> Params:
        """`wrong`, (B,)."""
        return {"wrong": draws.bernoulli(self.probability)}

    def forward(self, x: Tensor, params: Params) -> Tensor:
        """NaN where it was drawn."""
        return torch.where(per_image(params["wrong"], x) > 0, torch.nan, x)
