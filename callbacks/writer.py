"""Write what ``predict`` makes: one file a picture, named after its input, and a line about it."""

from __future__ import annotations

import logging
import os
from collections import Counter, deque
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any, Literal, get_args

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from callbacks.clip_files import (
    Video,
    all_levels,
    check_encoder,
    check_video,
    either,
    frames_of,
    is_whole,
    not_only_frames,
    remove,
    video_of,
    write_clip,
)
from callbacks.evaluation import output_image, predicted_dataset
from callbacks.image_file import (
    EIGHT_BIT,
    OPAQUE,
    Extras,
    Format,
    Pixels,
    check_folder,
    fitted_exif,
    holds_exif,
    holds_profile,
    there,
    why_not,
    write_image,
)
from callbacks.levels import enlarge_alpha
from callbacks.meter import Meter, Used
from callbacks.output_places import Places
from callbacks.predictions import (
    NAME,
    Changed,
    Line,
    Made,
    Predictions,
    digest_of,
    facts_of,
    options_of,
    refusal,
)
from callbacks.provenance import commit
from files.owned import foreign, remove_file
from files.paths import expand_path

log = logging.getLogger(__name__)

THREADS = 2
Profile = Literal["keep", "convert"]
ExifPart = Literal["keep", "no_place", "drop"]


class Writer(Callback):
    """Write the enlarged pictures of ``predict``; what an earlier run has written is skipped.

    Files are ``<folder>/<key><suffix>.<format>``, the key being the input's path below its root
    without the extension. Alpha, 16 bit (``png``, ``tiff``), colour profile, EXIF and grey are
    kept. A picture that cannot be read or written is reported and counted. Files appear whole or
    not at all, so an interrupted run can be started again. Encoding runs beside the model in
    threads. Each picture has a line in ``<folder>/predictions.jsonl``. A clip is a folder,
    ``<folder>/<key><suffix>``, of frames ``0001.<format>`` and so on, and appears whole, too.

    Args:
        folder: Where to write; by default ``predict`` in the run's directory.
        suffix: Added to each name, e.g. ``_x2``.
        format: Kind of file.
        overwrite: Write anew what exists already. An input is never overwritten.
        quality: Of ``jpg`` and ``webp``, 1 to 100.
        changed: What to do where outputs are there that were made with other weights or options,
            of other inputs, or nobody knows how: ``refuse`` to start, ``keep`` them, or make them
            anew (``renew``).
        profile: ``keep`` the colours' numbers and profile, or first ``convert`` them to sRGB.
        exif: ``keep`` camera, exposure, dates, author and place; or these but the place
            (``no_place``); or ``drop`` all.
        video: Of a clip also write a video: ``mp4`` (H.264; needs the extra ``video``) or ``gif``.
        fps: Frames a second of that; a GIF counts in hundredths of a second.

    Raises:
        ValueError: A setting out of range, or an output in the place of an input.
    """

    def __init__(
        self,
        folder: str | None = None,
        suffix: str = "",
        format: Format = "png",
        overwrite: bool = False,
        quality: int = 95,
        changed: Changed = "refuse",
        profile: Profile = "keep",
        exif: ExifPart = "keep",
        video: Video | None = None,
        fps: float = 8.0,
    ) -> None:
        super().__init__()
        if "/" in suffix or os.sep in suffix:
            raise ValueError(f"writer.suffix is {suffix!r}; it is part of a file's name: no /")
        if not 1 <= quality <= 100:
            raise ValueError(f"writer.quality is {quality}; expected 1 to 100")
        chosen = (("changed", changed, Changed), ("profile", profile, Profile))
        for name, value, choices in (*chosen, ("exif", exif, ExifPart)):
            if value not in get_args(choices):
                raise ValueError(f"writer.{name} is {value!r}; expected {either(choices)}")
        check_video(video, fps)
        self.folder, self.suffix, self.format = folder, suffix, format
        self.overwrite, self.quality, self.changed = overwrite, quality, changed
        self.profile, self.exif, self.video, self.fps = profile, exif, video, fps
        self.config: Mapping[str, Any] = {}  # of the command; see commands/cli.py
        # Of this process, in this run.
        self.written, self.skipped, self.unusable, self.failed = 0, 0, 0, 0
        self._root, self._of_clips = Path(), False
        self._lost: Counter[str] = Counter()
        self._sources: dict[str, str | None] = {}  # file of each input, by key
        self._lines: Predictions | None = None
        self._meter = Meter()
        self._pool: ThreadPoolExecutor | None = None
        self._pending: deque[tuple[Future[bool], Line]] = deque()

    # ------------------------------------------------------------------------- Lightning's hooks

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Look at what is to be written before any work is done.

        Raises:
            ValueError: An output would take the place of an input; or outputs are there that were
                made otherwise; or none can be written.
        """
        if stage != "predict":
            return
        self.written, self.skipped, self.unusable, self.failed = 0, 0, 0, 0
        self._lost.clear()
        self._sources.clear()
        self._root = self.output_folder(trainer)
        check_folder(self._root)
        datamodule: Any = getattr(trainer, "datamodule", None)
        self._of_clips = getattr(datamodule, "predict_frames", None) is not None
        known = hasattr(datamodule, "predict_keys")  # else a plain DataLoader: told by each batch
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
        targets = {key: self._target(key) for key in keys}
        places = Places(self._root, (path for path in paths if path is not None))
        places.check_all(targets, self._of_clips)
        if trainer.is_global_zero:
            self._warn_of_other_names({self._name(key) for key in keys})
        done = self._done({key for key, path in targets.items() if is_whole(path, self.video)})
        for key in keys if self._of_clips else ():
            self._check_clip(key, places, replaced=key not in done)
        self.skipped = len(done)
        check_folder(self._root, to_write=len(done) < len(keys))
        datamodule.skip_in_predict(done)

    def on_predict_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Measure from here."""
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
        """Hand the pictures of one batch to the threads that write."""
        dataset = predicted_dataset(trainer, dataloader_idx)
        keys = [key.removeprefix(f"{getattr(dataset, 'name', '')}/") for key in batch["key"]]
        if "error" in batch:
            for key, reason in zip(keys, batch["error"], strict=True):
                self.unusable += 1
                log.warning("unusable, left out: %s", reason)
                self._note_error(key, self._sources.get(key), reason)
            return
        metas = batch.get("meta") or [{} for _ in keys]
        metas = [self._fitting(meta) for meta in metas]
        images = list(output_image(outputs))
        sound = [bool(image.isfinite().all()) for image in images]
        self._of_clips = output_image(outputs).ndim == 5
        levels = [all_levels(image, meta) for image, meta in zip(images, metas, strict=True)]
        used = self._meter.stop()  # all has come to the host
        common = self._common(pl_module, batch, Used(used.seconds / len(keys), used.peak_memory))
        common["scale"] = getattr(dataset, "scale", None)
        for key, pixels, meta, finite in zip(keys, levels, metas, sound, strict=True):
            self._submit(key, pixels, meta, common, finite)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Wait for the last files and say what was done."""
        if stage != "predict" or self._pool is None:
            return
        while self._pending:
            self._settle(*self._pending.popleft())
        self._close()
        for what, count in self._lost.items():
            log.warning("%d pictures lost their %s: %s cannot hold it", count, what, self.format)
        idle = self.skipped and not (self.written or self.unusable or self.failed)
        log.log(
            logging.WARNING if self.unusable or self.failed else logging.INFO,
            "%s%s: %d pictures written, %d skipped (done before), %d unusable%s; a line for each "
            "in %s",
            *("nothing to do, all outputs are there: " if idle else "", self._root),
            *(self.written, self.skipped, self.unusable),
            *(f", {self.failed} failed" if self.failed else "", NAME),
        )

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Drop what was not begun; a next run writes it."""
        self._close()

    # ------------------------------------------------------------------------- names, what is done

    def output_folder(self, trainer: Trainer) -> Path:
        """Where outputs go in a run of this trainer.

        Raises:
            ValueError: ``folder`` is empty, or names an environment variable that is not set.
        """
        if self.folder is None:
            return Path(trainer.default_root_dir, "predict").absolute()
        return Path(expand_path(self.folder, "writer.folder")).absolute()

    def _open_lines(self, pl_module: LightningModule) -> Predictions:
        own: dict[str, Any] = {"writer.profile": self.profile, "writer.exif": self.exif}
        if self.format in ("jpg", "webp"):
            own["writer.quality"] = self.quality
        if self._of_clips:  # whose names do not say it
            own |= {"writer.format": self.format, "writer.fps": self.fps}
        made = Made(
            model=f"{type(pl_module).__module__}.{type(pl_module).__qualname__}",
            weights=getattr(pl_module, "weights_source", None),
            weights_digest=digest_of(pl_module),
            options={**options_of(self.config), **own},
            commit=commit(),
        )
        return Predictions(self._root, made, int(getattr(pl_module, "noise_seed", 0)))

    def _name(self, key: str) -> str:
        return f"{key}{self.suffix}" + ("" if self._of_clips else f".{self.format}")

    def _target(self, key: str) -> Path:
        if PurePosixPath(key).is_absolute() or ".." in PurePosixPath(key).parts:
            raise ValueError(f"the key {key!r} leads out of the folder {self._root}")
        return self._root / self._name(key)

    def _check_clip(self, key: str, places: Places, replaced: bool) -> None:
        """Refuse to replace frames or a video that no line says we wrote."""
        target = self._target(key)
        if self.video is not None:
            places.check(key, video_of(target, self.video), folder=False)
        if not replaced or self._lines is None:
            return
        written = self._lines.written(self._name(key))
        if there(target):
            others = foreign(target, frames_of(0 if written is None else written[0]))
            if others:
                raise ValueError(not_only_frames(target, others))
        elif self.video is not None and there(video := video_of(target, self.video)):
            own = written is not None and written[1] == self.video
            if not (own or self.overwrite or self.changed == "renew"):
                raise ValueError(
                    f"{video} exists, and no line of {NAME} says that Enlarger wrote it: move it "
                    "away, or replace it (--writer.overwrite true)"
                )

    def _warn_of_other_names(self, names: set[str]) -> None:
        keys = {path: key for key, path in self._sources.items() if path is not None}
        found = {} if self._lines is None else self._lines.named_otherwise(keys)
        for name, (source, key) in found.items():
            if name not in names:  # else it is compared, as all outputs that are there
                message = "%s was made of %s, whose output is now %s: remove it"
                log.warning(message, self._root / name, source, self._name(key))

    def _done(self, there: set[str]) -> set[str]:
        """Of the keys whose outputs are there, those that are left alone."""
        if self.overwrite or self._lines is None:
            return set()
        if self.changed == "keep":
            return there
        found = {
            key: self._lines.differences(self._name(key), self._sources.get(key))
            for key in sorted(there)
        }
        others = {key: differences for key, differences in found.items() if differences}
        if others and self.changed == "refuse":
            raise ValueError(refusal(self._root, len(there), others))
        return there - others.keys()

    # ------------------------------------------------------------------------------ the pictures

    def _fitting(self, meta: dict[str, Any]) -> dict[str, Any]:
        """What of a picture's extras this kind of file can hold; the rest is counted."""
        meta = dict(meta)
        if meta.get("bit_depth") == 16 and self.format in EIGHT_BIT:
            self._lost["16 bit"] += 1
            meta["bit_depth"] = 8
        if meta.get("alpha") is not None and self.format in OPAQUE:
            self._lost["transparency"] += 1
            meta["alpha"] = None
        icc = meta.get("icc")
        if icc is not None and not holds_profile(icc, self.format):
            self._lost["colour profile"] += 1
            meta["icc"] = None
        if self.exif == "drop":
            meta["exif"] = None
        return meta

    def _common(self, pl_module: LightningModule, batch: Any, used: Used) -> Line:
        lr, tiles = batch.get("lr"), getattr(pl_module, "tiles", None)
        drew = getattr(pl_module, "drew_noise", False)
        device = pl_module.device
        cuda = device.type == "cuda"
        return Line(
            lr_size=None if lr is None else list(lr.shape[-2:]),
            seconds=round(used.seconds, 6),
            peak_memory=used.peak_memory,
            device=torch.cuda.get_device_name(device) if cuda else device.type,
            tiles=tiles if isinstance(tiles, int) else None,
            seed=int(getattr(pl_module, "noise_seed", 0)) if drew else None,
        )

    def _submit(
        self, key: str, pixels: Pixels, meta: dict[str, Any], common: Line, finite: bool
    ) -> None:
        target, source = self._target(key), meta.get("path") or self._sources.get(key)
        if not self._sources or "path" in meta:  # or it was checked in `setup`
            places = Places(self._root, [meta["path"]] if "path" in meta else [])
            places.check(key, target, folder=pixels.ndim == 4)
        if not self._sources and is_whole(target, self.video) and self._done({key}):
            self.skipped += 1
            return
        if not self._sources and pixels.ndim == 4:
            self._check_clip(key, places, replaced=True)
        if reason := why_not(pixels, finite, self.format):
            self._fail(key, source, reason)
            return
        if self._pool is None:
            raise RuntimeError("Writer got a picture before `setup` or after `teardown`")
        named = Line(key=key, input=source, output=self._name(key))
        line = Line(**{**named, "size": list(pixels.shape[-3:-1]), **common})
        self._pending.append((self._pool.submit(self._write, target, pixels, meta, line), named))
        # A few pictures may wait, no more: they are large.
        while len(self._pending) > 2 * THREADS or (self._pending and self._pending[0][0].done()):
            self._settle(*self._pending.popleft())

    def _settle(self, writing: Future[bool], named: Line) -> None:
        """Wait for a picture to be written; one that cannot be encoded does not end the run."""
        try:
            lost_exif = writing.result()
        except OSError:  # of the disk, where no other picture will fare better
            raise
        except Exception as error:  # whatever encoders raise
            reason = f"it cannot be written as {self.format}: {type(error).__name__}: {error}"
            self._fail(named["key"], named["input"], reason)
            return
        self.written += 1
        if lost_exif:
            self._lost["EXIF"] += 1

    def _fail(self, key: str, source: str | None, reason: str) -> None:
        self.failed += 1
        log.warning("not written: %s: %s", key, reason)
        self._note_error(key, source, reason)

    def _note_error(self, key: str, source: str | None, reason: str) -> None:
        if self._lines is not None:
            self._lines.add(Line(key=key, input=source, output=self._name(key), error=reason))

    def _write(self, target: Path, pixels: Pixels, meta: dict[str, Any], line: Line) -> bool:
        """Write a picture and its line; whether its EXIF is more than the file can hold."""
        if meta.get("alpha") is not None:
            alpha = enlarge_alpha(meta["alpha"], pixels)
            pixels = np.concatenate([pixels, alpha], axis=2)
        exif = meta.get("exif")
        if exif is not None:
            exif = fitted_exif(exif, pixels.shape[:2], self.exif == "keep")
        lost_exif = exif is not None and not holds_exif(exif, self.format)
        facts = facts_of(line["input"], meta.get("read"))

        def note() -> None:
            # The new picture is whole on the disk. The old one goes before the line is there and
            # the line comes before the new one, so that whenever this is killed, no picture of
            # another run lies below this line, and none without a line: at worst it is missing,
            # and the next run makes it.
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
            return False
        extras = Extras(meta.get("icc"), None if lost_exif else exif)
        write_image(target, pixels, extras, self.format, self.quality, note)
        return lost_exif

    def _written(self, output: str) -> tuple[int | None, set[Video]]:
        """Return how many frames an earlier run wrote, and the videos that are to go with them."""
        count, video = (self._lines and self._lines.written(output)) or (0, None)
        return count, {kind for kind in get_args(Video) if kind in (video, self.video)}

    def _close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
        self._pool = None
        self._pending.clear()
