"""A page of image files: those of one scene with the slider between them.

    predict.html      the page; it shows files of its folder where a browser can
    .predict_html     what else it shows: bicubic, and previews of large files

Hidden, so that no command takes the previews for images.
"""

from __future__ import annotations

import functools
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
from PIL import Image
from torch import Tensor
from torch.nn import functional

from callbacks.pages.render import Figure, Tile, render_page
from files.images.alpha import on_white
from files.images.decode import read_image, read_size
from files.images.deep import eight_bits
from files.images.pillow import of_any_size
from files.owned import refuse_link, remove_file, whole_file, write_whole
from files.video import read_frame

TEMPLATE = Path(__file__).parent / "images.html.j2"
MOST = 200  # scenes with images; the others are links
LISTED = 2_000  # links
SIDE = 2_000  # pixels; larger images are shown by a preview, and by parts
PARTS, PART = 3, 640  # of the parts of a large image, and pixels of a side of each
SHOWN = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".avif", ".bmp")  # by browsers
PREVIEW = re.compile(r"[0-9a-f]{16}\.jpg")
JPEG: dict[str, Any] = {"format": "JPEG", "quality": 92, "subsampling": 0}
Size = tuple[int, int]  # height, width
Window = tuple[int, int, int, int]  # top, left, height, width
Read = Callable[[Path, int | None], Image.Image]  # a file, a frame of a video


class Part(NamedTuple):
    """One image of a scene.

    label: Name of the method.
    file: The image.
    enlarged: Whether it is enlarged to the scene's size, by bicubic.
    frame: Number of the frame, from 1, if the file is a video.
    """

    label: str
    file: Path
    enlarged: bool = False
    frame: int | None = None


class Scene(NamedTuple):
    """Images to compare.

    key: Its name.
    parts: At least one; the last one gives the size.
    """

    key: str
    parts: Sequence[Part]


class _View(NamedTuple):
    """What a figure shows of the images of a scene.

    size: Of the whole images.
    window: The part of them that is shown.
    shown: Size at which it is shown.
    """

    size: Size
    window: Window
    shown: Size


@dataclass
class Content:
    """What a page says besides its images.

    facts: Names and values.
    links: Names and files of what is not shown.
    notes: What the reader should know.
    """

    title: str
    facts: list[tuple[str, str]] = field(default_factory=list)
    links: list[tuple[str, Path]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def previews_of(page: Path) -> Path:
    """Return the hidden folder of a page's previews."""
    return page.with_name(f".{page.stem}_html")


def write_images_page(page: Path, scenes: Iterable[Scene], content: Content) -> None:
    """Write a page, with previews in a hidden folder beside it; those of an earlier page are used.

    Args:
        page: The file.
        scenes: Those after the first ``MOST`` become links, as do unreadable ones.
        content: What else it says; links and notes are added to it.
    """
    figures: list[Figure] = []
    maker = _Maker(page)
    with of_any_size():  # outputs may be larger than inputs can be
        for number, scene in enumerate(scenes):
            if number < MOST:
                try:
                    figures += maker.figures(scene)
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
    )
    write_whole(page, text)


class _Maker:
    """Make the tiles of one page."""

    def __init__(self, page: Path) -> None:
        self.page, self.folder = page, previews_of(page)
        refuse_link(self.folder)
        self.used: set[str] = set()  # previews

    def figures(self, scene: Scene) -> list[Figure]:
        """Return the figures of a scene, writing the previews they need: large images in several.

        The first one is of the whole images, reduced; the others of the parts with most detail.

        Raises:
            OSError: If a file is missing.
            ValueError: If it is damaged.
        """
        sizes = [_size_of(part) for part in scene.parts]
        size = sizes[-1]
        read = functools.cache(_levels)

        def figure(key: str, about: str, view: _View) -> Figure:
            tiles = [self._tile(part, view, read) for part in scene.parts]
            (height, width), full = view.shown, view.window[3]
            return Figure(key, about, width, height, tiles, 0, len(tiles) - 1, full)

        shown = _reduced(size)
        whole = f"{size[1]}x{size[0]} pixels"
        others = {f"{w}x{h}": None for h, w in sizes if (h, w) != size}
        about = f"{', '.join(others)} → {whole}" if others else whole
        if shown == size:
            return [figure(scene.key, about, _View(size, (0, 0, *size), size))]
        view = _View(size, (0, 0, *size), shown)
        found = [figure(scene.key, f"{about}, shown at {shown[1]}x{shown[0]}", view)]
        last = scene.parts[-1]
        for top, left, h, w in _parts(read(last.file, last.frame), shown):
            about = f"{w}x{h} of {whole}, at column {left} and row {top}"
            view = _View(size, (top, left, h, w), (h, w))
            found.append(figure(f"{scene.key} at 100 %", about, view))
        return found

    def _digest(self, part: Part, view: _View) -> str:
        found = os.stat(part.file)
        state = [os.fspath(part.file.absolute()), found.st_size, found.st_mtime_ns]
        state += [] if part.frame is None else [part.frame]
        described = repr([*state, part.enlarged, view])
        return xxhash.xxh3_64_hexdigest(described.encode(errors="replace"))

    def _tile(self, part: Part, view: _View, read: Read) -> Tile:
        digest = self._digest(part, view)
        whole = view.window[2:] == view.size
        reduced = view.shown != view.window[2:]
        direct = whole and not (part.enlarged or reduced)
        direct = direct and part.file.suffix.lower() in SHOWN
        address = self.address(part.file)
        if not direct:
            preview = self.folder / f"{digest}.jpg"
            self.used.add(preview.name)
            if not preview.exists():
                with whole_file(preview) as file:
                    _seen(part, view, read).save(file, **JPEG)
        link = "" if direct or part.enlarged else address
        return Tile(part.label, address if direct else self.address(preview), "", link)

    def finish(self) -> None:
        """Remove previews that are used no more."""
        for path in self.folder.iterdir() if self.folder.is_dir() else ():
            if PREVIEW.fullmatch(path.name) and path.name not in self.used:
                remove_file(path)

    def address(self, file: Path) -> str:
        """Return the address of a file, relative to the page."""
        below = os.path.relpath(os.path.abspath(file), os.path.abspath(self.page.parent))
        return urllib.parse.quote(os.fsencode(below))


def most_detailed(
    image: Tensor, size: tuple[int, int], step: int = 1, count: int = 1
) -> list[tuple[int, int]]:
    """Return the positions of the windows with the strongest gradients, each without those before.

    Args:
        image: (1, 3, H, W).
        size: (h, w) of a window, at most (H, W).
        step: Round positions down to a multiple of this, so that LR pixels are shown whole.
        count: Number of windows.

    Returns:
        (top, left) of each window.
    """
    grey = image[0].cpu().double().mean(0)
    energy = functional.pad(grey.diff(dim=0).square(), (0, 0, 0, 1))
    energy += functional.pad(grey.diff(dim=1).square(), (0, 1))
    h, w = size
    found = []
    for _ in range(count):
        sums = functional.pad(energy.cumsum(0).cumsum(1), (1, 0, 1, 0))
        windows = sums[h:, w:] - sums[:-h, w:] - sums[h:, :-w] + sums[:-h, :-w]
        top, left = divmod(int(windows.argmax()), windows.shape[1])
        energy[top : top + h, left : left + w] = 0
        found.append((top // step * step, left // step * step))
    return found


def _size_of(part: Part) -> Size:
    if part.frame is None:
        width, height = read_size(part.file)
    else:
        height, width = read_frame(part.file, 1).shape[:2]
    return height, width


def _parts(image: Image.Image, shown: Size) -> list[Window]:
    # Found in the reduced image.
    factor = image.height / shown[0]
    small = np.array(image.convert("L").resize(shown[::-1], Image.Resampling.BILINEAR))
    side = round(min(PART, *image.size) / factor)
    corners = most_detailed(torch.from_numpy(small)[None, None], (side, side), count=PARTS)
    height, width = (min(PART, length) for length in (image.height, image.width))
    most = image.height - height, image.width - width
    return [
        (min(round(top * factor), most[0]), min(round(left * factor), most[1]), height, width)
        for top, left in corners
    ]


def _reduced(size: Size) -> Size:
    factor = min(1, SIDE / max(size))
    height, width = (max(1, round(side * factor)) for side in size)
    return height, width


def _levels(file: Path, frame: int | None) -> Image.Image:
    if frame is None:
        image = read_image(file, srgb=True)
        alpha = image.alpha
        rgb = image.rgb if alpha is None else on_white(image.rgb, alpha[..., None])
        return Image.fromarray(eight_bits(rgb))
    levels = read_frame(file, frame)
    return Image.fromarray((levels / (np.iinfo(levels.dtype).max / 255)).round().astype(np.uint8))


def _seen(part: Part, view: _View, read: Read) -> Image.Image:
    """Return what a view shows of an image."""
    image = read(part.file, part.frame)
    top, left, height, width = view.window
    # An enlarged image is resampled within the window only.
    y, x = (own / side for own, side in zip(image.size[::-1], view.size, strict=True))
    y, x = (y, x) if part.enlarged else (1, 1)
    box = (left * x, top * y, (left + width) * x, (top + height) * y)
    return image.resize(view.shown[::-1], Image.Resampling.BICUBIC, box)
