"""Record the parameters of a degradation, and replay them from a file.

A file has one line of JSON per image, in UTF-8, appended in the order of the batches:

    {"seed": 17, "shape": [3, 256, 256], "scale": 4.0, "recipe": "my_sr.rain.Rain", "params": {...}}

`params` holds the parameters of the image with all digits: reading them back gives the same bits.
Parameters that a whole batch shares are in `shared` beside it.
"""

from __future__ import annotations

import json
import logging
import os
import re
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from degradations.base import Degradation, check_images
from degradations.draws import Draws, Params, Seeds, leaves
from files.class_path import class_path
from files.paths import expand_path, open_regular

log = logging.getLogger(__name__)
Json = dict[str, Any]
_SEED = re.compile(rb'\{"seed":(-?\d{1,19}),')  # start of a line, for fast indexing
_START = b'{"seed":'
_FIELDS = frozenset({"seed", "shape", "scale", "recipe", "params"})
_TAIL = 1 << 20  # bytes that are searched for the last complete line


class Index:
    """Index of the lines of files by seed.

    Args:
        paths: The files.

    Raises:
        ValueError: A line is damaged; the message names file and line.
    """

    def __init__(self, paths: list[Path]) -> None:
        self.paths = paths
        seeds, places = array("q"), array("q")  # a place: file, line, offset
        for number, path in enumerate(paths):
            with open_regular(path) as file:
                offset = 0
                for line_number, line in enumerate(file, 1):
                    seed = _SEED.match(line)
                    if seed is None or not line.endswith(b"}\n"):
                        raise _damage_error(f"{path}:{line_number}", line)
                    seeds.append(int(seed[1]))
                    places.extend((number, line_number, offset))
                    offset += len(line)
        order = np.argsort(np.asarray(seeds, np.int64), kind="stable")
        self._seeds = np.asarray(seeds, np.int64)[order]
        self._places = np.asarray(places, np.int64).reshape(-1, 3)[order]

    def __len__(self) -> int:
        return len(self._seeds)

    def of_seed(self, seed: int) -> Iterator[tuple[str, Json]]:
        """Yield the records of a seed with their file and line, the latest first."""
        first, end = np.searchsorted(self._seeds, [seed, seed + 1])
        for number, line_number, offset in self._places[first:end][::-1].tolist():
            path = self.paths[number]
            with open_regular(path) as file:
                file.seek(offset)
                line = file.readline()
            where = f"{path}:{line_number}"
            try:
                record = json.loads(line)
            except ValueError as error:
                raise _damage_error(where, line) from error
            if not (
                isinstance(record, dict) and record.keys() >= _FIELDS and record["seed"] == seed
            ):
                raise _damage_error(where, line)
            yield where, record


def path_of_rank(path: Path, rank: int) -> Path:
    """Return the file of a rank; rank 0 has the path itself."""
    return path.with_name(f"{path.stem}.rank{rank}{path.suffix}") if rank else path


def files_of_ranks(path: Path) -> list[Path]:
    """Return the files of all ranks that recorded to a path."""
    name = re.compile(rf"{re.escape(path.stem)}(\.rank\d+)?{re.escape(path.suffix)}")
    if not path.parent.is_dir():
        return []
    return sorted(p for p in path.parent.iterdir() if name.fullmatch(p.name) and p.is_file())


def check_file(path: Path) -> None:
    """Check that an existing file can be continued, and cut off an incomplete last line.

    Raises:
        ValueError: It does not hold records.
    """
    if not path.exists():
        return
    with path.open("r+b") as file:
        start = file.read(len(_START))
        whole = _START.startswith(start)
        size = file.seek(0, os.SEEK_END)
        first = file.seek(max(0, size - _TAIL))
        tail = file.read()
        torn = tail[tail.rfind(b"\n") + 1 :]
        if not whole or not _START.startswith(torn[: len(_START)]):
            raise ValueError(
                f"Record.path {str(path)!r} exists but holds no records: choose another path"
            )
        if torn:
            # A run that was killed during a write repeats that batch.
            log.warning("%s: its last line is incomplete and is removed", path)
            file.truncate(first + len(tail) - len(torn))


def _damage_error(where: str, line: bytes) -> ValueError:
    return ValueError(
        f"{where} is damaged, or not a record: {line[:60]!r}; expected a line of "
        '{"seed": ..., "shape": ..., "scale": ..., "recipe": ..., "params": {...}}'
    )


Recipe = Callable[[float], Degradation]
_encode = json.JSONEncoder(separators=(",", ":")).encode


class _Wrapper(Degradation):
    """A degradation that wraps another one."""

    def __init__(self, scale: float, recipe: Recipe) -> None:
        super().__init__(scale)
        made = recipe(self.scale)
        if not isinstance(made, Degradation):
            raise TypeError(
                f"{type(self).__name__}.recipe made {type(made).__name__}; expected a Degradation "
                "such as degradations.Bicubic"
            )
        self.recipe = made
        self.pool = made.pool

    def draw(self, draws: Draws, shape: torch.Size) -> Params:
        """Draw the parameters of the recipe."""
        return self.recipe.draw(draws, shape)

    def degrade(self, hr: Tensor, params: Params) -> Tensor:
        """Degrade by the recipe."""
        return self.recipe.degrade(hr, params)

    def params_of(self, seeds: Seeds, shape: torch.Size) -> Params:
        """Draw the same parameters as the recipe without this wrapper."""
        return self.recipe.params_of(seeds, shape)

    def replay(self, hr: Tensor, params: Params) -> Tensor:
        """Replay by the recipe, with its checks."""
        return self.recipe.replay(hr, params)


class Record(_Wrapper):
    """Degrade by another recipe, and append the parameters of every image to a file.

    Recording does not change the LR. Rank r > 0 writes to its own file (``params.rank1.jsonl``).
    Lines are appended with one write per batch: a resumed run continues its file, and a repeated
    seed (in each validation) repeats its line. For Real-ESRGAN's recipe a line has 1.4 kB, and
    recording a batch of 16 takes 0.4 ms, its degradation 70 ms (256 px, one core).

    Args:
        scale: How many times smaller the LR is; any positive number. Linked to
            data.init_args.scale.
        recipe: The recipe, made with the same scale.
        path: File of the records, e.g. ``runs/params.jsonl``; its folder is made.

    Raises:
        TypeError: `recipe` does not make a degradation.
        ValueError: `path` is empty, contains an unset environment variable, or is a file without
            records.
    """

    def __init__(self, scale: float, recipe: Recipe, path: str) -> None:
        super().__init__(scale, recipe)
        self.path = Path(expand_path(path, "Record.path"))
        self._begun = False

    def forward(self, hr: Tensor, seeds: Seeds) -> Tensor:
        """Degrade and record. Args, Returns and Raises as `Degradation.forward`."""
        check_images(hr, seeds)
        params = self.params_of(seeds, hr.shape)
        lr = self.replay(hr, params)  # first, so that failures are not recorded
        self._append(b"".join(lines_of(seeds, hr.shape, self.recipe, params)))
        return lr

    def _append(self, data: bytes) -> None:
        path = path_of_rank(self.path, _rank())
        if not self._begun:
            path.parent.mkdir(parents=True, exist_ok=True)
            check_file(path)
            self._begun = True
        # Opened each time (20 us), so that forks and copies share no open file.
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            while data:
                data = data[os.write(descriptor, data) :]
        finally:
            os.close(descriptor)


class Replay(_Wrapper):
    """Degrade by recorded parameters, to reproduce the LR of the recorded run.

    The LR is bit-equal on the same kind of device in the same batches, and on a CPU in any batches,
    even if the recipe draws differently now. Records are found by the seeds of the images, in the
    file and in those of other ranks beside it; the last of several records of an image wins.

    Args:
        scale: How many times smaller the LR is; any positive number. Linked to
            data.init_args.scale.
        recipe: The recipe of the recording, with the same stages.
        path: File written by `Record`.

    Raises:
        TypeError: `recipe` does not make a degradation.
        ValueError: The file is missing.
    """

    def __init__(self, scale: float, recipe: Recipe, path: str) -> None:
        super().__init__(scale, recipe)
        self.path = Path(expand_path(path, "Replay.path"))
        if not files_of_ranks(self.path):
            raise ValueError(
                f"Replay.path {str(self.path)!r} does not exist; expected a file that "
                "degradations.Record wrote"
            )
        self._index: Index | None = None
        self._same_stages = False

    def params_of(self, seeds: Seeds, shape: torch.Size) -> Params:
        """Return the recorded parameters of images with these seeds.

        Raises:
            ValueError: A seed was not recorded, or with another recipe, scale or size, or its line
                is damaged; the message names file and line.
        """
        if self._index is None:
            self._index = Index(files_of_ranks(self.path))
        image = tuple(shape[1:])
        found = [self._record(self._index, int(seed), image) for seed in seeds]
        if not self._same_stages:
            self._check_stages(found[0], self.recipe.params_of(seeds, shape))
            self._same_stages = True
        return _stack_records(found)

    def _record(self, index: Index, seed: int, image: tuple[int, ...]) -> _Located:
        wanted = {"recipe": recipe_name(self.recipe), "scale": self.scale, "shape": list(image)}
        others: list[tuple[str, Json]] = []
        for where, record in index.of_seed(seed):
            if all(record[name] == value for name, value in wanted.items()):
                return _Located(where, record)
            others.append((where, record))
        if not others:
            raise ValueError(
                f"{self.path} has no record of the seed {seed} ({len(index)} records in "
                f"{', '.join(map(str, index.paths))}): replay the images, the order and the seed "
                "of the recorded run"
            )
        where, record = others[0]
        differing = [
            f"{name} {record[name]} (now {value})"
            for name, value in wanted.items()
            if record[name] != value
        ]
        raise ValueError(f"{where}: the seed {seed} was recorded with {', '.join(differing)}")

    def _check_stages(self, found: _Located, drawn: Params) -> None:
        recorded = {path for path, _ in leaves(_all_params(found.record))}
        drawn_now = {path for path, _ in leaves(drawn)}
        if recorded != drawn_now:
            names = [
                f"{verb} {', '.join(sorted(paths)[:4])}"
                for verb, paths in (
                    ("it lacks", drawn_now - recorded),
                    ("it also has", recorded - drawn_now),
                )
                if paths
            ]
            raise ValueError(
                f"{found.where} was recorded with other stages than those of Replay.recipe: "
                + "; ".join(names)
            )


class _Located(NamedTuple):
    """A record and its place, as file and line."""

    where: str
    record: Json


def lines_of(seeds: Seeds, shape: torch.Size, recipe: Degradation, params: Params) -> list[bytes]:
    """Return the lines of a batch, each with a line feed."""
    return [
        (_encode(record) + "\n").encode() for record in records_of(seeds, shape, recipe, params)
    ]


def records_of(seeds: Seeds, shape: torch.Size, recipe: Degradation, params: Params) -> list[Json]:
    """Return the record of each image.

    Args:
        seeds: (B,) seeds of the images.
        shape: (B, C, H, W) of the batch that entered the degradation.
        recipe: The recipe that drew the parameters.
        params: Drawn parameters of the batch.

    Raises:
        TypeError: A parameter is neither a NumPy array nor a Python number.
    """
    head = {"shape": list(shape[1:]), "scale": recipe.scale, "recipe": recipe_name(recipe)}
    own, shared = _split(params, len(seeds))
    tail = {"shared": shared} if shared else {}
    return [
        {"seed": int(seed), **head, "params": params_of_one, **tail}
        for seed, params_of_one in zip(seeds.tolist(), own, strict=True)
    ]


def recipe_name(recipe: Degradation) -> str:
    """Return the class path of a recipe as in YAML, inside of `Record` and `Replay`."""
    while isinstance(recipe, _Wrapper):
        recipe = recipe.recipe
    return class_path(type(recipe))


def _split(params: Params, batch: int, path: str = "") -> tuple[list[Params], Params]:
    # Parameters of each image as plain numbers and lists, and those of the whole batch.
    own: list[Params] = [{} for _ in range(batch)]
    shared: Params = {}
    for name, value in params.items():
        if isinstance(value, dict):
            parts, common = _split(value, batch, f"{path}{name}.")
            if common:
                shared[name] = common
        elif isinstance(value, np.ndarray):
            parts = value.tolist()
        elif isinstance(value, bool | int | float):
            shared[name] = value
            continue
        else:
            raise TypeError(
                f"the parameter {path}{name} is {type(value).__name__}, which cannot be recorded; "
                "expected a NumPy array with one entry per image, or a Python number"
            )
        for image, part in zip(own, parts, strict=True):
            image[name] = part
    return own, shared


def _all_params(record: Json) -> Params:
    return _merged(record["params"], record.get("shared", {}))


def _merged(own: Params, shared: Params) -> Params:
    merged = dict(own)
    for name, value in shared.items():
        merged[name] = _merged(own.get(name, {}), value) if isinstance(value, dict) else value
    return merged


def _stack_records(found: list[_Located]) -> Params:
    # Merge the records of images to the parameters of a batch.
    shared = [each.record.get("shared", {}) for each in found]
    for each, numbers in zip(found, shared, strict=True):
        if numbers != shared[0]:
            raise ValueError(
                f"{each.where} and {found[0].where} were recorded in batches that share different "
                "parameters: replay in the batches of the recorded run"
            )
    try:
        return _merged(_stack([each.record["params"] for each in found]), shared[0])
    except (KeyError, TypeError, ValueError) as error:
        where = ", ".join(each.where for each in found[:4])
        raise ValueError(
            f"the parameters in {where}{', ...' if len(found) > 4 else ''} do not belong to one "
            f"recipe, or a line is damaged: {error!r}"
        ) from error


def _stack(rows: list[Params]) -> Params:
    if any(row.keys() != rows[0].keys() for row in rows):
        raise ValueError(f"names differ: {', '.join(rows[0])}")
    stacked: Params = {}
    for name, value in rows[0].items():
        column = [row[name] for row in rows]
        stacked[name] = _stack(column) if isinstance(value, dict) else np.array(column)
    return stacked


def _rank() -> int:
    distributed = torch.distributed
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank()
    return 0
