"""Writer: the files of predict, with time and memory of each image."""

from __future__ import annotations

import contextlib
import logging
import os
import resource
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from queue import Full, Queue
from typing import Any, Literal, cast

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from callbacks.evaluation import are_finite, output_image, predicted_dataset
from callbacks.predict.files import (
    BY_ROWS,
    EIGHT_BIT,
    OPAQUE,
    SMALLEST,
    SPELLED,
    WHOLE,
    Extras,
    Format,
    Size,
    check_folder,
    fitted_exif,
    frames_of,
    image_levels,
    mixed_with_bicubic,
    unwritable_reason,
    write_clip,
    write_image,
)
from callbacks.predict.predictions import (
    NAME,
    Line,
    Predictions,
    RunProperties,
    digest_of,
    options_of,
    places_of,
)
from callbacks.predict.strips import Finish, NotFiniteError, strips_of
from callbacks.predict.videos import (
    Codec,
    VideoSettings,
    VideoWriter,
)
from callbacks.provenance import commit
from files.batch import Piece
from files.images.deep import Pixels
from files.memory import refuse_file, refuse_whole
from files.method import Method, method_of
from files.numbers import NonNegativeInt, PositiveInt, UnitInterval
from files.own_modules import class_path
from files.owned import foreign, hold_place, remove_file, remove_folder
from files.paths import expand_path, size_and_time
from files.videos.video import VideoFrame

log = logging.getLogger(__name__)
THREADS = 2
LARGE = 50_000_000  # bytes
ELSEWHERE = "set another writer.folder or writer.suffix"
Profile = Literal["keep", "convert"]
ExifPart = Literal["keep", "no_place", "drop"]
Common = Callable[[float], Line]  # of the seconds that strips took: what all images' lines have


def _peak_memory(device: torch.device) -> int | None:
    """Return the peak in bytes: of a GPU's tensors since its reset, or of this process so far."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if device.type != "cpu":
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _input_state(source: str | None, meta: Mapping[str, Any]) -> Line:
    """Return size and time of an input's file, when its pixels were read if that is known."""
    state = meta.get("read")
    if state is None and source is not None:
        state = size_and_time(source)
    return Line() if state is None else Line(input_bytes=state[0], input_modified=state[1])


def _file_number(path: str | Path | None) -> tuple[int, int] | None:
    """Return what all links and spellings of a file share; None if there is none."""
    try:
        state = os.stat(path or "")
    except OSError:
        return None
    return state.st_dev, state.st_ino


class _Strips:
    """Strips of an image on their way to the thread that writes it; at most one waits."""

    def __init__(self) -> None:
        self._waiting: Queue[Pixels] = Queue(maxsize=1)
        self._error: BaseException | None = None
        self.writing: Future[list[str]] = Future()

    def put(self, strip: Pixels) -> None:
        """Pass a strip on; wait if another one waits."""
        while not self.writing.done():  # else it has failed
            with contextlib.suppress(Full):
                self._waiting.put(strip, timeout=1)
                return

    def fail(self, error: BaseException) -> None:
        """End the thread by an error, without waiting: a second Ctrl-C would leave it for ever."""
        self._error = error
        with contextlib.suppress(Full):
            self._waiting.put_nowait(np.empty(0, np.uint8))  # wake it

    def rows(self, height: int) -> Iterator[Pixels]:
        """Yield the strips of ``height`` rows, in the thread.

        Raises:
            BaseException: The error that was passed.
        """
        while height:
            strip = self._waiting.get()
            if self._error is not None:
                raise self._error
            height -= len(strip)
            yield strip


@dataclass
class _Video:
    """The video that is written.

    key: Its key.
    writer: Its writer.
    seconds: Of its frames.
    lost: What is not kept of the input, as far as the log has named it.
    line: Its line, once the last frame was added.
    """

    key: str
    writer: VideoWriter
    seconds: list[float] = field(default_factory=list)
    lost: set[str] = field(default_factory=set)
    line: Line | None = None


class Writer(Callback):
    """Write the enlarged images of ``predict``.

    The images are those of ``datamodules.SRDataModule``. An output that was made of the same input
    with the same weights and settings is skipped; any other one of ours is made again. Without a
    configuration the settings are scale, size, precision and what the method lists in
    ``output_settings``. A file that Enlarger did not write is never replaced.

    Files are ``<folder>/<key><suffix>.<format>``, where the key is the input's path below its root
    without the extension. Alpha, 16 bit (``png``, ``tiff``), colour profile, EXIF and grey are
    kept. An image that cannot be read or written is reported and counted. Files are written
    atomically, so an interrupted run can be started again. Encoding runs in threads beside the
    model. Each image has a line in ``<folder>/predictions.jsonl``. A clip is a folder,
    ``<folder>/<key><suffix>``, of frames ``0001.<format>`` and so on, written atomically, too. A
    video becomes ``<folder>/<key><suffix>.mp4`` with the times, colours, rotation and audio of its
    input; each is made by one process.

    Args:
        folder: Where to write; by default ``predict`` in the run's directory.
        suffix: Added to each name, e.g. ``_x2``.
        format: File format; ``jpeg`` is ``jpg``, and ``tif`` is ``tiff``.
        quality: Quality of ``jpg`` and ``webp``, 1 to 100.
        profile: ``keep`` pixel values and colour profile, or first ``convert`` them to sRGB.
        exif: ``keep`` camera, exposure, dates, author and place; or these except the place
            (``no_place``); or ``drop`` all.
        strength: Share of the method's output, from 0 to 1; the rest is the bicubic enlargement.
        codec: Codec of enlarged videos.
        crf: Quality of enlarged videos by the codec's own scale: from 0, the best, to 51 (``av1``:
            63).

    Raises:
        ValueError: If the suffix has a slash.

    Examples:
        >>> from callbacks import Writer
        >>> from datamodules import SRDataModule
        >>> from lightning.pytorch import Trainer
        >>> from lightning_modules import Bicubic
        >>> data = SRDataModule(4, predict="my/photos", workers=0)
        >>> writer = Writer("enlarged", suffix="_x4")
        >>> trainer = Trainer(callbacks=[writer], enable_progress_bar=False)
        >>> trainer.predict(Bicubic(4), data, return_predictions=False)
    """

    def __init__(
        self,
        folder: str | None = None,
        suffix: str = "",
        format: Format | Literal["jpeg", "tif"] = "png",
        quality: PositiveInt = 95,
        profile: Profile = "keep",
        exif: ExifPart = "keep",
        strength: UnitInterval = 1.0,
        codec: Codec = "h264",
        crf: NonNegativeInt = 18,
    ) -> None:
        super().__init__()
        if "/" in suffix:
            raise ValueError(f"writer.suffix is {suffix!r}; a part of a file name has no /")
        self.folder = folder
        self.suffix = suffix
        self.format: Format = SPELLED.get(format, cast("Format", format))
        self.quality = quality
        self.profile = profile
        self.exif = exif
        self.strength = strength
        self._settings = VideoSettings(codec, crf, exif)
        self.config: Mapping[str, Any] = {}  # of the command; see commands/cli.py
        self._began = 0.0  # when the current batch was on the device
        self._begin()

    def _begin(self) -> None:
        """Begin a run; all of this is of this process."""
        self.written = 0
        self.skipped = 0
        self.unusable = 0
        self.failed = 0
        self._root = Path()
        self._of_clips = False
        self._noted: Counter[str] = Counter()  # what happened to images besides
        self._data: Any = None  # the data module
        self._sources: dict[str, str | None] = {}  # file of each input, by key
        self._inputs: set[tuple[int, int] | None] = set()  # their numbers
        self._places = places_of(self.config)
        self._lines: Predictions  # from `setup` on
        self._pool: ThreadPoolExecutor | None = None
        self._pending: deque[tuple[Future[list[str]], str]] = deque()  # with keys
        self._videos: set[str] = set()  # keys
        self._video: _Video | None = None  # the one whose frames come now
        self._abandoned: set[str] = set()
        self._method = Method()

    # ------------------------------------------------------------------------- Lightning's hooks

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check all outputs before any work is done.

        Raises:
            ValueError: If an output would replace an input or anything else that is not ours, none
                can be written, or the images are not those of ``datamodules.SRDataModule``.
        """
        if stage != "predict":
            return
        self._begin()
        self._data = getattr(trainer, "datamodule", None)
        if not hasattr(self._data, "predict_keys"):
            raise ValueError("callbacks.Writer writes the images of datamodules.SRDataModule alone")
        self._root = self.output_folder(trainer)
        check_folder(self._root)
        if self._root.is_dir():  # each process holds it; the first one has locked it, too
            hold_place(self._root)
        self._of_clips = self._data.predict_frames is not None
        self._method = method_of(pl_module)
        if self._method.in_pieces is not None:
            self._method.in_pieces = True
        self._lines = self._open_lines(trainer, pl_module)
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="writer")
        if self.profile == "convert":
            self._data.convert_in_predict()
        keys = self._data.predict_keys
        self._sources = dict(zip(keys, self._data.predict_paths, strict=True))
        self._inputs = {_file_number(path) for path in self._sources.values()}
        self._videos = set(self._data.predict_videos)
        done = {key for key in keys if self._is_done(key)}
        self.skipped = len(done)
        check_folder(self._root, to_write=len(done) < len(keys))
        self._data.skip_in_predict(done)
        ours = sum(self._lines.find(self._name(key)) is not None for key in keys)
        if trainer.is_global_zero and ours > len(done):
            log.warning(
                "%s: %d outputs were made otherwise, and are made again",
                self._root,
                ours - len(done),
            )

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse weights of Lightning's ``ckpt_path``, which it loads after ``setup``.

        Raises:
            ValueError: If the weights are others than in ``setup``.
        """
        if not self.config and digest_of(pl_module) != self._lines.run["weights_digest"]:
            raise ValueError(
                "callbacks.Writer compares weights before Lightning loads `ckpt_path`: give the "
                "method `weights` instead"
            )

    def on_predict_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any
    ) -> None:
        """Measure from here."""
        if pl_module.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(pl_module.device)
        self._began = time.perf_counter()

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
        dataset = predicted_dataset(trainer, dataloader_idx)
        keys = [key.removeprefix(f"{getattr(dataset, 'name', '')}/") for key in batch["key"]]
        if "error" in batch:
            for key, reason in zip(keys, batch["error"], strict=True):
                if key in self._videos:
                    self._stop_video()
                self.unusable += 1
                log.warning("unusable, left out: %s", reason)
                self._note_error(key, reason)
            return
        metas = batch.get("meta") or [{} for _ in keys]
        metas = [meta if "frame" in meta else self._fitting(meta) for meta in metas]
        sized = getattr(dataset, "size", None) is not None
        scale = None if sized else getattr(dataset, "scale", None)
        share = (time.perf_counter() - self._began) / len(keys)

        def common(seconds: float) -> Line:
            line = self._common(trainer, pl_module, batch, share + seconds)
            line["scale"] = scale
            return line

        for number, (key, meta) in enumerate(zip(keys, metas, strict=True)):
            lr = batch["lr"][number : number + 1] if "lr" in batch else torch.empty(0)
            if "pieces" in outputs:
                size = batch["size"]
                pieces = outputs["pieces"]
            else:
                image = output_image(outputs)[number : number + 1]
                size = image.shape[-2], image.shape[-1]
                if image.ndim == 5:
                    self._submit_clip(key, image, lr, meta, common)
                    continue
                pieces = [Piece(slice(0, size[0]), slice(0, size[1]), image)]
            strips = strips_of(pieces, Finish(lr, size, meta, self.format, self.strength))
            if "frame" in meta:
                self._add_frame(strips, meta, common)
            else:
                self._submit(key, size, strips, meta, common)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Wait for the last files and log a summary.

        Raises:
            ValueError: If there are inputs, and no process has an output of any of them.
        """
        if stage != "predict" or self._pool is None:
            return
        if self.skipped:  # of all inputs, Lightning does not start
            self.on_predict_start(trainer, pl_module)
        while self._pending:
            self._settle_first()
        self._close()
        for text, count in self._noted.items():
            log.warning("%s: %d", text, count)
        # A sum over all processes, so each has written its images when this is done.
        strategy = trainer.strategy
        counts = torch.tensor([self.written, self.unusable, self.failed])
        counts = strategy.reduce(counts.to(strategy.root_device), reduce_op="sum")
        written, unusable, failed = counts.tolist()
        if trainer.is_global_zero:
            idle = "nothing to do, all outputs are there: "
            log.log(
                logging.WARNING if unusable or failed else logging.INFO,
                f"{idle if self.skipped and not counts.any() else ''}{self._root}: {written} "
                f"written, {self.skipped} skipped (done before), {unusable} unusable"
                f"{f', {failed} failed' if failed else ''}; a line for each in {NAME}",
            )
        if unusable + failed and not written and not self.skipped:
            raise ValueError(
                f"none of the {unusable + failed} inputs could be enlarged: {self._root / NAME} "
                "has the reason for each"
            )

    def on_exception(self, *args: Any, **kwargs: Any) -> None:
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

    def _open_lines(self, trainer: Trainer, pl_module: LightningModule) -> Predictions:
        if not self.config and isinstance(pl_module, Method):
            pl_module.setup("predict")  # Lightning would load its files only later
        method = method_of(pl_module)
        options = options_of(self.config)
        options |= {"writer.profile": self.profile, "writer.exif": self.exif}
        if not self.config:  # Lightning's own Trainer: what the objects say
            for part, name in (
                (self._data, "scale"),
                (self._data, "size"),
                (pl_module, "scale"),
                (pl_module, "tiling"),
            ):
                options[f"{name} of {type(part).__name__}"] = str(getattr(part, name, None))
            options |= {"precision": trainer.precision, **method.output_settings}
        if self.format in ("jpg", "webp"):
            options["writer.quality"] = self.quality
        if self.strength != 1:
            options["writer.strength"] = self.strength
        if self._of_clips:  # their names do not show it
            options["writer.format"] = self.format
        properties = RunProperties(
            model=class_path(type(pl_module)),
            weights=method.weights_source,
            weights_digest=digest_of(pl_module),
            options=options,
            commit=commit(),
        )
        return Predictions(self._root, properties, method.noise_seed)

    def _name(self, key: str) -> str:
        if key in self._videos:
            return f"{key}{self.suffix}.mp4"
        if self._of_clips:
            return f"{key}{self.suffix}"
        return f"{key}{self.suffix}.{self.format}"

    def _target(self, key: str) -> Path:
        if PurePosixPath(key).is_absolute() or ".." in PurePosixPath(key).parts:
            raise ValueError(f"the key {key!r} leads out of the folder {self._root}")
        return self._root / self._name(key)

    def _is_done(self, key: str) -> bool:
        """Return whether an output is there, made as it would be made now.

        Raises:
            ValueError: If it is not, and something that is not ours would be replaced.
        """
        target = self._target(key)
        origin = self._lines.find(self._name(key))
        if not os.path.lexists(target):
            return False
        number = _file_number(target)
        if number is not None and number in self._inputs:
            raise ValueError(f"{target} would overwrite an input: {ELSEWHERE}")
        if origin is None or target.is_dir() != self._of_clips:
            raise ValueError(
                f"{target} exists, and no line of {NAME} says that Enlarger wrote it: move it "
                f"away, or {ELSEWHERE}"
            )
        if self._lines.is_same(origin, self._sources[key], self._options_of(key)):
            return True
        others = foreign(target, frames_of(origin.frames)) if self._of_clips else []
        if others:
            raise ValueError(
                f"{target} holds {others[0]}, which Enlarger did not write, and would be replaced: "
                f"move it away, or {ELSEWHERE}"
            )
        return False

    # ------------------------------------------------------------------------------ the videos

    def _options_of(self, key: str) -> dict[str, Any]:
        """Return the options that an output has besides those of the run."""
        if key in self._videos:
            return {"writer.codec": self._settings.codec, "writer.crf": self._settings.crf}
        return self._places if self._sources[key] is None else {}

    def _opened(self, meta: dict[str, Any]) -> _Video:
        """Open the video of a frame."""
        frame: VideoFrame = meta["frame"]
        target = self._target(frame.video)

        def note() -> None:  # in the same order as for an image
            remove_file(target)
            if self._video is not None and self._video.line is not None:
                self._lines.add(self._video.line, self._options_of(frame.video))

        writer = VideoWriter(target, meta["path"], self._settings, note)
        return _Video(frame.video, writer)

    def _name_losses(self, video: _Video, frame: VideoFrame, path: str) -> None:
        """Log what is not kept of a video, once, at the first frame that has it."""
        lost = [*video.writer.left_out, *frame.extras.lost]
        unnamed = [content for content in lost if content not in video.lost]
        if unnamed:
            log.warning("%s: not kept: %s", path, ", ".join(unnamed))
        video.lost.update(unnamed)

    def _add_frame(self, strips: Iterator[Pixels], meta: dict[str, Any], common: Common) -> None:
        """Add a frame to its video; an encoder's error does not end the run."""
        frame: VideoFrame = meta["frame"]
        key = frame.video
        if key in self._abandoned:
            return
        began = time.perf_counter()
        pixels = None
        reason = ""
        try:
            pixels = np.concatenate(list(strips))
        except (NotFiniteError, MemoryError) as error:  # of this video alone
            reason = str(error)
        line = common(time.perf_counter() - began)
        try:
            if self._video is None:
                self._video = self._opened(meta)
            self._name_losses(self._video, frame, meta["path"])
            if pixels is None:
                raise ValueError(f"frame {frame.number}: {reason}")
            self._video.writer.add(pixels, frame)
            self._video.seconds.append(line["seconds"])
            if frame.last:
                size = list(pixels.shape[:2])
                self._video.line = self._video_line(self._video, meta, size, line)
                self._video.writer.finish()
                self._video = None
                self.written += 1
        except OSError:  # a disk error, which other videos will have, too
            raise
        except Exception as error:  # whatever encoders raise
            self._data.abandon_in_predict(key)
            self._abandoned.add(key)
            self._stop_video()
            self._fail(key, f"it cannot be written as a video: {error}")

    def _video_line(
        self, video: _Video, meta: dict[str, Any], size: list[int], common: Line
    ) -> Line:
        line = Line(key=video.key, input=meta["path"], output=self._name(video.key))
        line.update(common)
        line["size"] = size
        line["frames"] = meta["frame"].number
        line["seconds"] = round(sum(video.seconds) / len(video.seconds), 6)
        line.update(_input_state(meta["path"], meta))
        return line

    def _stop_video(self) -> None:
        if self._video is not None:
            self._video.writer.stop()
        self._video = None

    # ------------------------------------------------------------------------------ the images

    def _fitting(self, meta: dict[str, Any]) -> dict[str, Any]:
        """Return the extras of an image, without some that the format cannot hold; count these."""
        meta = dict(meta)
        if meta.get("bit_depth") == 16 and self.format in EIGHT_BIT:
            self._lose("16 bit")
            meta["bit_depth"] = 8
        if meta.get("alpha") is not None and self.format in OPAQUE:
            self._lose("transparency")
        for content in meta.get("lost", ()):
            self._noted[f"images that are read without their {content}"] += 1
        if meta.get("cicp") and self.profile == "convert":
            self._noted["HDR images, which are not converted, since sRGB cannot show them"] += 1
        if self.exif == "drop":
            meta["exif"] = None
        return meta

    def _lose(self, content: str) -> None:
        self._noted[f"images that lost their {content}, which {self.format} cannot hold"] += 1

    def _common(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, seconds: float
    ) -> Line:
        method = method_of(pl_module)
        device = pl_module.device
        is_cuda = device.type == "cuda"
        tile_size = method.tile_size
        return Line(
            lr_size=list(batch["lr"].shape[-2:]) if "lr" in batch else None,
            seconds=round(seconds, 6),
            peak_memory=_peak_memory(device),
            device=torch.cuda.get_device_name(device) if is_cuda else device.type,
            tiles=method.tile_count,
            tile_size=None if tile_size is None else list(tile_size),
            seed=method.noise_seed if method.drew_noise else None,
            precision="bf16-mixed" if method.uses_bf16 else str(trainer.precision),
        )

    def _submit(
        self,
        key: str,
        size: Size,
        strips: Iterator[Pixels],
        meta: dict[str, Any],
        common: Common,
    ) -> None:
        """Let a thread write an image while its strips are made."""
        target = self._target(key)
        reason = unwritable_reason(size, self.format)
        if reason:
            self._fail(key, reason)
            return
        line = Line(key=key, input=self._sources[key], output=self._name(key), size=list(size))
        waiting = _Strips()
        rows = waiting.rows(size[0])
        assert self._pool is not None  # since `setup`
        waiting.writing = self._pool.submit(self._write, target, size, rows, meta, line)
        self._pending.append((waiting.writing, key))
        seconds = 0.0
        done = 0
        try:
            self._refuse_large(target, size)
            began = time.perf_counter()
            for strip in strips:
                seconds += time.perf_counter() - began
                done += len(strip)
                if done == size[0]:  # the line must be complete before the file is
                    line.update(common(seconds))
                waiting.put(strip)
                if waiting.writing.done():  # or has failed
                    break
                began = time.perf_counter()
        except (NotFiniteError, MemoryError) as error:  # of this image alone
            waiting.fail(error)
        except BaseException as error:
            waiting.fail(error)
            raise
        self._settle()

    def _refuse_large(self, target: Path, size: Size) -> None:
        """Log where a large image is written.

        Raises:
            MemoryError: If there is no room for it.
        """
        refuse_file(size, SMALLEST[self.format], target.parent)
        if self.format not in BY_ROWS:
            refuse_whole(size, WHOLE, torch.device("cpu"))
        if 3 * size[0] * size[1] > LARGE:
            whole = "" if self.format in BY_ROWS else f" ({self.format} needs it whole in memory)"
            log.info("writing %s%s", target, whole)

    def _submit_clip(
        self, key: str, clip: torch.Tensor, lr: torch.Tensor, meta: dict[str, Any], common: Common
    ) -> None:
        """Let a thread write a clip, (1, F, 3, H, W)."""
        frames = clip[0]
        size = frames.shape[-2], frames.shape[-1]
        reason = unwritable_reason(size, self.format)
        if not bool(are_finite(clip)):
            reason = "the output has pixels that are not finite"
        if reason:
            self._fail(key, reason)
            return
        frames = mixed_with_bicubic(frames, lr, self.strength)
        began = time.perf_counter()
        pixels: Any = np.stack([image_levels(frame, meta) for frame in frames])
        line = Line(key=key, input=self._sources[key], output=self._name(key), size=list(size))
        line["frames"] = len(pixels)
        line.update(common(time.perf_counter() - began))
        assert self._pool is not None  # since `setup`
        writing = self._pool.submit(self._write_clip, self._target(key), pixels, meta, line)
        self._pending.append((writing, key))
        self._settle()

    def _settle(self) -> None:
        # Only a few images may wait: they are large.
        while len(self._pending) > 2 * THREADS or (self._pending and self._pending[0][0].done()):
            self._settle_first()

    def _settle_first(self) -> None:
        """Wait for an image to be written; an encoder's error does not end the run."""
        writing, key = self._pending.popleft()
        try:
            lost = writing.result()
        except OSError:  # a disk error, which other images will have, too
            raise
        except (NotFiniteError, MemoryError) as error:  # which the strips ended with
            self._fail(key, str(error))
            return
        except Exception as error:  # whatever encoders raise
            reason = f"it cannot be written as {self.format}: {type(error).__name__}: {error}"
            self._fail(key, reason)
            return
        self.written += 1
        for content in lost:
            self._lose(content)
        if self.format == "png" and os.path.getsize(self._target(key)) > LARGE:
            self._noted["images above 50 MB (--writer.format jpg is far smaller)"] += 1

    def _fail(self, key: str, reason: str) -> None:
        self.failed += 1
        log.warning("not written: %s: %s", key, reason)
        self._note_error(key, reason)

    def _note_error(self, key: str, reason: str) -> None:
        source = self._sources[key]
        self._lines.add(Line(key=key, input=source, output=self._name(key), error=reason))

    def _write(
        self, target: Path, size: Size, strips: Iterator[Pixels], meta: dict[str, Any], line: Line
    ) -> list[str]:
        """Write an image and its line; return what the format cannot hold."""
        exif = meta.get("exif")
        if exif is not None:
            exif = fitted_exif(exif, size, self.exif == "keep")
        extras = Extras(meta.get("icc"), exif, meta.get("cicp"))

        def note() -> None:
            # The new image is complete on the disk. The old one is removed before the line is
            # written, and the line before the new one appears. So a kill at any time leaves no
            # image of another run with this line, and none without a line: at worst the image is
            # missing, and the next run writes it.
            remove_file(target)
            self._add_line(line, meta)

        return write_image(target, size, strips, extras, self.format, self.quality, note)

    def _write_clip(
        self, target: Path, frames: Pixels, meta: dict[str, Any], line: Line
    ) -> list[str]:
        """Write a clip and its line; return nothing that the format cannot hold."""

        def note() -> None:  # in the same order as for an image
            origin = self._lines.find(line["output"])
            if origin is not None and target.exists():
                remove_folder(target, frames_of(origin.frames))
            self._add_line(line, meta)

        write_clip(target, frames, self.format, self.quality, note)
        return []

    def _add_line(self, line: Line, meta: Mapping[str, Any]) -> None:
        line.update(_input_state(line["input"], meta))
        self._lines.add(line, self._options_of(line["key"]))

    def _close(self) -> None:
        if self._method.in_pieces:
            self._method.in_pieces = False
        self._stop_video()
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
        self._pool = None
        self._pending.clear()
