"""The one thread that enlarges: a photograph of each visitor in turns."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator
from pathlib import PurePath
from typing import Any

import numpy as np

from callbacks.predict.files import (
    Extras,
    encode,
    fitted_extras,
    fitted_pixels,
    unwritable_reason,
)
from commands.app.models import Models
from commands.app.visits import Job, Output, Photograph, Visit
from lightning_modules.sampling.enlarging import WrongScaleError
from lightning_modules.sampling.tiling import Tiling

log = logging.getLogger(__name__)
QUALITY = 95  # of JPEG
FIELDS = {"data.init_args.scale": "Scale", "tiling.size": "Tile"}  # in errors


class Stopped(Exception):  # noqa: N818  (no error)
    """Raised within an enlargement that was stopped."""


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
        self._thread = threading.Thread(target=self._work, daemon=True)

    def start(self) -> None:
        """Begin to work."""
        self._thread.start()

    def add(self, visit: Visit, photograph: Photograph, job: Job) -> None:
        """Let a photograph wait for its turn; its job before, if there is one, ends."""
        with self._changed:
            visit.error = ""
            photograph.error = ""
            photograph.job = job
            if visit not in self._visits:
                self._visits.append(visit)
            self._changed.notify()

    def before(self, visit: Visit) -> int:
        """Return how many other visitors have a photograph enlarged first."""
        with self._changed:
            others = self._visits[: self._visits.index(visit)] if visit in self._visits else []
            at_work = self._current not in (None, visit)
            return sum(other.waiting() is not None for other in others) + at_work

    def _work(self) -> None:
        while True:
            visit, photograph, job = self._next()
            try:
                self._enlarge(visit, photograph, job)
            except Stopped:
                pass
            except (ValueError, OSError) as error:
                _fail(photograph, job, str(error))
            except Exception as error:  # the thread works for others, too
                log.exception("%s", photograph.name)
                _fail(photograph, job, f"{type(error).__name__}: {error}")
            with self._changed:
                self._current = None
                if photograph.job is job:
                    photograph.job = None

    def _next(self) -> tuple[Visit, Photograph, Job]:
        with self._changed:
            while True:
                while not self._visits:
                    self._changed.wait()
                visit = self._visits.pop(0)
                photograph = visit.waiting()
                if photograph is not None and photograph.job is not None:
                    job = photograph.job
                    job.progress = 0.0
                    self._current = visit
                    self._visits.append(visit)  # for its other photographs
                    return visit, photograph, job

    def _enlarge(self, visit: Visit, photograph: Photograph, job: Job) -> None:
        settings = job.settings
        try:
            model = self.models.load(settings.source, settings.steps)
        except (ValueError, OSError) as error:  # for all its photographs
            visit.stop()
            visit.error = str(error)
            return
        image = photograph.read()
        pixels = image.array()
        scale = settings.scale or model.scale
        tiling = Tiling(size=settings.tile) if settings.tile else None
        try:
            with _followed(model.module, photograph, job):
                output = model.enlarge(
                    pixels,
                    scale=scale,
                    seed=settings.seed,
                    tiling=tiling,
                    strength=settings.strength,
                )
        except WrongScaleError as error:
            raise ValueError(
                f"{self.models.names[settings.source]} enlarges by {model.scale:g}; set Scale to "
                f"{model.scale:g} or less"
            ) from error
        levels = fitted_pixels(np.atleast_3d(output), settings.format)
        reason = unwritable_reason(levels, True, settings.format)
        if reason:
            raise ValueError(reason)
        colours = Extras(image.icc or image.grey_icc, cicp=image.cicp)
        extras, _ = fitted_extras(colours, levels, settings.format)
        data = encode(levels, extras, settings.format, QUALITY)
        if photograph.job is not job:
            raise Stopped
        number = next(photograph.numbers)
        file = photograph.folder / str(number) / f"output.{settings.format}"
        file.parent.mkdir()
        file.write_bytes(data)
        name = f"{PurePath(photograph.name).stem}_x{scale:g}.{settings.format}"
        size = (levels.shape[0], levels.shape[1])
        del output, levels, data
        photograph.finish(Output(number, file, name, size, settings))


def _fail(photograph: Photograph, job: Job, error: str) -> None:
    if photograph.job is job:
        for key, name in FIELDS.items():
            error = error.replace(key, name)
        photograph.error = error


@contextlib.contextmanager
def _followed(module: Any, photograph: Photograph, job: Job) -> Iterator[None]:
    """Note the progress of what this thread enlarges within, and end it if it is stopped.

    Args:
        module: The method.
        photograph: What is enlarged.
        job: Its job; the enlargement ends when it has another one, or none.

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
        job.progress = min(1.0, tiles / module.tile_count)
        return output

    handle = register_module_forward_pre_hook(check)
    module.restore = restore_and_count
    try:
        yield
    finally:
        handle.remove()
        del module.restore
