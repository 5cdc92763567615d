"""A page of image files: those of one scene with the slider between them, and numbers.

    predict.html      the page; it shows files of its folder where a browser can
    .predict_html     what else it shows: bicubic, and previews of large files; `numbers.json`

Hidden, so that no command takes the previews for images.
"""

from __future__ import annotations

import functools
import json
import logging
import os
import re
import urllib.parse
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import xxhash
from torch import Tensor

from callbacks import weights
from callbacks.metrics.base import TooSmall
from callbacks.metrics.niqe import NIQE, PRISTINE
from callbacks.metrics.sets import read_image
from callbacks.pages.render import Figure, Tile, render_page
from degradations.bicubic import resize
from degradations.images import as_image
from files.image_profiles import orientation_of
from files.owned import remove_file, whole_file, write_whole
from files.png_text import open_image
from files.video import read_frame

log = logging.getLogger(__name__)
TEMPLATE = Path(__file__).parent / "images.html.j2"
MOST = 200  # scenes with images; the others are links
LISTED = 2_000  # links
SIDE = 2_000  # pixels; larger images are shown by a preview
SHOWN = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".avif", ".bmp")  # by browsers
PREVIEW = re.compile(r"[0-9a-f]{16}\.jpg")
NUMBERS = "numbers.json"
JPEG: dict[str, Any] = {"format": "JPEG", "quality": 92, "subsampling": 0}
Size = tuple[int, int]  # height, width


class Part(NamedTuple):
    """One image of a scene.

    label: Name of the method.
    file: The image.
    enlarged: Whether it is enlarged to the scene's size, by bicubic.
    cut: Whether only its upper left part of the scene's size is shown.
    caption: Its numbers; None for NIQE.
    frame: Number of the frame, from 1, if the file is a video.
    """

    label: str
    file: Path
    enlarged: bool = False
    cut: bool = False
    caption: str | None = None
    frame: int | None = None


class Scene(NamedTuple):
    """Images to compare.

    key: Its name.
    parts: At least one.
    whole: Number of the part that gives the size.
    left: Number of the part that is on the left of the slider at first.
    right: The same for its right.
    """

    key: str
    parts: Sequence[Part]
    whole: int = -1
    left: int = 0
    right: int = 1


class PageTable(NamedTuple):
    """A table above the images.

    headings: Of the columns.
    rows: Text of the cells; the first of each row names it.
    notes: Lines below the table.
    texts: Headings of further columns of text; all others are numbers.
    """

    title: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()
    texts: Sequence[str] = ()


@dataclass
class Content:
    """What a page says besides its images.

    facts: Names and values.
    links: Names and files of what is not shown.
    notes: What the reader should know.
    tables: Numbers of all images.
    lists: Headings and lines of lists that open with a click.
    """

    title: str
    facts: list[tuple[str, str]] = field(default_factory=list)
    links: list[tuple[str, Path]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    tables: list[PageTable] = field(default_factory=list)
    lists: list[tuple[str, Sequence[str]]] = field(default_factory=list)


def write_images_page(
    page: Path, scenes: Iterable[Scene], content: Content, device: torch.device | None = None
) -> None:
    """Write a page, with previews in a hidden folder beside it; those of an earlier page are used.

    Args:
        page: The file.
        scenes: Those after the first ``MOST`` become links, as do unreadable ones.
        content: What else it says; links and notes are added to it.
        device: Where NIQE is computed.
    """
    maker = _Maker(page, device)
    figures: list[Figure] = []
    for scene in scenes:
        if len(figures) < MOST:
            try:
                figures.append(maker.figure(scene))
                continue
            except (OSError, ValueError) as error:
                content.notes.append(f"{scene.key} is not shown: {error}")
        content.links.append((scene.key, scene.parts[-1].file))
    maker.finish()
    more = len(content.links) - LISTED
    text = render_page(
        TEMPLATE,
        files=True,
        content=content,
        figures=figures,
        links=[(name, maker.address(file)) for name, file in content.links[:LISTED]],
        more=max(more, 0),
        niqe=maker.shows_niqe,
        listed=LISTED,
    )
    write_whole(page, text)


class _Maker:
    """Make the tiles of one page."""

    def __init__(self, page: Path, device: torch.device | None) -> None:
        self.page, self.folder = page, page.with_name(f".{page.stem}_html")
        # float64, which some devices do not have.
        self.device = device if device is not None and device.type == "cuda" else "cpu"
        self.shows_niqe = False
        self.used: set[str] = set()  # previews
        self.numbers: dict[str, float | None] = {}  # NIQE by digest
        try:
            self.known: dict[str, Any] = json.loads((self.folder / NUMBERS).read_text("utf-8"))
        except (OSError, ValueError):  # none yet, or damaged
            self.known = {}

    def figure(self, scene: Scene) -> Figure:
        """Return the figure of a scene, writing the previews it needs.

        Raises:
            OSError: If a file is missing.
            ValueError: If it is damaged.
        """
        sizes = [_size_of(part) for part in scene.parts]
        size = sizes[scene.whole]
        shown = _reduced(size)
        cut = [part.cut and own != size for part, own in zip(scene.parts, sizes, strict=True)]
        parts = [part._replace(cut=cuts) for part, cuts in zip(scene.parts, cut, strict=True)]
        tiles = [self._tile(part, size, shown) for part in parts]
        whole = f"{size[1]}x{size[0]} pixels"
        others = {f"{w}x{h}": None for h, w in sizes if (h, w) != size}
        about = f"{', '.join(others)} → {whole}" if others else whole
        if shown != size:
            about += f", shown at {shown[1]}x{shown[0]}"
        right = min(scene.right, len(tiles) - 1)
        return Figure(scene.key, about, shown[1], shown[0], tiles, scene.left, right)

    def _tile(self, part: Part, size: Size, shown: Size) -> Tile:
        found = os.stat(part.file)
        state = [os.fspath(part.file.absolute()), found.st_size, found.st_mtime_ns]
        state += [] if part.frame is None else [part.frame]
        wanted = size if part.enlarged else ("cut", size) if part.cut else None
        digest = xxhash.xxh3_64_hexdigest(repr([*state, wanted, shown]).encode(errors="replace"))
        pixels = functools.cache(lambda: _read(part, size))
        as_it_is = not part.enlarged and not part.cut
        direct = as_it_is and shown == size and part.file.suffix.lower() in SHOWN
        address = self.address(part.file)
        if not direct:
            preview = self.folder / f"{digest}.jpg"
            self.used.add(preview.name)
            if not preview.exists():
                _save(preview, resize(pixels(), shown) if shown != size else pixels())
        caption = part.caption
        if caption is None:
            caption = self._niqe_of(digest, pixels) if shown == size else ""
        link = "" if direct or part.enlarged else address
        return Tile(part.label, address if direct else self.address(preview), caption, link)

    def _niqe_of(self, digest: str, pixels: Callable[[], Tensor]) -> str:
        if self.niqe is None:
            return ""
        self.shows_niqe = True
        if digest not in self.known:
            image = pixels().to(self.device)
            try:
                self.known[digest] = float(self.niqe.compute(image, image, {}))
            except TooSmall:
                self.known[digest] = None
        self.numbers[digest] = value = self.known[digest]
        return "" if value is None else f"NIQE {value:.2f}"

    @functools.cached_property
    def niqe(self) -> NIQE | None:
        """The metric, if its model is on this machine; nothing is fetched for a page."""
        try:
            if weights.find(PRISTINE) is None:
                return None
            metric = NIQE()
            metric.load()
        except (OSError, ValueError) as error:
            log.warning("the page has no NIQE: %s", error)
            return None
        return metric

    def finish(self) -> None:
        """Keep the numbers, and remove previews that are used no more."""
        if not self.folder.is_dir() and not self.numbers:
            return
        write_whole(self.folder / NUMBERS, json.dumps(self.numbers, indent=1) + "\n")
        for path in self.folder.iterdir():
            if PREVIEW.fullmatch(path.name) and path.name not in self.used:
                remove_file(path)

    def address(self, file: Path) -> str:
        """Return the address of a file, relative to the page."""
        below = os.path.relpath(os.path.abspath(file), os.path.abspath(self.page.parent))
        return urllib.parse.quote(os.fsencode(below))


def size_of(file: Path) -> Size:
    """Return the size of an image, upright.

    Raises:
        OSError: If it is missing, or no image.
    """
    with open_image(file) as image:
        width, height = image.size
        return (width, height) if orientation_of(image) >= 5 else (height, width)


def _size_of(part: Part) -> Size:
    if part.frame is None:
        return size_of(part.file)
    height, width = read_frame(part.file, 1).shape[:2]
    return height, width


def _reduced(size: Size) -> Size:
    factor = min(1, SIDE / max(size))
    height, width = (max(1, round(side * factor)) for side in size)
    return height, width


def _read(part: Part, size: Size) -> Tensor:
    if part.frame is None:
        image = read_image(part.file)
    else:
        levels = read_frame(part.file, part.frame)
        image = torch.from_numpy(levels / np.float32(np.iinfo(levels.dtype).max)).movedim(2, 0)[
            None
        ]
    if part.cut:
        return image[..., : size[0], : size[1]]
    return resize(image, size) if part.enlarged else image


def _save(path: Path, image: Tensor) -> None:
    with whole_file(path) as file:
        as_image(image).save(file, **JPEG)
