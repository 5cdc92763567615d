"""``predictions.jsonl``: a line for each image of ``predict``, read by later runs."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

import torch
import xxhash
from torch import Tensor, nn

from files.locks import lock, unlock_and_close
from files.owned import refuse_foreign, refuse_moved
from files.paths import PREDICTIONS, open_regular, size_and_time

NAME = PREDICTIONS

# Groups of the configuration that do not change outputs, but for some keys of ``data``.
OTHER_GROUPS = frozenset(
    {"config", "run", "checkpoint", "writer", "degradation", "trainer", "data", "seed_everything"}
    | {"ckpt_path", "weights_only", "return_predictions"}
)
ITSELF = frozenset({"trainer.precision"}) | {
    f"data.init_args.{name}" for name in ("scale", "size", "output_scale", "degradation_seed")
}
SOURCE = "data.init_args.predict."
# Settings that change nothing but the memory, how a source is read, or the training.
WITHOUT_INFLUENCE = frozenset({"tiling.batch"}) | {
    f"{SOURCE}init_args.{name}"
    for name in ("count", "index_cache", "cache_dir", "cache_size", "read_ahead")
}
# Where the inputs lie; their files are compared one by one, by their paths from the outputs.
PLACES = frozenset({f"{SOURCE}init_args.root", f"{SOURCE}init_args.files"})
TRAINING = (
    "model.init_args.optimizer",
    "model.init_args.lr_scheduler",
    f"{SOURCE}init_args.degradation.",  # inputs of predict are not degraded
)
Options = dict[str, Any]
State = tuple[int, int] | None  # size and time of a file


class RunProperties(TypedDict):
    """The properties that all images of a run share.

    model: Import path of the method's class.
    weights: File or name of the weights; None for a method without any.
    weights_digest: Hash of all tensors of the model; None without any.
    options: Settings that change outputs, by their keys on the command line.
    commit: The commit of the code, ``-dirty`` with local changes; None outside of git.
    """

    model: str
    weights: str | None
    weights_digest: str | None
    options: Options
    commit: str | None


class Line(TypedDict, total=False):
    """One image; a failed one only has ``key``, ``input``, ``output`` and ``error``.

    key: The image's name below its root.
    input: Its file, if it has one.
    output: The output file, below the folder of the lines.
    error: Why there is no output.
    lr_size: Height and width of the input, upright.
    size: Height and width of the output.
    scale: The requested factor; None where ``data.init_args.size`` was requested.
    seconds: From the image on the device to integer levels on the host, without reading and
        encoding, which run concurrently. Of a video the mean over frames.
    peak_memory: Bytes: on a GPU the peak of all tensors; on a CPU the peak of the whole process;
        None if unknown.
    device: Name of the device.
    tiles: Number of tiles, 1 for a whole image; None if the method does not report it.
    tile_size: Height and width of the tiles in LR pixels; None for a whole image.
    precision: ``trainer.precision``, or what the method chose in its place.
    seed: Seed of a stochastic method's noise; None if it drew none.
    frames: Number of frames of a clip or a video.
    hash: Of what the output was made of, and how; missing while a clip is not complete.
    """

    key: str
    input: str | None
    output: str
    error: str
    lr_size: list[int] | None
    size: list[int]
    scale: float | None
    seconds: float
    peak_memory: int | None
    device: str
    tiles: int | None
    tile_size: list[int] | None
    precision: str
    seed: int | None
    frames: int
    hash: str


class Made(NamedTuple):
    """What a line says of an output of ours; large folders keep many of these in memory.

    hash: As in ``Line``; empty if it is not complete, or of an earlier version.
    frames: As in ``Line``; None for an image.
    """

    hash: str
    frames: int | None


class Predictions:
    """The lines of one folder of outputs, which say what is ours and how it was made.

    A line is appended in one write under a lock of the file, so that threads and processes do not
    mix theirs. It is written before its image, so an image without a line is not ours. If an output
    has several lines, the last one is valid.

    Args:
        folder: The folder of the outputs.
        run: The properties that this run's images share.
        seed: Seed of a stochastic method's noise in this run.

    Raises:
        ValueError: If its path is a link, or a file that this program did not write.
        OSError: If it is no file, or cannot be read.
    """

    def __init__(self, folder: Path, run: RunProperties, seed: int = 0) -> None:
        self.path = folder / NAME
        refuse_foreign(self.path)
        self.run = run
        self.seed = seed
        self._lock = threading.Lock()
        self._made: dict[str, Made] = {}
        for line in _lines(self.path):
            self._made[line["output"]] = Made(line.get("hash", ""), line.get("frames"))
        settings = [run["model"], run["weights_digest"], run["options"]]
        self._settings = _hash_of(settings)

    def find(self, output: str) -> Made | None:
        """Return what the latest line says of an output; None without a line.

        Args:
            output: Its path below the folder.
        """
        return self._made.get(output)

    def is_done(self, made: Made, source: str | None, options: Options | None = None) -> bool:
        """Return whether this run would make an output again exactly as it was made.

        Args:
            made: What its line says.
            source: File of the input, if it has one.
            options: Options of this output alone.
        """
        state = size_and_time(source) if source else None
        # Without noise, the seed had no influence.
        return made.hash in [self.hash(source, state, seed, options) for seed in (None, self.seed)]

    def hash(
        self, source: str | None, state: State, seed: int | None, options: Options | None = None
    ) -> str:
        """Return the hash of what an output is made of, and how.

        Args:
            source: File of the input, if it has one.
            state: Its size and time when it was read.
            seed: Seed of the method's noise; None if it draws none.
            options: Options of this output alone.
        """
        place = source
        if source and "://" not in source:  # inputs and outputs may be moved together
            place = os.path.relpath(source, self.path.parent)
        return _hash_of([self._settings, options, seed, place, state])

    def add(self, line: Line, options: Options | None = None) -> None:
        """Write a line; it is in the disk's cache when this returns.

        Args:
            line: The image.
            options: Options of this output alone.
        """
        content: dict[str, Any] = dict(line)
        if "error" not in line:
            content |= {**self.run, "options": {**self.run["options"], **(options or {})}}
        with self._lock:
            self._append(content)

    def _append(self, content: dict[str, Any]) -> None:
        """Append a line in one write, under a lock of the file.

        Raises:
            OSError: If the disk is full, or the folder was moved.
        """
        data = json.dumps(content, separators=(", ", ": ")).encode() + b"\n"
        refuse_moved(self.path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
        descriptor = os.open(self.path, flags, 0o666)
        try:
            # On a disk that several machines share, the end is only known under a lock. Without
            # locks, appends of one machine are still sequential. Not lockf: a process loses that
            # lock when any of its threads closes the file.
            lock(descriptor)
            size = os.fstat(descriptor).st_size
            if size and os.pread(descriptor, 1, size - 1) != b"\n":  # truncated by a full disk
                data = b"\n" + data
            if os.write(descriptor, data) != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
        finally:
            unlock_and_close(descriptor)


def options_of(config: Mapping[str, Any], of_files: bool = False) -> Options:
    """Return the settings that change outputs, flat, by their keys on the command line.

    These are all of the model's except those of training, all of a source's that say which images
    it has, and all groups except those known to have no influence. None values are left out, and
    files of weights, which are compared by content.

    Args:
        config: The configuration of ``predict``, as plain values.
        of_files: Whether each input has a file, so that the place of all says nothing more.
    """
    options = {}
    for key, value in _flat(config):
        is_group = key.partition(".")[0] not in OTHER_GROUPS
        has_influence = key in ITSELF or key.startswith(SOURCE) or is_group
        is_file = key.endswith("weights") and isinstance(value, str)
        is_place = of_files and key in PLACES
        if not has_influence or is_file or is_place or value is None:
            continue
        if key not in WITHOUT_INFLUENCE and not key.startswith(TRAINING):
            options[key] = value
    return options


def digest_of(model: nn.Module) -> str | None:
    """Return a hash of all tensors of a model that a checkpoint could hold; None without any."""
    tensors = {k: value for k, value in model.state_dict().items() if isinstance(value, Tensor)}
    if not tensors:
        return None
    digest = xxhash.xxh3_64()
    for name in sorted(tensors):
        digest.update(name.encode())
        flat = tensors[name].detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def outputs_in(folder: Path) -> set[str]:
    """Return the output files of a folder according to its lines, whether or not they exist."""
    return {line["output"] for line in _lines(folder / NAME)}


def _hash_of(content: object) -> str:
    """Return a hash of plain nested content, independent of the order of keys."""
    return xxhash.xxh3_64_hexdigest(json.dumps(content, sort_keys=True).encode())


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the lines of outputs, without those of failed images."""
    with contextlib.suppress(FileNotFoundError), open_regular(path) as file:
        for text in file:
            try:
                line = json.loads(text)
            except (ValueError, RecursionError):
                continue  # truncated by a full disk, or of other origin: ignored
            if isinstance(line, dict) and "options" in line and isinstance(line.get("output"), str):
                yield line


def _flat(content: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the values of nested mappings, with their keys joined by dots: ``model.scale``, 4."""
    for key, value in content.items():
        if isinstance(value, Mapping) and value:
            yield from ((f"{key}.{inner}", leaf) for inner, leaf in _flat(value))
        else:
            yield key, value
