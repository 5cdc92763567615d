"""``predictions.jsonl``: a line for each image of ``predict``, read by later runs."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import threading
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypedDict

import torch
import xxhash
from torch import Tensor, nn

from callbacks.predict.files import exists
from files.owned import refuse_foreign
from files.paths import PREDICTIONS, open_regular

NAME = PREDICTIONS
Changed = Literal["refuse", "keep", "renew"]

# Groups of the configuration that do not change outputs, or are stored separately.
OTHER_GROUPS = frozenset(
    {"config", "run", "checkpoint", "writer", "degradation", "trainer", "data", "seed_everything"}
    | {"ckpt_path", "weights_only", "return_predictions"}
)
ITSELF = frozenset({"trainer.precision"}) | {
    f"data.init_args.{name}" for name in ("scale", "size", "degradation_seed")
}

# All settings of a Source but those that say which images it has, where they lie, and how they
# are read.
SOURCE = "data.init_args.predict.init_args."
WHERE = frozenset({"count", "samples", "names", "root", "files", "file", "recursive", "urls"}) | {
    *("shard_in_key", "index_cache", "cache_dir", "cache_size", "read_ahead", "retries"),
    *("deadline", "allow_pipes"),
}

# Have fields of their own, are linked to another key, or change nothing but the memory.
APART = frozenset(
    {"model.class_path", "model.init_args.scale", "model.init_args.weights"}
    | {"tiling.batch", "tiling.together"}
)
TRAINING = ("model.init_args.optimizer", "model.init_args.lr_scheduler")
SHOWN = 4  # differences in a refusal
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
    scale: The requested factor.
    seconds: From the image on the device to integer levels on the host, without reading and
        encoding, which run concurrently. Of a video the mean over frames of the run that ended it.
    peak_memory: Bytes: on a GPU the peak of all tensors; on a CPU the peak of the whole process;
        None if unknown.
    device: Name of the device.
    tiles: Number of tiles, 1 for a whole image; None if the method does not report it.
    seed: Seed of a stochastic method's noise; None if it drew none.
    frames: Number of frames of a clip or a video.
    video: Format of the video beside a clip's frames; None for none.
    input_bytes: Size of the input's file when it was read.
    input_modified: Its modification time then, in nanoseconds since 1970.
    input_digest: Hash of its bytes; None if it changed before they could be hashed.
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
    """The part of a line that is kept in memory: large folders have many."""

    made: int  # index of the options it was made with
    seed: int | None
    input_bytes: int | None
    input_modified: int | None
    input_digest: str | None
    frames: int | None
    video: str | None


class Predictions:
    """The lines of one folder of outputs.

    A line is appended in one write under a lock of the file, so that threads and processes do not
    mix theirs. It is written before its image: the origin of an image without a line is unknown. If
    an output has several lines, the last one is valid.

    Args:
        folder: The folder of the outputs.
        made: The properties that this run's images share.
        seed: Seed of a stochastic method's noise in this run.

    Raises:
        ValueError: If its path is a folder, or a file that this program did not write.
    """

    def __init__(self, folder: Path, made: RunProperties, seed: int = 0) -> None:
        self.path = folder / NAME
        refuse_foreign(self.path)
        self.made, self.seed = made, seed
        self._now = _compared(made)
        self._ways: list[Options] = []  # in which the images of the lines were made
        self._numbers: dict[str, int] = {}  # of them
        self._known: dict[str, _Known] = {}
        self._errors: dict[str, str] = {}
        self._lock = threading.Lock()
        for line in _lines(self.path):
            self._keep(line)

    def differences(self, output: str, source: str | None, own: Options | None = None) -> list[str]:
        """Return the differences of an existing output from one that this run would make.

        Args:
            output: Its file below the folder.
            source: File of the input, if it has one.
            own: Options of this output alone.

        Returns:
            One entry per difference; empty if it can be kept.
        """
        known = self._known.get(output)
        if known is None:
            return [f"no line of {NAME} describes it"]
        then, now = self._ways[known.made], self.way(own)
        found = [
            f"{key}: {_shown(then.get(key))} -> {_shown(now.get(key))}"
            for key in sorted(then.keys() | now.keys())
            if then.get(key) != now.get(key)
        ]
        if known.seed not in (None, self.seed):
            found.append(f"seed_everything: {known.seed} -> {self.seed}")
        if not _same_input(known, source):
            found.append("it was made of another image of the same name")
        return found

    def written(self, output: str) -> tuple[int | None, str | None] | None:
        """Return the number of frames and the video format that an earlier run wrote.

        Args:
            output: The output's path below the folder.

        Returns:
            Each None if there are none, or the line is of an earlier version. None instead of both
            without a line: then it is not known to be an output.
        """
        known = self._known.get(output)
        if known is None:
            return None
        frames = known.frames if isinstance(known.frames, int) else None
        return frames, known.video if isinstance(known.video, str) else None

    def renamed_inputs(self, keys: Mapping[str, str]) -> dict[str, tuple[str, str]]:
        """Find outputs of inputs whose key has changed, by gaining or losing the extension.

        ``a.jpg`` alone has the key ``a``, but beside ``a.png`` it has ``a.jpg``: the earlier output
        then seems to belong to the other file.

        Args:
            keys: Keys of the inputs of this run, by file.

        Returns:
            For each existing output that belongs to no input of this run: its input file and that
            file's key now.
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
                found.pop(line["output"], None)  # of several lines the last one is valid
        folder = self.path.parent
        return {name: of for name, of in found.items() if exists(folder / name)}

    def add(self, line: Line, own: Options | None = None) -> None:
        """Write a line; it is in the disk's cache when this returns.

        Args:
            line: The image.
            own: Options of this output alone.
        """
        with self._lock:
            if "error" in line:
                if self._errors.get(line["output"]) == line["error"]:
                    return  # reported by an earlier run
                self._errors[line["output"]] = line["error"]
                self._append(dict(line))
            else:
                self._errors.pop(line["output"], None)  # the same error is reported again later
                options = {**self.made["options"], **(own or {})}
                self._append({**line, **self.made, "options": options})

    def way(self, own: Options | None = None) -> Options:
        """Return all that must be equal, so that two outputs of an input are.

        Args:
            own: Options of this output alone.
        """
        return {**self._now, **(own or {})}

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
            # On a disk that several machines share, the end is only known under a lock. Without
            # locks, appends of one machine are still sequential. Not lockf: a process loses that
            # lock when any of its threads closes the file.
            with contextlib.suppress(OSError):
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            size = os.fstat(descriptor).st_size
            if size and os.pread(descriptor, 1, size - 1) != b"\n":  # truncated by a full disk
                data = b"\n" + data
            if os.write(descriptor, data) != len(data):
                raise OSError(f"{self.path}: a line could not be written whole; is the disk full?")
        finally:
            with contextlib.suppress(OSError):  # explicitly: a forked child may have it open, too
                fcntl.flock(descriptor, fcntl.LOCK_UN)
            os.close(descriptor)


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


def digest_of(model: nn.Module) -> str | None:
    """Return a hash of all tensors of a model that a checkpoint could hold; None without any."""
    hashed, found = xxhash.xxh3_64(), False
    for name, value in sorted(model.state_dict().items()):
        if isinstance(value, Tensor):
            found = True
            hashed.update(name.encode())
            flat = value.detach().cpu().contiguous().reshape(-1)
            hashed.update(flat.view(torch.uint8).numpy().data)
    return hashed.hexdigest() if found else None


def input_facts(source: str | None, read: Sequence[int] | None = None) -> Line:
    """Return size, time and hash of an input's file, as far as available, for its output's line.

    Args:
        source: The file, if there is one.
        read: Its size in bytes and its time in nanoseconds when its pixels were read; by default
            the current ones. A file that has changed since is not hashed.
    """
    if source is None:
        return {}
    try:
        digest: str | None = _digest(source)
        found = os.stat(source)  # after the bytes, to notice changes between the two
        now = [found.st_size, found.st_mtime_ns]
    except OSError:  # the image has been read; later changes of the file do not matter
        digest, now = None, []
    then = now if read is None else list(read)
    if not then:
        return {}
    return {
        "input_bytes": then[0],
        "input_modified": then[1],
        "input_digest": digest if now == then else None,
    }


def _digest(source: str) -> str:
    hashed = xxhash.xxh3_64()
    with open(source, "rb") as file:
        while part := file.read(1 << 20):  # videos are large
            hashed.update(part)
    return hashed.hexdigest()


def outputs_in(folder: Path) -> set[str]:
    """Return the output files of a folder according to its lines, whether or not they exist.

    Raises:
        ValueError: If the path of the file is a folder.
    """
    return {line["output"] for line in _lines(folder / NAME) if "error" not in line}


def last_lines(folder: Path, outputs: Collection[str]) -> dict[str, dict[str, Any]]:
    """Return the last line of each of these outputs, and of all that could not be made.

    Args:
        folder: The folder of the outputs.
        outputs: Names of some outputs; a large folder's lines would fill the memory.
    """
    found: dict[str, dict[str, Any]] = {}
    for line in _lines(folder / NAME):
        if line["output"] in outputs or "error" in line:
            found[line["output"]] = line
        else:
            found.pop(line["output"], None)  # made after an error
    return found


def refusal(folder: Path, there: int, others: dict[str, list[str]]) -> str:
    """Return the message about existing outputs that this run would make differently.

    Args:
        folder: Their folder.
        there: Number of existing outputs.
        others: Their differences, by key; at least one.
    """
    counted = Counter(difference for found in others.values() for difference in found)
    shown = [f"{difference} ({count})" for difference, count in counted.most_common(SHOWN)]
    more = [f"{len(counted) - SHOWN} more"] * (len(counted) > SHOWN)
    return (
        f"{len(others)} of {there} outputs in {folder} were made otherwise than now, such as "
        f"{next(iter(others))!r}:\n  " + "\n  ".join(shown + more) + "\nTake another "
        "--writer.folder or --writer.suffix, write those again (--writer.changed renew), or keep "
        "them as they are (--writer.changed keep)"
    )


def _of_source(key: str) -> bool:
    parts = key.removeprefix(SOURCE).split(".")
    # Inputs of predict are not degraded.
    return key.startswith(SOURCE) and parts[-1] not in WHERE and "degradation" not in parts


def _compared(made: Mapping[str, Any]) -> Options:
    # Weights are compared by content, not by path.
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
    return input_facts(source).get("input_digest") == known.input_digest  # it may have been copied


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
                continue  # truncated by a full disk, or of other origin: ignored
            yield line


def _flat(content: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in content.items():
        if isinstance(value, Mapping) and value:
            yield from ((f"{key}.{inner}", leaf) for inner, leaf in _flat(value))
        else:
            yield key, value


def _shown(value: Any) -> str:
    return "unset" if value is None else str(value)
