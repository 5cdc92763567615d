"""`Record` and `Replay` of a recipe with the contract's images, which they cannot be without."""

from __future__ import annotations

import itertools
import tempfile
from pathlib import Path

import torch

from degradations.pipeline import Pipeline
from degradations.record import Record, Replay, lines_of
from degradations.stages.noise import GaussianNoise
from tests.contracts.degradation_contract import SEEDS, SIZES

_folder = tempfile.TemporaryDirectory()  # removed when the process ends
_number = itertools.count()


def recipe(scale: float) -> Pipeline:
    return Pipeline(scale, [GaussianNoise(), GaussianNoise((5.0, 5.0))])


def record(scale: float) -> Record:
    return Record(scale, recipe, str(_path()))


def replay(scale: float) -> Replay:
    path, recorded = _path(), recipe(scale)
    shapes = [torch.Size((len(SEEDS), 3, *size)) for size in [*SIZES, (24, 24), (24, 2), (2, 2)]]
    drawn = [(shape, recorded.params_of(SEEDS, shape)) for shape in shapes]
    path.write_bytes(b"".join(b"".join(lines_of(SEEDS, s, recorded, p)) for s, p in drawn))
    return Replay(scale, recipe, str(path))


def _path() -> Path:
    return Path(_folder.name, f"{next(_number)}.jsonl")
