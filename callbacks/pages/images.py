"""A page of image files: those of one scene with the slider between them, one scene at a time.

    predict.html      the page; it shows files of its folder where a browser can
    .predict_html     what else it shows: bicubic, thumbnails, and previews of large files

Hidden, so that no command takes the previews for images.
"""

from __future__ import annotations

import functools
import math
import os
import re
import urllib.parse
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import torch
import xxhash
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional

from callbacks.pages.render import Figure, Tile, render_page
from files.images.decode import DecodedImage, from_pillow, read_image, read_size
from files.images.deep import Pixels, eight_bits
from files.images.pillow import of_any_size
from files.owned import refuse_link, remove_file, whole_file, write_whole
from files.videos.video import read_frame

TEMPLATE = Path(__file__).parent / "images.html.j2"
MOST = 200  # scenes with images; the others are links
LISTED = 2_000  # links
SIDE = 2_000  # pixels; larger images are shown by a preview, and by parts
THUMBNAIL = 160  # pixels of a side
SQUARE = 8  # pixels of a side of the checkerboard behind transparent pixels
BAND = 512  # rows of an image that are cut at a time
PARTS, PART = 3, 640  # of the parts of a large image, and pixels of a side of each
SHOWN = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".avif", ".bmp")  # by browsers
PREVIEW = re.compile(r"[0-9a-f]{16}\.jpg")
JPEG: dict[str, Any] = {"format": "JPEG", "quality": 92, "subsampling": 0}
Size = tuple[int, int]  # height, width
Window = tuple[int, int, int, int]  # top, left, height, width
Levels = NDArray[np.uint8]  # (H, W, 3) in sRGB, or (H, W, 4) with alpha


class Stored:
    """Levels in a file, which are read in parts; pages mapped from it would count as memory.

    Args:
        file: The file.
        shape: (H, W, C).
        offset: Bytes of the file before them.
    """

    def __init__(self, file: IO[bytes], shape: tuple[int, ...], offset: int = 0) -> None:
        self.file = file
        self.shape = shape
        self.offset = offset

    def __getitem__(self, part: tuple[slice, slice]) -> Levels:
        """Return some rows and columns."""
        rows, columns = part
        width, channels = self.shape[1:]
        self.file.seek(self.offset + rows.start * width * channels)
        count = min(rows.stop, self.shape[0]) - rows.start
        data = self.file.read(count * width * channels)
        return np.frombuffer(data, np.uint8).reshape(count, width, channels)[:, columns]


Read = Callable[[Path, int | None], Levels | Stored]  # a file, a frame of a video


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


class _Shown(NamedTuple):
    """What the page shows of a scene: its address in the index, and its figures."""

    name: str
    thumbnail: str
    figures: list[Figure]


class _View(NamedTuple):
    """What a figure shows of the images of a scene.

    size: Of the whole images.
    window: The part of them that is shown.
    display_size: Size at which it is shown.
    """

    size: Size
    window: Window
    display_size: Size


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
    shown: list[_Shown] = []
    previews = _Previews(page)
    with of_any_size():  # outputs may be larger than inputs can be
        for number, scene in enumerate(scenes):
            if number < MOST:
                try:
                    shown.append(previews.of_scene(scene))
                    continue
                except (OSError, ValueError) as error:
                    content.notes.append(f"{scene.key} is not shown: {error}")
            content.links.append((scene.key, scene.parts[-1].file))
    previews.remove_others()
    text = render_page(
        TEMPLATE,
        sources="img-src 'self' file: data:",
        content=content,
        scenes=shown,
        links=[(name, address(file, page)) for name, file in content.links[:LISTED]],
        more=max(len(content.links) - LISTED, 0),
    )
    write_whole(page, text)


def write_previews(page: Path, scene: Scene, levels: Stored) -> None:
    """Write the previews of a scene ahead of its page, which then needs not read the last image.

    Args:
        page: The page.
        scene: The scene.
        levels: Its last image.
    """
    previews = _Previews(page)
    previews.outputs[scene.parts[-1].file] = levels
    with of_any_size():
        previews.of_scene(scene)


def address(file: Path, page: Path) -> str:
    """Return the address of a file, relative to a page."""
    below = os.path.relpath(os.path.abspath(file), os.path.abspath(page.parent))
    return urllib.parse.quote(os.fsencode(below))


class _Previews:
    """Figures of a page, and the previews that they need."""

    def __init__(self, page: Path) -> None:
        self.page = page
        self.folder = previews_of(page)
        refuse_link(self.folder)
        self.names: set[str] = set()
        self.outputs: dict[Path, Stored] = {}  # images that need not be read

    def _read(self, file: Path, frame: int | None) -> Levels | Stored:
        return self.outputs[file] if file in self.outputs else _read(file, frame)

    def of_scene(self, scene: Scene) -> _Shown:
        """Return the figures of a scene, writing the previews they need: large images in several.

        The first one is of the whole images, reduced; the others of the parts with most detail.

        Raises:
            OSError: If a file is missing.
            ValueError: If it is damaged.
        """
        sizes = [_size_of(part) for part in scene.parts]
        size = sizes[-1]
        display_size = reduced(size, SIDE)
        pixels = f"{size[1]}x{size[0]} pixels"
        others = dict.fromkeys(f"{width}x{height}" for height, width in sizes[:-1])
        others.pop(f"{size[1]}x{size[0]}", None)
        about = f"{', '.join(others)} → {pixels}" if others else pixels
        read = functools.cache(self._read)  # each image once
        last = scene.parts[-1]
        view = _View(size, (0, 0, *size), reduced(size, THUMBNAIL))
        thumbnail = address(self._preview(last, view, read), self.page)
        view = _View(size, (0, 0, *size), display_size)
        if display_size == size:
            figure = self._figure(scene.key, about, scene, view, read)
            return _Shown(scene.key, thumbnail, [figure])
        about += f", shown at {display_size[1]}x{display_size[0]}"
        figures = [self._figure(scene.key, about, scene, view, read)]
        reduction = self._preview(last, view, read)
        for window in _detailed_windows(reduction, size):
            top, left, height, width = window
            about = f"{width}x{height} of {pixels}, at column {left} and row {top}"
            view = _View(size, window, (height, width))
            figures.append(self._figure(f"{scene.key} at 100 %", about, scene, view, read))
        return _Shown(scene.key, thumbnail, figures)

    def _figure(self, key: str, about: str, scene: Scene, view: _View, read: Read) -> Figure:
        tiles = [self._tile(part, view, read) for part in scene.parts]
        height, width = view.display_size
        return Figure(key, about, width, height, tiles, 0, len(tiles) - 1, full=view.window[3])

    def _tile(self, part: Part, view: _View, read: Read) -> Tile:
        file = address(part.file, self.page)
        is_whole = view.display_size == view.size and not part.enlarged
        if is_whole and part.file.suffix.lower() in SHOWN:
            return Tile(part.label, file)
        preview = self._preview(part, view, read)
        return Tile(part.label, address(preview, self.page), link="" if part.enlarged else file)

    def _preview(self, part: Part, view: _View, read: Read) -> Path:
        preview = self.folder / f"{_digest(part, view)}.jpg"
        self.names.add(preview.name)
        if not preview.exists():
            image = cut(read(part.file, part.frame), view.size, view.window, view.display_size)
            with whole_file(preview) as stream:
                image.save(stream, **JPEG)
        return preview

    def remove_others(self) -> None:
        """Remove previews that are used no more."""
        if not self.folder.is_dir():
            return
        for path in self.folder.iterdir():
            if PREVIEW.fullmatch(path.name) and path.name not in self.names:
                remove_file(path)


def _digest(part: Part, view: _View) -> str:
    state = os.stat(part.file)
    described = [os.fspath(part.file.absolute()), state.st_size, state.st_mtime_ns]
    if part.frame is not None:
        described.append(part.frame)
    text = repr([*described, part.enlarged, view])
    return xxhash.xxh3_64_hexdigest(text.encode(errors="replace"))


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
    corners = []
    for _ in range(count):
        sums = functional.pad(energy.cumsum(0).cumsum(1), (1, 0, 1, 0))
        windows = sums[h:, w:] - sums[:-h, w:] - sums[h:, :-w] + sums[:-h, :-w]
        top, left = divmod(int(windows.argmax()), windows.shape[1])
        energy[top : top + h, left : left + w] = 0
        corners.append((top // step * step, left // step * step))
    return corners


def _size_of(part: Part) -> Size:
    if part.frame is None:
        width, height = read_size(part.file)
    else:
        height, width = read_frame(part.file, 1).shape[:2]
    return height, width


def _detailed_windows(reduction: Path, size: Size) -> list[Window]:
    """Return windows with much detail of an image of (H, W), by its reduction."""
    image_height, image_width = size
    with Image.open(reduction) as image:
        small = np.array(image.convert("L"))
    factor = image_height / small.shape[0]
    side = round(min(PART, image_height, image_width) / factor)
    height = min(PART, image_height)
    width = min(PART, image_width)
    windows = []
    for top, left in most_detailed(torch.from_numpy(small)[None, None], (side, side), count=PARTS):
        top = min(round(top * factor), image_height - height)
        left = min(round(left * factor), image_width - width)
        windows.append((top, left, height, width))
    return windows


def reduced(size: Size, side: int) -> Size:
    """Return a size with the same aspect, and sides of at most ``side`` pixels."""
    factor = min(1, side / max(size))
    height, width = (max(1, round(length * factor)) for length in size)
    return height, width


def displayed(image: DecodedImage) -> Levels:
    """Return an image as a screen shows it, of 8 bits.

    Args:
        image: Decoded to sRGB.
    """
    rgb = eight_bits(image.rgb)
    if image.alpha is None:
        return rgb
    return np.dstack([rgb, eight_bits(image.alpha)])


def seen(pixels: Pixels, icc: bytes | None) -> Levels:
    """Return pixels of an output, (H, W, C), as a screen shows them.

    Args:
        pixels: Of 8 or 16 bits.
        icc: Their colour profile.
    """
    grey_or_colours = pixels[..., 0] if pixels.shape[2] == 1 else pixels
    image = Image.fromarray(eight_bits(grey_or_colours))
    image.info["icc_profile"] = icc
    return displayed(from_pillow(image, srgb=True))


def cut(levels: Levels | Stored, size: Size, window: Window, display_size: Size) -> Image.Image:
    """Return a window of an image as it is shown, on a checkerboard where it is transparent.

    Args:
        levels: The image; it is copied a band of rows at a time.
        size: Size to which the image is enlarged by bicubic, or its own.
        window: Part of that size.
        display_size: Size of the result.
    """
    top, left, height, width = window
    y = levels.shape[0] / size[0]
    x = levels.shape[1] / size[1]
    rows, columns = display_size
    margin = math.ceil(2 * max(1, height * y / rows, width * x / columns)) + 1
    first_column = max(0, math.floor(left * x) - margin)
    last_column = math.ceil((left + width) * x) + margin
    image = Image.new("RGBA" if levels.shape[2] == 4 else "RGB", (columns, rows))
    step = max(1, int(BAND * rows / (height * y)))
    for row in range(0, rows, step):
        count = min(step, rows - row)
        start = (top + row * height / rows) * y
        stop = (top + (row + count) * height / rows) * y
        first_row = max(0, math.floor(start) - margin)
        last_row = math.ceil(stop) + margin
        part = np.ascontiguousarray(levels[first_row:last_row, first_column:last_column])
        box = (
            left * x - first_column,
            start - first_row,
            (left + width) * x - first_column,
            min(stop - first_row, part.shape[0]),  # rounded, it may be too much
        )
        band = Image.fromarray(part).resize((columns, count), Image.Resampling.BICUBIC, box)
        image.paste(band, (0, row))
    return _on_checkerboard(image) if image.mode == "RGBA" else image


def _on_checkerboard(image: Image.Image) -> Image.Image:
    rows, columns = np.indices((image.height, image.width)) // SQUARE
    board = np.where((rows + columns) % 2, 255, 204).astype(np.uint8)
    seen = Image.alpha_composite(Image.fromarray(board).convert("RGBA"), image)
    return seen.convert("RGB")


def _read(file: Path, frame: int | None) -> Levels:
    if frame is None:
        return displayed(read_image(file, srgb=True))
    levels = read_frame(file, frame)
    scaled = levels / (np.iinfo(levels.dtype).max / 255)
    return scaled.round().astype(np.uint8)
