"""The one thread that enlarges: a photograph of each visitor in turns."""

from __future__ import annotations

import contextlib
import logging
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from callbacks.predict.files import Extras, encode, unwritable_reason
from callbacks.predict.strips import noting
from commands.app.models import Models, Stopped
from commands.app.visits import Job, Output, Photograph, Visit, write_reductions
from files.owned import remove_temporary
from lightning_modules.sampling.tiling import Tiling

log = logging.getLogger(__name__)
QUALITY = 95  # of JPEG
LARGEST_OUTPUT = 1_000_000_000  # pixels


class Queue:
    """Visitors who wait, and the thread that works for them.

    Args:
        models: The methods.
    """

    def __init__(self, models: Models) -> None:
        self.models = models
        self._visits: list[Visit] = []  # in the order of their turns
        self._current: Visit | None = None
        self._changed = threading.Condition()
        threading.Thread(target=self._work, daemon=True).start()

    def add(self, visit: Visit, photograph: Photograph, job: Job) -> None:
        """Let a photograph wait for its turn; its job before, if there is one, ends."""
        with self._changed:
            visit.error = ""
            photograph.error = ""
            photograph.job = job
            if visit is not self._current and visit not in self._visits:
                self._visits.append(visit)
            self._changed.notify()

    def before(self, visit: Visit) -> int:
        """Return how many other visitors have a photograph enlarged first."""
        with self._changed:
            first = self._visits
            if visit in first:
                first = first[: first.index(visit)]
            at_work = self._current not in (None, visit)
            return sum(other.waiting() is not None for other in first) + at_work

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._visits:
                    self._changed.wait()
                visit = self._visits.pop(0)
                following = visit.waiting()
                if following is None:
                    continue
                photograph, job = following
                job.progress = 0.0
                self._current = visit
            try:
                error = self._enlarge(visit, photograph, job)
            except Stopped:
                error = ""
            except (ValueError, OSError, MemoryError) as raised:
                error = str(raised)
            except Exception as raised:  # the thread works for others, too
                log.exception("%s", photograph.name)
                error = f"{type(raised).__name__}: {raised}"
            with self._changed:
                self._current = None
                if photograph.job is job:
                    photograph.job = None
                    photograph.error = error.replace("tiling.size", "Tile")
                if visit.waiting():  # for its other photographs, after the other visitors
                    self._visits.append(visit)

    def _enlarge(self, visit: Visit, photograph: Photograph, job: Job) -> str:
        """Enlarge a photograph, and return why it cannot be."""
        settings = job.settings
        job.loads = True
        try:
            model = self.models.load(settings.source, settings.steps, lambda: photograph.job is job)
        except (ValueError, OSError) as error:  # for all its photographs
            if photograph.job is job:
                visit.stop()
                visit.error = str(error).replace(settings.source, settings.name)
            return ""
        job.loads = False
        scale = settings.scale or model.scale
        height, width = photograph.size
        count = height * width * scale**2
        if count > LARGEST_OUTPUT:  # it would fill the disk, for all visitors
            return (
                f"its output would have {count / 1e6:.0f} million pixels, and may have "
                f"{LARGEST_OUTPUT / 1e6:.0f}: lower Scale"
            )
        image = photograph.read()
        tiling = Tiling(size=settings.tile) if settings.tile else None
        size, strips = model.strips(
            image,
            settings.format,
            scale=scale,
            seed=settings.seed,
            tiling=tiling,
            strength=settings.strength,
        )
        if reason := unwritable_reason(size, settings.format):
            return reason
        icc = image.icc or image.grey_icc
        folder = Path(tempfile.mkdtemp(prefix="output", dir=photograph.folder))
        file = folder / f"output.{settings.format}"
        has_alpha = image.alpha is not None and settings.format == "png"
        shape = (*size, 3 + has_alpha)
        header = {"descr": "|u1", "fortran_order": False, "shape": shape}
        extras = Extras(icc, cicp=image.cicp)
        passes = 1
        if image.alpha is not None and image.alpha.min() < image.alpha.max():
            passes = 2  # it is enlarged, too
        try:
            with (
                _followed(model.module, photograph, job, passes),
                file.open("w+b") as opened,
                (folder / "pixels.npy").open("wb") as pixels,
            ):
                np.lib.format.write_array_header_1_0(pixels, header)
                strips = noting(strips, pixels, icc)
                encode(opened, size, strips, extras, settings.format, QUALITY)
            if photograph.job is not job:
                raise Stopped
            write_reductions(folder)
        except BaseException:
            remove_temporary(folder)
            raise
        name = f"{PurePath(photograph.name).stem}_x{scale:g}.{settings.format}"
        is_resized = model.module.has_one_scale and scale != model.scale
        note = f"from x{model.scale:g} by bicubic" if is_resized else ""
        photograph.finish(Output(file, name, size, settings, note))
        return ""


@contextlib.contextmanager
def _followed(module: Any, photograph: Photograph, job: Job, passes: int) -> Iterator[None]:
    """Note the progress of what this thread enlarges within, and end it if it is stopped.

    Args:
        module: The method.
        photograph: What is enlarged.
        job: Its job; the enlargement ends when it has another one, or none.
        passes: How often each tile is enlarged.

    Raises:
        Stopped: If so.
    """
    from torch.nn.modules.module import register_module_forward_pre_hook

    thread = threading.get_ident()
    restore: Callable[..., Any] = module.restore
    tiles = 0

    def check(*_: object) -> None:  # called for all threads
        if threading.get_ident() == thread and photograph.job is not job:
            raise Stopped

    def restore_and_count(batch: Any, noise: Any) -> Any:
        nonlocal tiles
        output = restore(batch, noise)
        tiles += len(batch["tiles"])
        job.progress = min(1.0, tiles / (passes * module.tile_count))
        return output

    handle = register_module_forward_pre_hook(check)
    module.restore = restore_and_count
    try:
        yield
    finally:
        handle.remove()
        del module.restore
