"""Writer: the files of predict, with time and memory of each image."""

from __future__ import annotations

import logging
import os
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Literal, NamedTuple, cast, get_args

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from callbacks.evaluation import gather, output_image, predicted_dataset
from callbacks.files import commit
from callbacks.predict.files import (
    EIGHT_BIT,
    OPAQUE,
    SPELLED,
    Extras,
    Format,
    Pixels,
    Video,
    check_encoder,
    check_folder,
    check_video,
    choices_text,
    enlarge_alpha,
    exists,
    fitted_exif,
    fitted_extras,
    foreign_files_message,
    frames_of,
    is_complete,
    output_levels,
    remove,
    unwritable_reason,
    video_of,
    write_clip,
    write_image,
)
from callbacks.predict.page import PAGE, write_predict_page
from callbacks.predict.places import OutputPlaces
from callbacks.predict.predictions import (
    NAME,
    Changed,
    Line,
    Predictions,
    RunProperties,
    digest_of,
    input_facts,
    options_of,
    refusal,
)
from callbacks.predict.videos import (
    Codec,
    VideoSettings,
    VideoWriter,
    check_codec,
    finished_segments,
    remove_parts,
)
from files.class_path import class_path
from files.folder_lock import FolderLock
from files.method import method_of
from files.owned import foreign, refuse_foreign, remove_file
from files.paths import expand_path, size_and_time
from files.video import VideoFrame

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
FORGET_PEAK = "5"  # written to Linux's clear_refs


class Usage(NamedTuple):
    """Time and memory of one image.

    seconds: Wall-clock time.
    peak_memory: Bytes; None if unknown.
    """

    seconds: float
    peak_memory: int | None


class Meter:
    """Measure time and memory from ``start`` to ``stop``.

    On a GPU, memory is the peak of all tensors. On a CPU it is the peak of the process, which
    includes the weights, the libraries, and leftovers of earlier images; only Linux reports it.
    """

    def __init__(self) -> None:
        self._device = torch.device("cpu")
        self._began = 0.0
        self._reset = False  # whether the system reset the earlier peak

    def start(self, device: torch.device) -> None:
        """Start with an image; the device must be idle.

        Args:
            device: The model's device.
        """
        self._device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        else:
            self._reset = _forget_peak()
        self._began = time.perf_counter()

    def stop(self) -> Usage:
        """Return time and memory since ``start``; the image must be on the host."""
        seconds = time.perf_counter() - self._began
        if self._device.type == "cuda":
            return Usage(seconds, torch.cuda.max_memory_allocated(self._device))
        return Usage(seconds, _peak() if self._device.type == "cpu" and self._reset else None)


def _forget_peak() -> bool:
    try:
        CLEAR.write_text(FORGET_PEAK, encoding="utf-8")
    except OSError:  # not Linux, or a sandbox
        return False
    return True


def _peak() -> int | None:
    try:
        lines = STATUS.read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    found = [line.split()[1] for line in lines if line.startswith("VmHWM:")]
    return 1024 * int(found[0]) if found else None


log = logging.getLogger(__name__)
THREADS = 2
Profile = Literal["keep", "convert"]
ExifPart = Literal["keep", "no_place", "drop"]


def _no_more(key: str) -> None:
    """Do nothing: the frames do not come from our data module."""


def _losses(frame: VideoFrame) -> list[str]:
    """Return what an enlarged video does not keep, as far as a frame tells."""
    fields = "fields (interlaced, enlarged as progressive: deinterlace first)"
    return [fields] * frame.interlaced + ["transparency"] * frame.transparent


@dataclass
class _Video:
    """A video that is written.

    key: Its key.
    writer: Its writer.
    seconds: Of its frames in this process.
    line: Its line, once this process had the last frame.
    """

    key: str
    writer: VideoWriter
    seconds: list[float] = field(default_factory=list)
    line: Line | None = None


class _Lost(NamedTuple):
    """A video that is not written.

    reason: Why.
    broken: Whether the input is broken.
    ours: Whether this command wrote segments of it.
    """

    reason: str
    broken: bool
    ours: bool


class Writer(Callback):
    """Write the enlarged images of ``predict``, skipping outputs of earlier runs.

    Files are ``<folder>/<key><suffix>.<format>``, where the key is the input's path below its root
    without the extension. Alpha, 16 bit (``png``, ``tiff``), colour profile, EXIF and grey are
    kept. An image that cannot be read or written is reported and counted. Files are written
    atomically, so an interrupted run can be started again. Encoding runs in threads beside the
    model. Each image has a line in ``<folder>/predictions.jsonl``. A clip is a folder,
    ``<folder>/<key><suffix>``, of frames ``0001.<format>`` and so on, written atomically, too. A
    video becomes ``<folder>/<key><suffix>.mp4`` with the times, colours, rotation and audio of its
    input; a stopped run continues it.

    Args:
        folder: Where to write; by default ``predict`` in the run's directory.
        suffix: Added to each name, e.g. ``_x2``.
        format: File format; ``jpeg`` is ``jpg``, and ``tif`` is ``tiff``.
        overwrite: Write existing outputs again. An input is never overwritten.
        quality: Quality of ``jpg`` and ``webp``, 1 to 100.
        changed: What to do if outputs exist that were made with other weights, options or inputs,
            or in an unknown way: ``refuse`` to start, ``keep`` them, or write them again
            (``renew``).
        profile: ``keep`` pixel values and colour profile, or first ``convert`` them to sRGB.
        exif: ``keep`` camera, exposure, dates, author and place; or these except the place
            (``no_place``); or ``drop`` all.
        video: Also write a video of a clip: ``mp4`` (H.264; needs the extra ``video``) or ``gif``.
        fps: Frames per second of the video; a GIF counts in hundredths of a second.
        page: Write ``<folder>/predict.html``: each output beside bicubic, with a slider.
        codec: Codec of enlarged videos.
        crf: Quality of enlarged videos by the codec's own scale: from 0, the best, to 51 (``av1``:
            63).

    Raises:
        ValueError: If a setting is out of range, or an output in the place of an input.
    """

    def __init__(
        self,
        folder: str | None = None,
        suffix: str = "",
        format: Format | Literal["jpeg", "tif"] = "png",
        overwrite: bool = False,
        quality: int = 95,
        changed: Changed = "refuse",
        profile: Profile = "keep",
        exif: ExifPart = "keep",
        video: Video | None = None,
        fps: float = 8.0,
        page: bool = True,
        codec: Codec = "h264",
        crf: int = 18,
    ) -> None:
        super().__init__()
        if "/" in suffix or os.sep in suffix:
            raise ValueError(f"writer.suffix is {suffix!r}; a part of a file name has no /")
        if not 1 <= quality <= 100:
            raise ValueError(f"writer.quality is {quality}; expected 1 to 100")
        chosen = (("changed", changed, Changed), ("profile", profile, Profile))
        for name, value, choices in (*chosen, ("exif", exif, ExifPart)):
            if value not in get_args(choices):
                raise ValueError(f"writer.{name} is {value!r}; expected {choices_text(choices)}")
        check_video(video, fps)
        check_codec(codec, crf)
        self.folder, self.suffix = folder, suffix
        self.format: Format = SPELLED.get(format, cast("Format", format))
        self.overwrite, self.quality, self.changed = overwrite, quality, changed
        self.profile, self.exif, self.video, self.fps = profile, exif, video, fps
        self.page = page
        self._settings = VideoSettings(codec, crf, exif)
        self.config: Mapping[str, Any] = {}  # of the command; see commands/cli.py
        # For this process and run.
        self.written, self.skipped, self.unusable, self.failed = 0, 0, 0, 0
        self._root, self._of_clips = Path(), False
        self._lost: Counter[str] = Counter()
        self._video_losses: Counter[str] = Counter()
        self._noted: Counter[str] = Counter()  # what else happened to images
        self._sources: dict[str, str | None] = {}  # file of each input, by key
        self._lines: Predictions | None = None
        self._meter = Meter()
        self._pool: ThreadPoolExecutor | None = None
        self._pending: deque[tuple[Future[list[str]], Line]] = deque()
        self._videos: set[str] = set()  # keys
        self._video: _Video | None = None  # the one whose frames come now
        self._shared = False  # whether other processes make other segments of each video
        self._to_join: list[_Video] = []  # whose last frame was this process's
        self._continued: dict[str, frozenset[int]] = {}  # their finished segments, by key
        self._lost_videos: dict[str, _Lost] = {}  # by key, of this process
        self._abandon: Callable[[str], None] = _no_more  # ask for no more of its frames
        self._abandoned: set[str] = set()
        self._lock: FolderLock | None = None  # of the folder

    # ------------------------------------------------------------------------- Lightning's hooks

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check all outputs before any work is done.

        Raises:
            ValueError: If an output would replace an input; or outputs exist that were
                made otherwise; or none can be written.
        """
        if stage != "predict":
            return
        self.written, self.skipped, self.unusable, self.failed = 0, 0, 0, 0
        self._lost.clear()
        self._video_losses.clear()
        self._noted.clear()
        self._sources.clear()
        self._abandoned.clear()
        self._to_join.clear()
        self._lost_videos.clear()
        self._abandon = _no_more
        self._shared = trainer.world_size > 1 and not method_of(pl_module).tiles_are_shared
        self._root = self.output_folder(trainer)
        check_folder(self._root)
        if self.page:
            refuse_foreign(self._root / PAGE)
        datamodule: Any = getattr(trainer, "datamodule", None)
        self._of_clips = getattr(datamodule, "predict_frames", None) is not None
        known = hasattr(datamodule, "predict_keys")  # else a plain DataLoader: each batch has them
        check_encoder(self.video, self._of_clips or not known)
        self._lines = self._open_lines(pl_module)
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="writer")
        if not known:
            return
        if self.profile == "convert":
            datamodule.convert_in_predict()
        keys = datamodule.predict_keys
        paths = getattr(datamodule, "predict_paths", [None] * len(keys))
        self._sources = dict(zip(keys, paths, strict=True))
        self._videos = set(getattr(datamodule, "predict_videos", []))
        targets = {key: self._target(key) for key in keys}
        places = OutputPlaces(self._root, (path for path in paths if path is not None))
        places.check_all(targets, self._of_clips)
        if trainer.is_global_zero:
            self._warn_of_other_names({self._name(key) for key in keys})
        done = self._done({key for key, path in targets.items() if is_complete(path, self.video)})
        for key in keys if self._of_clips else ():
            self._check_clip(key, places, replaced=key not in done)
        self.skipped = len(done)
        check_folder(self._root, to_write=len(done) < len(keys))
        datamodule.skip_in_predict(done)
        if self._videos:
            if not method_of(pl_module).tiles_are_shared:  # else all processes need the same frames
                self._abandon = datamodule.abandon_in_predict
            self._continued = self._begun(targets, done, trainer.is_global_zero)
            datamodule.continue_in_predict(self._continued)
        if trainer.is_global_zero and len(done) < len(keys):
            self._lock = self._locked()

    def _locked(self) -> FolderLock:
        """Lock the folder; warn if another command writes to it."""
        lock = FolderLock(self._root)
        with suppress(OSError):  # a disk without locks
            if not lock.acquire():
                log.warning(
                    "%s is being written by %s: outputs that both commands make are made twice",
                    *(self._root, lock.holder()),
                )
        return lock

    def on_predict_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Begin the video of a frame, before it is enlarged; measure from here."""
        metas = [] if "error" in batch else batch.get("meta") or []
        if trainer.is_global_zero or not method_of(pl_module).tiles_are_shared:
            for meta in metas:
                if "frame" in meta:
                    self._begin_frame(meta, batch["size"])
        self._meter.start(pl_module.device)

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Submit the images of one batch to the writing threads."""
        if method_of(pl_module).tiles_are_shared and not trainer.is_global_zero:
            return  # all processes have this output
        dataset = predicted_dataset(trainer, dataloader_idx)
        keys = [key.removeprefix(f"{getattr(dataset, 'name', '')}/") for key in batch["key"]]
        if "error" in batch:
            for key, reason in zip(keys, batch["error"], strict=True):
                if key in self._videos:
                    self._lose_video(key, reason, broken=True)
                else:
                    self._report_broken(key, reason)
            return
        metas = batch.get("meta") or [{} for _ in keys]
        metas = [meta if "frame" in meta else self._fitting(meta) for meta in metas]
        images = list(output_image(outputs))
        sound = [bool(image.isfinite().all()) for image in images]
        self._of_clips = output_image(outputs).ndim == 5
        levels = [output_levels(image, meta) for image, meta in zip(images, metas, strict=True)]
        used = self._meter.stop()  # everything is on the host
        common = self._common(pl_module, batch, Usage(used.seconds / len(keys), used.peak_memory))
        common["scale"] = getattr(dataset, "scale", None)
        for key, pixels, meta, finite in zip(keys, levels, metas, sound, strict=True):
            if "frame" in meta:
                self._add_frame(pixels, meta, common, finite)
            else:
                self._submit(key, pixels, meta, common, finite)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Wait for the last files and log a summary.

        Raises:
            ValueError: If there are inputs, and no process has an output of any of them.
        """
        if stage != "predict" or self._pool is None:
            return
        while self._pending:
            self._settle(*self._pending.popleft())
        self._leave_video()
        if self._shared:
            self._end_shared(trainer.is_global_zero)
        self._close()
        for what, count in self._lost.items():
            log.warning("%d images lost their %s: %s cannot hold it", count, what, self.format)
        for what, count in self._video_losses.items():
            log.warning("%d videos: not kept: %s", count, what)
        for what, count in self._noted.items():
            log.warning("%d images %s", count, what)
        # A sum over all processes, so each has written its images when this is done.
        own = torch.tensor([self.written, self.unusable, self.failed])
        strategy = trainer.strategy
        counts = strategy.reduce(own.to(strategy.root_device), reduce_op="sum")
        written, unusable, failed = counts.tolist()
        idle = self.skipped and not counts.any()
        if trainer.is_global_zero:
            log.log(
                logging.WARNING if unusable or failed else logging.INFO,
                "%s%s: %d images written, %d skipped (done before), %d unusable%s; a line for each "
                "in %s",
                *("nothing to do, all outputs are there: " if idle else "", self._root),
                *(written, self.skipped, unusable),
                *(f", {failed} failed" if failed else "", NAME),
            )
        if counts.any() and not written and not self.skipped:
            raise ValueError(
                f"none of the {unusable + failed} inputs could be enlarged: {self._root / NAME} "
                "has the reason for each"
            )
        if self.page and trainer.is_global_zero:
            try:
                write_predict_page(self._root, pl_module.device)
            except Exception as error:  # must not fail a finished run
                log.warning("%s was not written: %r", self._root / PAGE, error)

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Drop pending images; the next run writes them."""
        self._close()

    # ------------------------------------------------------------------------- names, what is done

    def output_folder(self, trainer: Trainer) -> Path:
        """Return the folder of outputs in a run of this trainer.

        Raises:
            ValueError: If ``folder`` is empty, or names an environment variable that is not set.
        """
        if self.folder is None:
            return Path(trainer.default_root_dir, "predict").absolute()
        return Path(expand_path(self.folder, "writer.folder")).absolute()

    def _open_lines(self, pl_module: LightningModule) -> Predictions:
        own: dict[str, Any] = {"writer.profile": self.profile, "writer.exif": self.exif}
        if self.format in ("jpg", "webp"):
            own["writer.quality"] = self.quality
        if self._of_clips:  # their names do not show it
            own |= {"writer.format": self.format, "writer.fps": self.fps}
        made = RunProperties(
            model=class_path(type(pl_module)),
            weights=method_of(pl_module).weights_source,
            weights_digest=digest_of(pl_module),
            options={**options_of(self.config), **own},
            commit=commit(),
        )
        return Predictions(self._root, made, method_of(pl_module).noise_seed)

    def _name(self, key: str) -> str:
        if key in self._videos:
            return f"{key}{self.suffix}.mp4"
        return f"{key}{self.suffix}" + ("" if self._of_clips else f".{self.format}")

    def _target(self, key: str) -> Path:
        if PurePosixPath(key).is_absolute() or ".." in PurePosixPath(key).parts:
            raise ValueError(f"the key {key!r} leads out of the folder {self._root}")
        return self._root / self._name(key)

    def _check_clip(self, key: str, places: OutputPlaces, replaced: bool) -> None:
        """Refuse to replace frames or a video without a line of ours."""
        target = self._target(key)
        if self.video is not None:
            places.check(key, video_of(target, self.video), folder=False)
        if not replaced or self._lines is None:
            return
        written = self._lines.written(self._name(key))
        if exists(target):
            others = foreign(target, frames_of(0 if written is None else written[0]))
            if others:
                raise ValueError(foreign_files_message(target, others))
        elif self.video is not None and exists(video := video_of(target, self.video)):
            own = written is not None and written[1] == self.video
            if not (own or self.overwrite or self.changed == "renew"):
                raise ValueError(
                    f"{video} exists, and no line of {NAME} says that Enlarger wrote it: move it "
                    "away, or replace it (--writer.overwrite true)"
                )

    def _warn_of_other_names(self, names: set[str]) -> None:
        keys = {path: key for key, path in self._sources.items() if path is not None}
        found = {} if self._lines is None else self._lines.renamed_inputs(keys)
        for name, (source, key) in found.items():
            if name not in names:  # else it is compared, as all existing outputs
                message = "%s was made of %s, whose output is now %s: remove it"
                log.warning(message, self._root / name, source, self._name(key))

    def _done(self, there: set[str]) -> set[str]:
        """Return the keys of existing outputs that are kept."""
        if self.overwrite or self._lines is None:
            return set()
        if self.changed == "keep":
            return there
        found = {
            key: self._lines.differences(self._name(key), self._sources.get(key), self._own(key))
            for key in sorted(there)
        }
        others = {key: differences for key, differences in found.items() if differences}
        if others and self.changed == "refuse":
            raise ValueError(refusal(self._root, len(there), others))
        return there - others.keys()

    # ------------------------------------------------------------------------------ the videos

    def _own(self, key: str) -> dict[str, Any]:
        """Return the options that an output has besides those of the run."""
        if key not in self._videos:
            return {}
        return {"writer.codec": self._settings.codec, "writer.crf": self._settings.crf}

    def _made(self, key: str) -> dict[str, Any]:
        """Return what must be equal, so that a later run continues a video."""
        if self._lines is None:
            raise RuntimeError("Writer got a video before `setup`")
        read = size_and_time(self._sources[key] or "")
        return {"way": self._lines.way(self._own(key)), "seed": self._lines.seed, "input": read}

    def _begun(
        self, targets: Mapping[str, Path], done: set[str], first: bool
    ) -> dict[str, frozenset[int]]:
        """Return the segments that an earlier run finished; remove what is not needed."""
        for key in self._videos & done if first else ():
            remove_parts(targets[key])
        begun = {}
        for key in sorted(self._videos - done):
            found: frozenset[int] = frozenset()
            if not self.overwrite:
                found = finished_segments(targets[key], self._made(key))
            if found:
                if first:
                    log.info("%s: %d segments are there", self._sources[key], len(found))
                begun[key] = found
            elif first:
                remove_parts(targets[key])
        return begun

    def _begin_frame(self, meta: dict[str, Any], size: tuple[int, int]) -> None:
        """Leave the video before, and open that of a frame; it is not enlarged yet."""
        frame: VideoFrame = meta["frame"]
        key = frame.video
        if self._video is not None and self._video.key != key:
            self._leave_video()  # its last frame is another process's
        if self._video is not None or key in self._abandoned:
            return

        def begin() -> None:
            begun = self._continued.get(key, frozenset())
            how = (self._settings, self._made(key), begun, self._shared)
            writer = VideoWriter(self._target(key), meta["path"], *how)
            self._video = _Video(key, writer)
            writer.check(size, frame)
            losses = writer.left_out + _losses(frame)
            if losses and writer.is_first(frame):
                log.warning("%s: not kept: %s", meta["path"], ", ".join(losses))

        self._try(key, begin)

    def _add_frame(self, pixels: Pixels, meta: dict[str, Any], common: Line, finite: bool) -> None:
        frame: VideoFrame = meta["frame"]
        key, video = frame.video, self._video
        if video is None or key in self._abandoned:
            return

        def add() -> None:
            if not finite:
                raise ValueError(f"frame {frame.number} has pixels that are not finite")
            video.writer.add(pixels, frame)
            video.seconds.append(common["seconds"])
            if frame.last:
                video.line = self._video_line(video, meta, list(pixels.shape[:2]), common)

        self._try(key, add)
        if frame.last:
            self._video_losses.update(_losses(frame))
            self._leave_video()

    def _video_line(
        self, video: _Video, meta: dict[str, Any], size: list[int], common: Line
    ) -> Line:
        facts = input_facts(meta["path"], meta["read"])
        named = Line(key=video.key, input=meta["path"], output=self._name(video.key))
        seconds = round(sum(video.seconds) / len(video.seconds), 6)
        own = Line(size=size, frames=meta["frame"].number, seconds=seconds)
        return Line(**{**named, **common, **own, **facts})

    def _leave_video(self) -> None:
        """End the current video's frames in this process, and join what is whole."""
        video = self._video
        if video is None or not self._try(video.key, video.writer.end):
            return
        self._video = None
        if video.line is None:
            video.writer.close()
        else:
            self._to_join.append(video)
        self._join_whole(last=not self._shared)

    def _join_whole(self, last: bool) -> None:
        """Join the videos that have all segments; ``last``: warn of the others."""
        for video in list(self._to_join):
            if video.writer.is_whole():
                self._join(video)
            elif last:
                log.warning(
                    "%s: not all of its segments are there, or another command writes them: run "
                    "the command again",
                    video.writer.target,
                )
            else:
                continue
            video.writer.close()
            self._to_join.remove(video)

    def _join(self, video: _Video) -> None:
        def note() -> None:  # in the same order as for an image
            remove_file(video.writer.target)
            if self._lines is not None and video.line is not None:
                self._lines.add(video.line, self._own(video.key))

        def join() -> None:
            video.writer.join(note)
            self.written += 1

        if not self._try(video.key, join):
            video.writer.drop()

    def _end_shared(self, first: bool) -> None:
        """Join and report the other videos, once all processes have ended their segments."""
        found = gather(self._lost_videos)
        self._shared = False
        lost = {key: one for some in found for key, one in some.items()}
        ours = {key for some in found for key, one in some.items() if one.ours}
        for video in [video for video in self._to_join if video.key in lost]:
            video.writer.drop()
            self._to_join.remove(video)
        self._join_whole(last=True)
        for key, one in sorted(lost.items()) if first else ():
            if key in ours:
                remove_parts(self._target(key))
            self._lose_video(key, one.reason, one.broken)

    def _try(self, key: str, work: Callable[[], None]) -> bool:
        """Return whether a part of a video succeeded; an encoder's error does not end the run."""
        try:
            work()
        except OSError:  # a disk error, which other videos will have, too
            raise
        except Exception as error:  # whatever encoders raise
            self._abandon(key)
            self._abandoned.add(key)
            self._lose_video(key, f"it cannot be written as a video: {error}", broken=False)
            return False
        return True

    def _lose_video(self, key: str, reason: str, broken: bool) -> None:
        """Report a video that is not written, and drop it; if it is shared, once all have ended."""
        ours = self._video is not None and self._video.key == key
        if self._video is not None and ours:
            writer, self._video = self._video.writer, None
            (writer.close if self._shared else writer.drop)()
        if self._shared:
            self._lost_videos[key] = _Lost(reason, broken, ours)
        elif broken:
            self._report_broken(key, reason)
        else:
            self._fail(key, self._sources.get(key), reason)

    # ------------------------------------------------------------------------------ the images

    def _fitting(self, meta: dict[str, Any]) -> dict[str, Any]:
        """Return the extras of an image that the format can hold; count the rest."""
        meta = dict(meta)
        if meta.get("bit_depth") == 16 and self.format in EIGHT_BIT:
            self._lost["16 bit"] += 1
            meta["bit_depth"] = 8
        if meta.get("alpha") is not None and self.format in OPAQUE:
            self._lost["transparency"] += 1
            meta["alpha"] = None
        if meta.get("more"):
            self._noted["have more frames or pages: only the first is used"] += 1
        if meta.get("cicp") and self.profile == "convert":
            self._noted["are not converted: sRGB cannot show HDR"] += 1
        if self.exif == "drop":
            meta["exif"] = None
        return meta

    def _common(self, pl_module: LightningModule, batch: Any, used: Usage) -> Line:
        lr, method = batch.get("lr"), method_of(pl_module)
        device = pl_module.device
        cuda = device.type == "cuda"
        return Line(
            lr_size=None if lr is None else list(lr.shape[-2:]),
            seconds=round(used.seconds, 6),
            peak_memory=used.peak_memory,
            device=torch.cuda.get_device_name(device) if cuda else device.type,
            tiles=method.tile_count,
            seed=method.noise_seed if method.drew_noise else None,
        )

    def _submit(
        self, key: str, pixels: Pixels, meta: dict[str, Any], common: Line, finite: bool
    ) -> None:
        target, source = self._target(key), meta.get("path") or self._sources.get(key)
        if not self._sources or "path" in meta:  # or it was checked in `setup`
            places = OutputPlaces(self._root, [meta["path"]] if "path" in meta else [])
            places.check(key, target, folder=pixels.ndim == 4)
        if not self._sources and is_complete(target, self.video) and self._done({key}):
            self.skipped += 1
            return
        if not self._sources and pixels.ndim == 4:
            self._check_clip(key, places, replaced=True)
        if reason := unwritable_reason(pixels, finite, self.format):
            self._fail(key, source, reason)
            return
        if self._pool is None:
            raise RuntimeError("Writer got an image before `setup` or after `teardown`")
        named = Line(key=key, input=source, output=self._name(key))
        line = Line(**{**named, "size": list(pixels.shape[-3:-1]), **common})
        self._pending.append((self._pool.submit(self._write, target, pixels, meta, line), named))
        # Only a few images may wait: they are large.
        while len(self._pending) > 2 * THREADS or (self._pending and self._pending[0][0].done()):
            self._settle(*self._pending.popleft())

    def _settle(self, writing: Future[list[str]], named: Line) -> None:
        """Wait for an image to be written; an encoder's error does not end the run."""
        try:
            lost = writing.result()
        except OSError:  # a disk error, which other images will have, too
            raise
        except Exception as error:  # whatever encoders raise
            reason = f"it cannot be written as {self.format}: {type(error).__name__}: {error}"
            self._fail(named["key"], named["input"], reason)
            return
        self.written += 1
        self._lost.update(lost)

    def _fail(self, key: str, source: str | None, reason: str) -> None:
        self.failed += 1
        log.warning("not written: %s: %s", key, reason)
        self._note_error(key, source, reason)

    def _report_broken(self, key: str, reason: str) -> None:
        self.unusable += 1
        log.warning("unusable, left out: %s", reason)
        self._note_error(key, self._sources.get(key), reason)

    def _note_error(self, key: str, source: str | None, reason: str) -> None:
        if self._lines is not None:
            self._lines.add(Line(key=key, input=source, output=self._name(key), error=reason))

    def _write(self, target: Path, pixels: Pixels, meta: dict[str, Any], line: Line) -> list[str]:
        """Write an image and its line; return what the format cannot hold."""
        if meta.get("alpha") is not None:
            alpha = enlarge_alpha(meta["alpha"], pixels)
            pixels = np.concatenate([pixels, alpha], axis=2)
        exif = meta.get("exif")
        if exif is not None:
            exif = fitted_exif(exif, pixels.shape[:2], self.exif == "keep")
        facts = input_facts(line["input"], meta.get("read"))

        def note() -> None:
            # The new image is complete on the disk. The old one is removed before the line is
            # written, and the line before the new one appears. So a kill at any time leaves no
            # image of another run with this line, and none without a line: at worst the image is
            # missing, and the next run writes it.
            if pixels.ndim == 4:
                remove(target, *self._written(line["output"]))
                own = Line(frames=len(pixels), video=self.video)
            else:
                remove_file(target)
                own = Line()
            if self._lines is not None:
                self._lines.add(Line(**{**line, **own, **facts}))

        if pixels.ndim == 4:
            video = (self.video, self.fps)
            write_clip(target, pixels, self.format, self.quality, video, note)
            return []
        extras = Extras(meta.get("icc"), exif, meta.get("cicp"))
        extras, lost = fitted_extras(extras, pixels, self.format)
        write_image(target, pixels, extras, self.format, self.quality, note)
        return lost

    def _written(self, output: str) -> tuple[int | None, set[Video]]:
        """Return the number of frames of an earlier run, and the videos to remove with them."""
        count, video = (self._lines and self._lines.written(output)) or (0, None)
        return count, {kind for kind in get_args(Video) if kind in (video, self.video)}

    def _close(self) -> None:
        for video in [*self._to_join, *([] if self._video is None else [self._video])]:
            video.writer.close()
        self._video = None
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
        self._pool = None
        self._pending.clear()
        if self._lock is not None:
            self._lock.release()
