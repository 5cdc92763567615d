"""``predictions.jsonl``: a line for each image of ``predict``, read by later runs."""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

import torch
import xxhash
from torch import Tensor, nn

from files.locks import lock, unlock
from files.owned import refuse_foreign, refuse_moved
from files.paths import PREDICTIONS, open_regular, size_and_time

NAME = PREDICTIONS

# Groups of the configuration that do not change outputs, or are stored separately.
OTHER_GROUPS = frozenset(
    {"config", "run", "checkpoint", "writer", "degradation", "trainer", "data", "seed_everything"}
    | {"ckpt_path", "weights_only", "return_predictions"}
)
ITSELF = frozenset({"trainer.precision"}) | {
    f"data.init_args.{name}" for name in ("scale", "size", "output_scale", "degradation_seed")
}

# All settings of a Source but those that say which images it has, where they lie, and how they
# are read.
PREDICT = "data.init_args.predict."
SOURCE = f"{PREDICT}init_args."
PLACES = frozenset({"root", "files", "urls"})
WHERE = PLACES | {
    "count",
    "samples",
    "names",
    "file",
    "shard_in_key",
    "index_cache",
    "cache_dir",
    "cache_size",
    "read_ahead",
    "retries",
    "deadline",
    "allow_pipes",
}

# Have fields of their own, are linked to another key, or change nothing but the memory.
APART = frozenset(
    {"model.class_path", "model.init_args.scale", "model.init_args.weights", "tiling.batch"}
)
TRAINING = ("model.init_args.optimizer", "model.init_args.lr_scheduler")
Options = dict[str, Any]


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
    input_bytes: Size of the input's file when it was read.
    input_modified: Its modification time then, in nanoseconds since 1970.
    input_place: Hash of its path from the folder of the lines, with which it may be moved.
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
    input_bytes: int | None
    input_modified: int | None
    input_place: str


class Origin(NamedTuple):
    """How an output was made, as its line says; large folders keep many of these in memory.

    way: Hash of model, weights and options.
    seed: Seed of a stochastic method's noise; None if it drew none.
    input_bytes: As in ``Line``.
    input_modified: As in ``Line``.
    input_place: As in ``Line``; None in files of earlier versions.
    frames: As in ``Line``; None for an image.
    """

    way: int
    seed: int | None
    input_bytes: int | None
    input_modified: int | None
    input_place: str | None
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
        self._origins: dict[str, Origin] = {}
        for line in _lines(self.path):
            if "error" not in line:
                self._origins[line["output"]] = Origin(
                    _way(line),
                    line.get("seed"),
                    line.get("input_bytes"),
                    line.get("input_modified"),
                    line.get("input_place"),
                    line.get("frames"),
                )

    def find(self, output: str) -> Origin | None:
        """Return how an output, by its path below the folder, was made; None if it is not ours."""
        return self._origins.get(output)

    def is_same(self, origin: Origin, source: str | None, options: Options | None = None) -> bool:
        """Return whether this run would make an output of ours in the same way.

        Args:
            origin: How it was made.
            source: File of the input, if it has one.
            options: Options of this output alone.
        """
        if origin.way != _way(self._with(options)) or origin.seed not in (None, self.seed):
            return False
        if source is None:
            return True
        state = (origin.input_bytes, origin.input_modified)
        is_unchanged = state in ((None, None), size_and_time(source))
        return is_unchanged and origin.input_place in (None, self._place_of(source))

    def add(self, line: Line, options: Options | None = None) -> None:
        """Write a line; it is in the disk's cache when this returns.

        Args:
            line: The image.
            options: Options of this output alone.
        """
        with self._lock:
            content: dict[str, Any] = dict(line)
            if "error" not in line:
                source = line.get("input")
                if source:
                    content["input_place"] = self._place_of(source)
                content |= self._with(options)
            self._append(content)

    def _place_of(self, source: str) -> str:
        from_here = source if "://" in source else os.path.relpath(source, self.path.parent)
        return xxhash.xxh3_64_hexdigest(os.fsencode(from_here))

    def _with(self, options: Options | None) -> dict[str, Any]:
        return {**self.run, "options": {**self.run["options"], **(options or {})}}

    def _append(self, content: dict[str, Any]) -> None:
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
                raise OSError(f"{self.path}: a line could not be written whole; is the disk full?")
        finally:
            unlock(descriptor)


def options_of(config: Mapping[str, Any]) -> Options:
    """Return the settings that change outputs, flat, by their keys on the command line.

    These are all of the model's except those of training, and all groups except those known to have
    no influence; None values are left out.

    Args:
        config: The configuration of ``predict``, as plain values.
    """
    return {
        key: value
        for key, value in _flat(config)
        if value is not None
        and (key in ITSELF or _of_source(key) or key.partition(".")[0] not in OTHER_GROUPS)
        and key not in APART
        and not key.startswith(TRAINING)
    }


def places_of(config: Mapping[str, Any]) -> Options:
    """Return the settings that say where the images lie, for those that have no file.

    Of a source that is not Enlarger's these are all.
    """
    settings = {key: value for key, value in _flat(config) if key.startswith(PREDICT)}
    foreign = tuple(
        key.removesuffix("class_path")
        for key, value in settings.items()
        if key.endswith(".class_path") and not str(value).startswith("datamodules.")
    )
    return {
        key: value
        for key, value in settings.items()
        if key.rpartition(".")[2] in PLACES or key.startswith(foreign)
    }


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
    return {line["output"] for line in _lines(folder / NAME) if "error" not in line}


def _of_source(key: str) -> bool:
    parts = key.removeprefix(SOURCE).split(".")
    # Inputs of predict are not degraded.
    return key.startswith(SOURCE) and parts[-1] not in WHERE and "degradation" not in parts


def _way(line: Mapping[str, Any]) -> int:
    # Weights are compared by content, not by path; numbers called weights are settings.
    options = {
        k: v
        for k, v in line["options"].items()
        if not (k.endswith("weights") and isinstance(v, str))
    }
    compared = [line["model"], line["weights_digest"], options]
    return xxhash.xxh3_64_intdigest(json.dumps(compared, sort_keys=True).encode())


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    with contextlib.suppress(FileNotFoundError), open_regular(path) as file:
        for text in file:
            try:
                line = json.loads(text)
                if "error" not in line:
                    _way(line)
                if not isinstance(line["output"], str):
                    continue
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
                continue  # truncated by a full disk, or of other origin: ignored
            yield line


def _flat(content: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in content.items():
        if isinstance(value, Mapping) and value:
            yield from ((f"{key}.{inner}", leaf) for inner, leaf in _flat(value))
        else:
            yield key, value
