"""What belongs to a visitor of the page: photographs, their outputs and jobs.

Files of a photograph, in FOLDER/VISIT/NUMBER:
    photograph            as it was uploaded
    before/pixels.npy     as a screen shows it; windows are cut from it
    before/whole.jpg      the same, reduced; so is thumbnail.jpg
    output.../output.png  its output, with the same three files
"""

from __future__ import annotations

import itertools
import secrets
import time
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Literal

import numpy as np

from callbacks.pages.images import (
    JPEG,
    SIDE,
    THUMBNAIL,
    Size,
    Stored,
    Window,
    cut,
    displayed,
    reduced,
)
from callbacks.predict.files import Extras, encode
from commands.app.models import Offer, offer_of_file
from files.images.decode import DecodedImage, decode
from files.images.pillow import saved
from files.owned import remove_temporary

SQUARE = 192  # pixels of a side of what a preview enlarges
PREVIEW = 0  # number of the square
LEFT = 15  # seconds until a visitor who left has not just loaded the page again
SILENT = 120  # seconds until a page that says nothing has no work any more
KEPT = 3600  # seconds until its files are deleted


@dataclass(frozen=True)
class Settings:
    """How a photograph is enlarged; None is the method's own value.

    source: Of the method: a run, a file or a name.
    name: Of the method, as the page shows it.
    strength: Share of the method's output, in [0, 1]; the rest is bicubic.
    """

    source: str
    name: str
    scale: float | None
    steps: int | None
    tile: int | None
    seed: int
    strength: float
    format: Literal["png", "jpg"]


@dataclass(eq=False)
class Job:
    """An enlargement to come, or at work.

    progress: Share of the pixels that are done; None while it waits.
    loads: Whether its method is being loaded.
    """

    settings: Settings
    progress: float | None = None
    loads: bool = False


@dataclass(frozen=True)
class Output:
    """An enlarged photograph.

    file: In a folder of its own, with what is shown of it.
    name: Of the file that visitors download.
    note: What else is said of it.
    """

    file: Path
    name: str
    size: Size
    settings: Settings
    note: str = ""


@dataclass(eq=False)
class Photograph:
    """A photograph, and what became of it.

    corner: Of a square: its (top, left) in the photograph.
    """

    number: int
    name: str
    folder: Path
    size: Size
    corner: tuple[int, int] | None = None
    job: Job | None = None
    error: str = ""
    output: Output | None = None

    def read(self, srgb: bool = False) -> DecodedImage:
        """Decode the photograph.

        Raises:
            ValueError: If it is not an image, or is damaged.
        """
        return decode((self.folder / "photograph").read_bytes(), self.name, srgb)

    def views(self, side: str) -> Path:
        """Return the folder of what is shown: ``before``, or ``after`` if there is an output."""
        folders = {"before": self.folder / "before"}
        if self.output is not None:
            folders["after"] = self.output.file.parent
        return folders[side]

    def part(self, side: str, window: Window) -> bytes:
        """Return the JPEG of a window of the output, or of the photograph enlarged by bicubic.

        Args:
            side: As for ``views``.
            window: In pixels of the output, or of the photograph if there is none.
        """
        levels = np.load(self.views(side) / "pixels.npy", mmap_mode="r")
        size = self.output.size if self.output is not None else self.size
        image = cut(levels, size, window, window[2:])
        return saved(np.asarray(image), **JPEG)

    def finish(self, output: Output) -> None:
        """Replace the output by another one, which is written."""
        before = self.output
        self.output = output
        if before is not None:
            remove_temporary(before.file.parent)


def write_reductions(folder: Path) -> None:
    """Write the two reductions of an image, whose pixels are in its folder."""
    path = folder / "pixels.npy"
    levels = np.load(path, mmap_mode="r")
    size = (levels.shape[0], levels.shape[1])
    with path.open("rb") as file:
        stored = Stored(file, levels.shape, levels.offset)
        whole = cut(stored, size, (0, 0, *size), reduced(size, SIDE))
    whole.save(folder / "whole.jpg", **JPEG)
    whole.thumbnail((THUMBNAIL, THUMBNAIL))
    whole.save(folder / "thumbnail.jpg", **JPEG)


def _opened(file: Path, name: str, number: int) -> Photograph:
    photograph = Photograph(number, PureWindowsPath(name).name, file.parent, (0, 0))
    levels = displayed(photograph.read(srgb=True))
    before = photograph.folder / "before"
    before.mkdir()
    np.save(before / "pixels.npy", levels)
    write_reductions(before)
    photograph.size = (levels.shape[0], levels.shape[1])
    return photograph


class Visit:
    """One open page.

    Args:
        folder: For the folder of its files.

    Attributes:
        models: The visitor's own, by what the page calls them.
        seen: When the page was heard last, by ``time.monotonic``.
        left: Whether it was closed, or is being loaded again.
        error: Why no photograph could be enlarged.
    """

    def __init__(self, folder: Path) -> None:
        self.id = secrets.token_urlsafe(16)
        self.folder = folder / self.id
        self.folder.mkdir()
        self.photographs: dict[int, Photograph] = {}
        self.models: dict[str, Offer] = {}
        self.seen = time.monotonic()
        self.left = False
        self.error = ""
        self._numbers = itertools.count(PREVIEW + 1)

    def new_file(self, name: str = "photograph") -> Path:
        """Return the place of another photograph's file, or of a model's under its own name."""
        folder = self.folder / str(next(self._numbers))
        folder.mkdir()
        return folder / PureWindowsPath(name).name

    def add(self, file: Path, name: str) -> Photograph:
        """Add a photograph that was uploaded.

        Args:
            file: From ``new_file``.
            name: As the visitor calls it.

        Raises:
            ValueError: If it is not an image, or is damaged.
        """
        photograph = _opened(file, name, int(file.parent.name))
        self.photographs[photograph.number] = photograph
        return photograph

    def add_model(self, file: Path) -> None:
        """Add a model that was uploaded; it replaces one of the same name.

        Args:
            file: From ``new_file``.

        Raises:
            ValueError: As ``offer_of_file``.
        """
        before = self.models.get(f"own/{file.name}")
        self.models[f"own/{file.name}"] = offer_of_file(file)
        if before is not None:
            remove_temporary(Path(before.source).parent)

    def add_square(self, number: int, x: float, y: float) -> Photograph:
        """Add the square of a photograph that a preview enlarges, instead of the one before.

        Args:
            number: The photograph.
            x: Middle of the square, as a share of the photograph's width.
            y: The same for its height.
        """
        photograph = self.photographs[number]
        height, width = photograph.size
        side = min(SQUARE, height, width)
        top = min(max(0, round(y * height - side / 2)), height - side)
        left = min(max(0, round(x * width - side / 2)), width - side)
        image = photograph.read()
        pixels = np.atleast_3d(image.array())[top : top + side, left : left + side]
        extras = Extras(image.icc or image.grey_icc, cicp=image.cicp)
        self.remove(PREVIEW)
        file = self.new_file()
        with file.open("w+b") as opened:
            encode(opened, pixels.shape[:2], [np.ascontiguousarray(pixels)], extras, "png", 0)
        square = _opened(file, photograph.name, PREVIEW)
        square.corner = (top, left)
        self.photographs[PREVIEW] = square
        return square

    def remove(self, number: int) -> None:
        """Remove a photograph and its files; its job ends."""
        photograph = self.photographs.pop(number, None)
        if photograph is not None:
            photograph.job = None
            remove_temporary(photograph.folder)

    def stop(self) -> None:
        """End all jobs; one that is at work ends at its next layer."""
        for photograph in [*self.photographs.values()]:
            photograph.job = None

    def waiting(self) -> tuple[Photograph, Job] | None:
        """Return the next job, and its photograph."""
        for _, photograph in sorted(self.photographs.items()):  # a preview is first
            job = photograph.job
            if job is not None and job.progress is None:
                return photograph, job
        return None

    def is_open(self) -> bool:
        """Return whether the page was heard lately."""
        return not self.left and time.monotonic() - self.seen < SILENT

    def is_over(self) -> bool:
        """Return whether its files can go; stop it if it has said nothing for some time."""
        silence = time.monotonic() - self.seen
        if silence > SILENT and any(one.job for one in self.photographs.values()):
            self.stop()
            self.error = "Stopped: this page was closed or asleep for some minutes."
        return silence > (LEFT if self.left else KEPT)
