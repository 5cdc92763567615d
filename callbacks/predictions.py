"""``predictions.jsonl``: a line for each picture of ``predict``, by which a next run knows it."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypedDict

import torch
import xxhash
from torch import Tensor, nn

from files.paths import open_regular

NAME = "predictions.jsonl"
Changed = Literal["refuse", "keep", "renew"]

# Groups of the configuration that do not decide how an output looks, or are stored otherwise.
OTHER_GROUPS = frozenset(
    {"config", "run", "checkpoint", "writer", "degradation", "trainer", "data", "seed_everything"}
    | {"ckpt_path", "weights_only", "return_predictions"}
)
ITSELF = frozenset({"trainer.precision"}) | {
    f"data.init_args.{name}" for name in ("scale", "size", "degradation_seed")
}
# Of a Source to enlarge all but which pictures it has, where they lie and how they come from there.
SOURCE = "data.init_args.predict.init_args."
WHERE = frozenset({"count", "samples", "names", "root", "files", "file", "recursive", "urls"}) | {
    *("shard_in_key", "index_cache", "cache_dir", "cache_size", "read_ahead", "retries"),
    *("deadline", "allow_pipes"),
}
# Have fields of their own, are linked to another key, or change nothing but the memory.
APART = frozenset(
    {"model.class_path", "model.init_args.scale", "model.init_args.weights", "tiling.batch"}
)
TRAINING = ("model.init_args.optimizer", "model.init_args.lr_scheduler")
SHOWN = 4  # differences in a refusal
Options = dict[str, Any]


class Made(TypedDict):
    """What all pictures of a run have in common.

    model: Import path of the method's class.
    weights: File or name of the weights; None for a method without any.
    weights_digest: Hash of all tensors of the model; None without any.
    options: Settings that decide how an output looks, by their keys on the command line.
    commit: The commit of the code, ``-dirty`` with local changes; None outside of git.
    """

    model: str
    weights: str | None
    weights_digest: str | None
    options: Options
    commit: str | None


class Line(TypedDict, total=False):
    """One picture; a failed one has ``key``, ``input``, ``output`` and ``error``, and not the rest.

    key: The picture's name below its root.
    input: Its file, if it has one.
    output: The file that was made, below the folder in which the lines lie.
    error: Why there is none.
    lr_size: Height and width of the input, upright.
    size: Height and width of the output.
    scale: Factor that was asked for.
    seconds: From the picture on the device to whole levels on the host; neither reading nor
        encoding, which go on beside it.
    peak_memory: Bytes: on a GPU the most that tensors took on it meanwhile; on a CPU the most
        memory that the process had meanwhile, with all that it keeps; None where nothing tells.
    device: Name of the device.
    tiles: Tiles that it went through, 1 for a whole picture; None where the method does not say.
    seed: Which of its outputs a stochastic method gave; None for one that drew nothing.
    frames: Of a clip, how many it has.
    video: Kind of the video beside a clip's frames; None for none.
    input_bytes: Size of the input's file when it was read.
    input_modified: When it had been changed then, in nanoseconds since 1970.
    input_digest: Hash of its bytes; None if it was changed before they could be hashed.
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
    seed: int | None
    frames: int
    video: str | None
    input_bytes: int | None
    input_modified: int | None
    input_digest: str | None


class _Known(NamedTuple):
    """What is kept of a line in memory: large folders have many."""

    made: int  # number of what it was made by
    seed: int | None
    input_bytes: int | None
    input_modified: int | None
    input_digest: str | None
    frames: int | None
    video: str | None


class Predictions:
    """The lines of one folder of outputs.

    A line is written in one go, behind all others, under a lock of the file: threads and processes
    do not mix theirs. It is there before its picture: a picture without a line was made by nobody
    that is known. Of several lines of one output the last holds.

    Args:
        folder: Where the outputs lie.
        made: What this run's pictures have in common.
        seed: Which of its outputs a stochastic method gives in this run.

    Raises:
        ValueError: A folder lies in the file's place.
    """

    def __init__(self, folder: Path, made: Made, seed: int = 0) -> None:
        self.path = folder / NAME
        self.made, self.seed = made, seed
        self._now = _compared(made)
        self._ways: list[Options] = []  # in which the pictures of the lines were made
        self._numbers: dict[str, int] = {}  # of them
        self._known: dict[str, _Known] = {}
        self._errors: dict[str, str] = {}
        self._lock = threading.Lock()
        for line in _lines(self.path):
            self._keep(line)

    def differences(self, output: str, source: str | None) -> list[str]:
        """In what the picture that lies there differs from one that this run would make.

        Args:
            output: Its file below the folder.
            source: File of the input, if it has one.

        Returns:
            One entry a difference; none if it can stay.
        """
        known = self._known.get(output)
        if known is None:
            return [f"no line of {NAME} says how it was made"]
        then, now = self._ways[known.made], self._now
        found = [
            f"{key}: {_shown(then.get(key))} -> {_shown(now.get(key))}"
            for key in sorted(then.keys() | now.keys())
            if then.get(key) != now.get(key)
        ]
        if known.seed not in (None, self.seed):
            found.append(f"seed_everything: {known.seed} -> {self.seed}")
        if not _same_input(known, source):
            found.append("it was made of another picture of the same name")
        return found

    def written(self, output: str) -> tuple[int | None, str | None] | None:
        """Return the number of frames and the kind of video that an earlier run wrote.

        Args:
            output: The output's path below the folder.

        Returns:
            Each None if there are none, or the line is of an earlier version. None instead of both
            without a line: then nothing there is known to be an output.
        """
        known = self._known.get(output)
        if known is None:
            return None
        frames = known.frames if isinstance(known.frames, int) else None
        return frames, known.video if isinstance(known.video, str) else None

    def named_otherwise(self, keys: Mapping[str, str]) -> dict[str, tuple[str, str]]:
        """Find outputs of inputs whose key is another one now, with or without the extension.

        ``a.jpg`` alone has the key ``a``, and beside ``a.png`` it has ``a.jpg``: the output from
        before looks as if it were made of the other file.

        Args:
            keys: Of the inputs of this run, by their files.

        Returns:
            For each output that is still there and belongs to no input of this run: the file it was
            made of, and its key now.
        """
        now = {os.path.abspath(source): key for source, key in keys.items()}
        found: dict[str, tuple[str, str]] = {}
        for line in _lines(self.path):
            if "error" in line:
                continue
            source, then = line.get("input"), line.get("key")
            key = now.get(os.path.abspath(source)) if isinstance(source, str) else None
            suffix = Path(source or "").suffix
            other = isinstance(then, str) and key is not None and key != then
            if other and key in (f"{then}{suffix}", f"{then}".removesuffix(suffix)):
                found[line["output"]] = (str(source), str(key))
            else:
                found.pop(line["output"], None)  # of several lines the last holds
        folder = self.path.parent
        return {name: of for name, of in found.items() if (folder / name).exists()}

    def add(self, line: Line) -> None:
        """Write a line; on the disk's cache when this returns."""
        with self._lock:
            if "error" in line:
                if self._errors.get(line["output"]) == line["error"]:
                    return  # told by an earlier run
                self._errors[line["output"]] = line["error"]
                self._append(dict(line))
            else:
                self._errors.pop(line["output"], None)  # the same error later is news
                self._append({**line, **self.made})

    def _keep(self, line: dict[str, Any]) -> None:
        output = line["output"]
        if "error" in line:
            self._errors[output] = line["error"]
            return
        self._errors.pop(output, None)
        way = _compared(line)
        number = self._numbers.setdefault(json.dumps(way, sort_keys=True), len(self._ways))
        if number == len(self._ways):
            self._ways.append(way)
        self._known[output] = _Known(number, *(line.get(name) for name in _Known._fields[1:]))

    def _append(self, content: dict[str, Any]) -> None:
        data = json.dumps(content, separators=(", ", ": ")).encode() + b"\n"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        try:
            # A disk that several machines share knows only by the lock where the end is now. Where
            # there are no locks, one machine's writes to the end still come one after another. Not
            # lockf: a process loses that lock when any thread of it closes the file.
            with contextlib.suppress(OSError):
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            size = os.fstat(descriptor).st_size
            if size and os.pread(descriptor, 1, size - 1) != b"\n":  # a full disk cut it off
                data = b"\n" + data
            if os.write(descriptor, data) != len(data):
                raise OSError(f"{self.path}: a line could not be written whole; is the disk full?")
        finally:
            with contextlib.suppress(OSError):  # itself: a child forked meanwhile has it open, too
                fcntl.flock(descriptor, fcntl.LOCK_UN)
            os.close(descriptor)


def options_of(config: Mapping[str, Any]) -> Options:
    """The settings that decide how an output looks, flat, by their keys on the command line.

    All of the model's but those of its training, and of any group that is not known to have no
    influence; what is None is left out.

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


def digest_of(model: nn.Module) -> str | None:
    """Hash of all tensors of a model that a checkpoint could hold; None where there are none."""
    hashed, found = xxhash.xxh3_64(), False
    for name, value in sorted(model.state_dict().items()):
        if isinstance(value, Tensor):
            found = True
            hashed.update(name.encode())
            flat = value.detach().cpu().contiguous().reshape(-1)
            hashed.update(flat.view(torch.uint8).numpy().data)
    return hashed.hexdigest() if found else None


def facts_of(source: str | None, read: Sequence[int] | None = None) -> Line:
    """Size, time and hash of an input's file, as far as they can be had; for a line of its output.

    Args:
        source: The file, if there is one.
        read: Its size in bytes and its time in nanoseconds when its pixels were read; by default
            those it has now. A file that has others by now is not hashed.
    """
    if source is None:
        return {}
    try:
        digest: str | None = xxhash.xxh3_64_hexdigest(Path(source).read_bytes())
        found = os.stat(source)  # after the bytes: what changes between the two is seen
        now = [found.st_size, found.st_mtime_ns]
    except OSError:  # the picture has been read before: what happened since is not our matter
        digest, now = None, []
    then = now if read is None else list(read)
    if not then:
        return {}
    return {
        "input_bytes": then[0],
        "input_modified": then[1],
        "input_digest": digest if now == then else None,
    }


def outputs_in(folder: Path) -> set[str]:
    """Files below a folder that its lines name as made, whether or not they are still there.

    Raises:
        ValueError: A folder lies in the place of the file with the lines.
    """
    return {line["output"] for line in _lines(folder / NAME) if "error" not in line}


def refusal(folder: Path, there: int, others: dict[str, list[str]]) -> str:
    """What to say where pictures are there that this run would have made otherwise.

    Args:
        folder: Where they lie.
        there: How many are there.
        others: Their differences, by key; at least one.
    """
    counted = Counter(difference for found in others.values() for difference in found)
    shown = [f"{difference} ({count})" for difference, count in counted.most_common(SHOWN)]
    more = [f"{len(counted) - SHOWN} more"] * (len(counted) > SHOWN)
    return (
        f"{len(others)} of {there} outputs in {folder} were made otherwise than now, such as "
        f"{next(iter(others))!r}:\n  " + "\n  ".join(shown + more) + "\nTake another "
        "--writer.folder or --writer.suffix, make those anew (--writer.changed renew), or keep "
        "them as they are (--writer.changed keep)"
    )


def _of_source(key: str) -> bool:
    parts = key.removeprefix(SOURCE).split(".")
    # What is enlarged is not degraded before.
    return key.startswith(SOURCE) and parts[-1] not in WHERE and "degradation" not in parts


def _compared(made: Mapping[str, Any]) -> Options:
    # Weights are compared by what is in them, wherever they came from.
    own = {k: v for k, v in made["options"].items() if not k.endswith("weights")}
    first = {"model.class_path": made["model"], "digest of the weights": made["weights_digest"]}
    return {**first, **own}


def _same_input(known: _Known, source: str | None) -> bool:
    if source is None or known.input_bytes is None:
        return True  # nothing to compare by
    try:
        found = os.stat(source)
    except OSError:
        return False
    if found.st_size != known.input_bytes:
        return False
    if found.st_mtime_ns == known.input_modified:
        return True
    return facts_of(source).get("input_digest") == known.input_digest  # it may have been copied


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    try:
        file = open_regular(path)
    except FileNotFoundError:
        return
    except OSError as error:
        if error.errno not in (errno.EISDIR, errno.EINVAL):
            raise
        what = "a folder" if error.errno == errno.EISDIR else error.strerror
        raise ValueError(
            f"{path} is {what}, and lines about the outputs are written into a file of that name: "
            "move it away, or take another --writer.folder"
        ) from error
    with file:
        for text in file:
            try:
                line = json.loads(text)
                if "error" not in line:
                    _compared(line)
                if not isinstance(line["output"], str):
                    continue
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
                continue  # cut off by a full disk, or of other origin: as if it were not there
            yield line


def _flat(content: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in content.items():
        if isinstance(value, Mapping) and value:
            yield from ((f"{key}.{inner}", leaf) for inner, leaf in _flat(value))
        else:
            yield key, value


def _shown(value: Any) -> str:
    return "unset" if value is None else str(value)
