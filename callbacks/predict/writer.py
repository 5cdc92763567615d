"""Writer: the files of predict, with time and memory of each image."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import resource
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, Literal, cast

import torch
import torch.distributed as dist
from lightning.pytorch import Callback, LightningModule, Trainer

from callbacks.evaluation import output_image, patient_group, predicted_dataset
from callbacks.predict.files import (
    EIGHT_BIT,
    OPAQUE,
    SPELLED,
    Extras,
    Format,
    Size,
    check_folder,
    fitted_exif,
    write_image,
)
from callbacks.predict.levels import Finish, OutputError, levels_of
from callbacks.predict.predictions import (
    NAME,
    Line,
    Predictions,
    RunProperties,
    digest_of,
    options_of,
)
from callbacks.predict.videos import Codec, VideoSettings, VideoWriter
from callbacks.provenance import commit
from files.batch import Piece
from files.images.deep import Pixels
from files.memory import free_disk
from files.method import Method, method_of
from files.numbers import NonNegativeInt, PositiveInt, UnitInterval
from files.own_modules import class_path
from files.owned import MovedError, hidden, hold_place, remove_file
from files.paths import expand_path, size_and_time

log = logging.getLogger(__name__)
THREADS = 2
ELSEWHERE = "set another writer.folder or writer.suffix"
Profile = Literal["keep", "convert"]
ExifPart = Literal["keep", "no_place", "drop"]
Part = tuple[Iterable[Piece], Finish]  # an image, or a frame of a clip
Common = Callable[[float], Line]  # of the seconds that levels took: what all images' lines have


def _peak_memory(device: torch.device) -> int | None:
    """Return the peak in bytes: of a GPU's tensors since its reset, or of this process so far."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if device.type != "cpu":
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _device_and_inode(path: str | Path) -> tuple[int, int] | None:
    """Return the numbers that all links and spellings of a file share; None without a file."""
    with contextlib.suppress(OSError):
        state = os.stat(path)
        return state.st_dev, state.st_ino
    return None


def _as_piece(image: torch.Tensor) -> Piece:
    """Return a whole output, (1, 3, H, W), as the only piece of itself."""
    return Piece(slice(0, image.shape[-2]), slice(0, image.shape[-1]), image)


def _frame_name(number: int, format: Format) -> str:
    """Return the name of a clip's frame; the first frame is number 0."""
    return f"{number + 1:04}.{format}"


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
    ``<folder>/<key><suffix>``, of frames ``0001.<format>`` and so on. A video becomes
    ``<folder>/<key><suffix>.mp4`` with the times, colours, rotation and audio of its input; each is
    made by one process.

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
        self._video_settings = VideoSettings(codec, crf, exif)
        self.config: Mapping[str, Any] = {}  # of the command; see commands/cli.py
        self._began = 0.0  # when the current batch was on the device
        self._reset()

    def _reset(self) -> None:
        """Set the counts and the state of a run, which are this process's, to their beginning."""
        self.written = 0
        self.skipped = 0
        self.unusable = 0
        self.failed = 0
        self._root = Path()
        self._frames: int | None = None  # of each clip; None for images
        self._remarks: Counter[str] = Counter()  # for the end: on how many images, by their text
        self._data: Any = None  # the data module
        self._sources: dict[str, str | None] = {}  # file of each input, by key
        self._inputs: set[tuple[int, int] | None] = set()  # `_device_and_inode` of the same files
        self._lines: Predictions  # from `setup` on
        self._pool: ThreadPoolExecutor | None = None
        self._group: Any = None  # of all processes
        self._pending: deque[tuple[Future[list[str]], str]] = deque()  # with keys
        self._videos: set[str] = set()  # keys
        self._video: VideoWriter | None = None  # of the video whose frames come now
        self._video_seconds: list[float] = []  # of its frames
        self._abandoned: set[str] = set()  # keys of videos that failed
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
        self._reset()
        self._data = getattr(trainer, "datamodule", None)
        if not hasattr(self._data, "predict_keys"):
            raise ValueError("callbacks.Writer writes the images of datamodules.SRDataModule alone")
        self._root = self.output_folder(trainer)
        check_folder(self._root)
        if self._root.is_dir():  # each process holds it; the first one has locked it, too
            hold_place(self._root)
        self._frames = self._data.predict_frames
        self._method = method_of(pl_module)
        if self._method.in_pieces is not None:
            self._method.in_pieces = True
        self._lines = self._read_predictions(trainer, pl_module)
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="writer")
        self._group = patient_group()
        if self.profile == "convert":
            self._data.convert_in_predict()
        keys = self._data.predict_keys
        self._sources = dict(zip(keys, self._data.predict_paths, strict=True))
        self._inputs = {_device_and_inode(path) for path in self._sources.values() if path} - {None}
        self._videos = set(self._data.predict_videos)
        done = {key for key in keys if self._is_done(key)}
        self.skipped = len(done)
        check_folder(self._root, to_write=len(done) < len(keys))
        self._data.skip_in_predict(done)
        ours = sum(self._lines.find(self._output_name(key)) is not None for key in keys)
        if trainer.is_global_zero and ours > len(done):
            text = "%s: %d outputs were made otherwise, and are made again"
            log.warning(text, self._root, ours - len(done))

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse weights of Lightning's ``ckpt_path``, which it loads after ``setup``.

        With a ``config`` the command line runs, which has loaded the weights before.

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
        """Start to measure the time and memory of a batch."""
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
                self._count_unusable(key, reason)
            return
        metas = batch.get("meta") or [{} for _ in keys]
        metas = [meta if "frame" in meta else self._meta_for_format(meta) for meta in metas]
        has_fixed_size = getattr(dataset, "size", None) is not None
        scale = None if has_fixed_size else getattr(dataset, "scale", None)
        share = (time.perf_counter() - self._began) / len(keys)

        def common(seconds: float) -> Line:
            line = self._common_fields(trainer, pl_module, batch, share + seconds)
            line["scale"] = scale
            return line

        for number, (key, meta) in enumerate(zip(keys, metas, strict=True)):
            lr = batch["lr"][number : number + 1] if "lr" in batch else torch.empty(0)
            if "pieces" in outputs:
                size = batch["size"]
                pieces = outputs["pieces"]
            else:
                image = output_image(outputs)[number : number + 1]
                size = image.shape[-2:]
                pieces = [_as_piece(image)]
            if self._frames is not None:  # a generated clip, which never comes in pieces
                self._submit(key, self._parts_of_clip(image[0], lr, meta), meta, common)
            elif "frame" in meta:  # of a video file
                self._add_frame(pieces, Finish(lr, size, meta, "png", self.strength), common)
            else:
                finish = Finish(lr, size, meta, self.format, self.strength)
                self._submit(key, [(pieces, finish)], meta, common)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Wait for the last files and log a summary.

        Raises:
            ValueError: If there are inputs, and no process has an output of any of them.
        """
        if stage != "predict" or self._pool is None:
            return
        if self.skipped:  # if all inputs are, Lightning has not called it; twice does no harm
            self.on_predict_start(trainer, pl_module)
        while self._pending:
            self._await_oldest()
        self._close()
        for text, count in self._remarks.items():
            log.warning("%s: %d", text, count)
        # A sum over all processes, so each has written its images when this is done.
        counts = torch.tensor([self.written, self.unusable, self.failed])
        if self._group is not None:
            dist.all_reduce(counts, group=self._group)
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

    def _read_predictions(self, trainer: Trainer, pl_module: LightningModule) -> Predictions:
        """Return the lines of the folder, with the settings of this run to compare them with."""
        if not self.config and isinstance(pl_module, Method):
            pl_module.setup("predict")  # Lightning would load its files only later
        method = method_of(pl_module)
        options = options_of(self.config, of_files=all(self._data.predict_paths))
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
        if self._frames is not None:  # names of clips do not show it
            options["writer.format"] = self.format
        properties = RunProperties(
            model=class_path(type(pl_module)),
            weights=method.weights_source,
            weights_digest=digest_of(pl_module),
            options=options,
            commit=commit(),
        )
        return Predictions(self._root, properties, method.noise_seed)

    def _output_name(self, key: str) -> str:
        """Return an output's path below the folder."""
        if key in self._videos:
            return f"{key}{self.suffix}.mp4"
        if self._frames is not None:
            return f"{key}{self.suffix}"
        return f"{key}{self.suffix}.{self.format}"

    def _output_path(self, key: str) -> Path:
        """Return an output's path.

        Raises:
            ValueError: If a key of a shard leads out of the folder.
        """
        if PurePosixPath(key).is_absolute() or ".." in PurePosixPath(key).parts:
            raise ValueError(f"the key {key!r} leads out of the folder {self._root}")
        return self._root / self._output_name(key)

    def _is_done(self, key: str) -> bool:
        """Return whether an output is there, made as it would be made now.

        Raises:
            ValueError: If it is not, and something that is not ours would be replaced.
        """
        target = self._output_path(key)
        if not os.path.lexists(target):
            return False
        if _device_and_inode(target) in self._inputs:
            raise ValueError(f"{target} would overwrite an input: {ELSEWHERE}")
        made = self._lines.find(self._output_name(key))
        if made is None or target.is_dir() != (self._frames is not None):
            raise ValueError(
                f"{target} exists, and no line of {NAME} says that Enlarger wrote it: move it "
                f"away, or {ELSEWHERE}"
            )
        if self._lines.is_done(made, self._sources[key], self._options_of(key)):
            return True
        if self._frames is not None:
            self._refuse_other_files(target, min(made.frames or 0, self._frames))
        return False

    def _refuse_other_files(self, clip: Path, frames: int) -> None:
        """Raise if a clip's folder holds files that its new frames would not replace.

        Args:
            clip: The folder.
            frames: How many frames are replaced.
        """
        replaced = {_frame_name(number, self.format) for number in range(frames)}
        replaced |= {hidden(clip / name).name for name in replaced}  # what a kill left of one
        others = sorted({path.name for path in clip.iterdir()} - replaced - {".DS_Store"})
        if others:
            raise ValueError(
                f"{clip} holds {others[0]}, which would stay among the new frames: move it away, "
                f"or {ELSEWHERE}"
            )

    def _options_of(self, key: str) -> dict[str, Any]:
        """Return the options that an output has besides those of the run."""
        if key not in self._videos:
            return {}
        settings = self._video_settings
        return {"writer.codec": settings.codec, "writer.crf": settings.crf}

    # ------------------------------------------------------------------------------ the videos

    def _add_frame(self, pieces: Iterable[Piece], finish: Finish, common: Common) -> None:
        """Add a frame to its video, unless an earlier frame of it failed."""
        key = finish.meta["frame"].video
        if key in self._abandoned:
            return
        began = time.perf_counter()
        with self._counting_failure(key, OutputError, MemoryError):
            pixels = levels_of(pieces, finish, self._root)
            with self._counting_failure(key, Exception):  # encoders raise anything
                self._encode_frame(pixels, finish, common, began)

    def _encode_frame(self, pixels: Pixels, finish: Finish, common: Common, began: float) -> None:
        """Give a frame to the encoder of its video, which begins with the first and ends here.

        Args:
            pixels: (H, W, 3) levels.
            finish: How they were made of the frame.
            common: The line of the video, with the seconds of this frame.
            began: When that began.
        """
        meta = finish.meta
        frame = meta["frame"]
        if self._video is None:
            target = self._output_path(frame.video)
            self._video = VideoWriter(target, meta["path"], self._video_settings)
            self._video_seconds.clear()
        self._video.add(pixels, frame)
        line = common(time.perf_counter() - began)
        self._video_seconds.append(line["seconds"])
        if frame.last:
            line = self._line_of(frame.video, finish.size, line)
            line["frames"] = frame.number
            line["seconds"] = round(sum(self._video_seconds) / len(self._video_seconds), 6)
            self._video.finish(lambda: self._replace_line(line, meta))
            self._video = None
            self.written += 1

    def _stop_video(self) -> None:
        if self._video is not None:
            self._video.stop()
        self._video = None

    # ------------------------------------------------------------------------------ the images

    def _meta_for_format(self, meta: dict[str, Any]) -> dict[str, Any]:
        """Return ``meta`` of an image as the output will have it; remark on what it loses."""
        meta = dict(meta)
        if meta.get("bit_depth") == 16 and self.format in EIGHT_BIT:
            self._remark_lost("16 bit")
            meta["bit_depth"] = 8
        if meta.get("alpha") is not None and self.format in OPAQUE:
            self._remark_lost("transparency")
        for content in meta.get("lost", ()):
            self._remarks[f"images that are read without their {content}"] += 1
        if meta.get("cicp") and self.profile == "convert":
            self._remarks["HDR images, which are not converted, since sRGB cannot show them"] += 1
        if self.exif == "drop":
            meta["exif"] = None
        return meta

    def _remark_lost(self, content: str) -> None:
        self._remarks[f"images that lost their {content}, which {self.format} cannot hold"] += 1

    def _common_fields(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, seconds: float
    ) -> Line:
        """Return the fields of a line that are alike for all images of a batch."""
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

    def _line_of(self, key: str, size: Size, common: Line) -> Line:
        """Return an output's line: key, files and size before the fields of its batch."""
        name = self._output_name(key)
        line = Line(key=key, input=self._sources[key], output=name, size=list(size))
        line.update(common)
        return line

    def _parts_of_clip(
        self, clip: torch.Tensor, lr: torch.Tensor, meta: Mapping[str, Any]
    ) -> Iterator[Part]:
        """Yield each frame of a clip, (F, 3, H, W)."""
        size = clip.shape[-2], clip.shape[-1]
        lr_frames = lr.view(-1, *lr.shape[-3:]) if lr.ndim > 3 else lr  # a clip may have no LR
        for number in range(len(clip)):
            frame = slice(number, number + 1)
            finish = Finish(lr_frames[frame], size, meta, self.format, self.strength)
            yield [_as_piece(clip[frame])], finish

    def _submit(
        self, key: str, parts: Iterable[Part], meta: Mapping[str, Any], common: Common
    ) -> None:
        """Make the levels of an image, or of the frames of a clip; let a thread write them."""
        began = time.perf_counter()
        with self._counting_failure(key, OutputError, MemoryError):
            images = []
            for pieces, finish in parts:
                self._wait_for_room(finish)
                images.append(levels_of(pieces, finish, self._root))
            line = self._line_of(key, images[0].shape[:2], common(time.perf_counter() - began))
            write = self._write
            if self._frames is not None:
                line["frames"] = len(images)
                write = self._write_clip
            assert self._pool is not None  # since `setup`
            self._pending.append((self._pool.submit(write, images, meta, line), key))
        # Only a few images may wait: they are large.
        while len(self._pending) > 2 * THREADS or (self._pending and self._pending[0][0].done()):
            self._await_oldest()

    def _wait_for_room(self, finish: Finish) -> None:
        """Wait for images that are being written, if their levels take the room of another one."""
        while self._pending and finish.disk_bytes > free_disk(self._root):
            self._await_oldest()

    def _await_oldest(self) -> None:
        """Wait until the oldest pending image is written, and count it."""
        writing, key = self._pending.popleft()
        with self._counting_failure(key, Exception):  # encoders raise anything
            for content in writing.result():
                self._remark_lost(content)
            self.written += 1

    @contextlib.contextmanager
    def _counting_failure(self, key: str, *errors: type[Exception]) -> Iterator[None]:
        """Count an output as failed if one of these errors is raised, and go on after the block.

        A video is not continued. An error of the disk, which all other outputs would have, too,
        ends the run, unless it is about this output's name. One of an encoder has no number.
        """
        try:
            yield
        except errors as error:
            number = error.errno if isinstance(error, OSError) else None
            if number not in (None, errno.ENAMETOOLONG) or isinstance(error, MovedError):
                raise
            reason = str(error)
            if not isinstance(error, OutputError | MemoryError):
                kind = "a video" if key in self._videos else self.format
                reason = f"it cannot be written as {kind}: {type(error).__name__}: {error}"
            if key in self._videos:
                self._data.abandon_in_predict(key)
                self._abandoned.add(key)
                self._stop_video()
            self.failed += 1
            log.warning("not written: %s: %s", key, reason)
            self._add_error_line(key, reason)

    def _count_unusable(self, key: str, reason: str) -> None:
        """Count an input that cannot be read; of a video, the frames so far are dropped."""
        if key in self._videos:
            self._stop_video()
        self.unusable += 1
        log.warning("unusable, left out: %s", reason)
        self._add_error_line(key, reason)

    def _add_error_line(self, key: str, reason: str) -> None:
        source = self._sources[key]
        self._lines.add(Line(key=key, input=source, output=self._output_name(key), error=reason))

    def _write(self, images: list[Pixels], meta: Mapping[str, Any], line: Line) -> list[str]:
        """Write an image and its line; return what the format cannot hold."""
        (pixels,) = images
        exif = meta.get("exif")
        if exif is not None:
            exif = fitted_exif(exif, pixels.shape[:2], self.exif == "keep")
        extras = Extras(meta.get("icc"), exif, meta.get("cicp"))
        target = self._root / line["output"]
        before = partial(self._replace_line, line, meta)
        return write_image(target, pixels, extras, self.format, self.quality, before)

    def _replace_line(self, line: Line, meta: Mapping[str, Any]) -> None:
        """Remove the old output and write the line of the new one, which is complete on the disk.

        A kill at any time then leaves no output of another run with this line, and none without a
        line: at worst the output is missing, and the next run writes it.
        """
        remove_file(self._root / line["output"])
        self._add_line(line, meta)

    def _write_clip(self, images: list[Pixels], meta: Mapping[str, Any], line: Line) -> list[str]:
        """Write a clip and its line; return the names of what its format lost: none, ever."""
        # A first line, without a hash: what a kill leaves of the clip is ours, and not done.
        self._lines.add(line, self._options_of(line["key"]))
        for number, pixels in enumerate(images):
            path = self._root / line["output"] / _frame_name(number, self.format)
            write_image(path, pixels, Extras(), self.format, self.quality)
        self._add_line(line, meta)
        return []

    def _add_line(self, line: Line, meta: Mapping[str, Any]) -> None:
        """Write the line of a complete output, with the hash by which later runs know it."""
        source = line["input"]
        state = meta.get("read")  # when its pixels were read
        if state is None and source is not None:
            state = size_and_time(source)
        options = self._options_of(line["key"])
        line["hash"] = self._lines.hash(source, state, line["seed"], options)
        self._lines.add(line, options)

    def _close(self) -> None:
        """Stop the threads and the current video, and drop images that wait."""
        if self._method.in_pieces:
            self._method.in_pieces = False
        self._stop_video()
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
        self._pool = None
        self._pending.clear()
