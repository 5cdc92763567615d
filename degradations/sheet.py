"""Contact sheets: tiles of images with text beneath, as one PNG and as one HTML page."""

from __future__ import annotations

import base64
import html
import os
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from degradations.pictures import encode_png
from files.owned import refuse_folder, write_whole

GAP = 16  # pixels between tiles

_INK, _GREY, _PALE = (20, 20, 20), (95, 95, 95), (225, 225, 225)
_LETTER = 7  # mean width of a letter in pixels
_LINE = 17  # height of a line in pixels


@dataclass
class Tile:
    """An image with text beneath.

    image: The image at its own size; None leaves its place empty.
    title: One line.
    words: Further lines, wrapped to the width of the tile.
    """

    image: Image.Image | None
    title: str
    words: Sequence[str] = ()


@dataclass
class Section:
    """Tiles side by side under a heading; `side` is the size of their squares in pixels."""

    heading: str
    tiles: Sequence[Tile]
    side: int = 256


def sheet(sections: Sequence[Section], width: int = 8 * (192 + GAP) + GAP) -> Image.Image:
    """Draw all sections below each other in one image, `width` pixels wide."""
    parts = [part for section in sections for part in _rows(section, width)]
    drawing = Image.new("RGB", (width, sum(part.height for part in parts) + GAP), "white")
    top = 0
    for part in parts:
        drawing.paste(part, (0, top))
        top += part.height
    return drawing


def page(title: str, sections: Sequence[Section]) -> str:
    """Return a self-contained HTML page, images included.

    With the mouse over an image, all images of its section show the same place enlarged.
    """
    body = "".join(_html(section) for section in sections)
    return _PAGE.format(title=html.escape(title), body=body)


def paths_of(out: Path, inputs: Iterable[Path]) -> tuple[Path, Path]:
    """Return the paths of the PNG and the page, checked before any work.

    Args:
        out: Their path, with or without a suffix.
        inputs: Images that are read.

    Raises:
        ValueError: One would overwrite an input.
        IsADirectoryError: A folder is at one of the paths.
    """
    out = out.with_suffix("") if out.suffix in (".png", ".html") else out
    paths = (out.with_name(f"{out.name}.png"), out.with_name(f"{out.name}.html"))
    for path in paths:
        refuse_folder(path)
    real = {os.path.realpath(path) for path in inputs}
    for path in paths:
        if os.path.realpath(path) in real:
            raise ValueError(f"{path} is an input and would be overwritten: give another --out")
    return paths


def write(paths: tuple[Path, Path], title: str, sections: Sequence[Section]) -> None:
    """Write the PNG and the page.

    Args:
        paths: The result of `paths_of`.
        title: Title of the page.
        sections: The content.
    """
    write_whole(paths[0], encode_png(sheet(sections)))
    write_whole(paths[1], page(title, sections))


def _rows(section: Section, width: int) -> list[Image.Image]:
    heading, title, small = (ImageFont.load_default(size) for size in (22, 15, 13))
    top = Image.new("RGB", (width, 48), "white")
    ImageDraw.Draw(top).text((GAP, 14), section.heading, _INK, heading)
    rows = [top]
    columns = max(1, (width - GAP) // (section.side + GAP))
    letters = section.side // _LETTER
    for start in range(0, len(section.tiles), columns):
        tiles = section.tiles[start : start + columns]
        shown = [_shown(tile.image, section.side) for tile in tiles]
        texts = [
            [line for text in tile.words for line in textwrap.wrap(text, letters)] for tile in tiles
        ]
        high = max(image.height for image in shown)
        row = Image.new("RGB", (width, high + 40 + _LINE * max(map(len, texts))), "white")
        draw = ImageDraw.Draw(row)
        for column, (tile, image, lines) in enumerate(zip(tiles, shown, texts, strict=True)):
            left = GAP + column * (section.side + GAP)
            row.paste(image, (left, 0))
            draw.text((left, high + 5), textwrap.shorten(tile.title, letters), _INK, title)
            for number, line in enumerate(lines):
                draw.text((left, high + 24 + _LINE * number), line, _GREY, small)
        rows.append(row)
    return rows


def _shown(image: Image.Image | None, side: int) -> Image.Image:
    if image is None:
        empty = Image.new("RGB", (side, side), _PALE)
        ImageDraw.Draw(empty).line((0, side, side, 0), "white", 3)
        return empty
    factor = side / max(image.size)
    size = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
    # Enlarged pixels stay squares.
    how = Image.Resampling.NEAREST if factor >= 1 else Image.Resampling.BICUBIC
    return image.resize(size, how)


def _html(section: Section) -> str:
    tiles = []
    for tile in section.tiles:
        image = ""
        if tile.image is not None:
            data = base64.b64encode(encode_png(tile.image)).decode()
            size = f"{tile.image.width} x {tile.image.height} px"
            image = (
                f'<img alt="{html.escape(tile.title)}, {size}" src="data:image/png;base64,{data}">'
            )
        words = "<br>".join(html.escape(line) for line in tile.words)
        tiles.append(
            f'<figure style="width:{section.side}px"><div class="zoom">{image}</div>'
            f"<figcaption><b>{html.escape(tile.title)}</b><br>{words}</figcaption></figure>"
        )
    heading = html.escape(section.heading)
    return f"<section><h2>{heading}</h2><div>{''.join(tiles)}</div></section>\n"


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<style>
body {{ font: 14px/1.4 system-ui, sans-serif; margin: 16px; color: #141414; background: #fff; }}
h1 {{ font-size: 22px; }} h2 {{ font-size: 18px; margin: 24px 0 8px; }}
section > div {{ display: flex; flex-wrap: wrap; gap: 16px; }}
figure {{ margin: 0; }} figcaption {{ color: #5f5f5f; overflow-wrap: anywhere; }}
figcaption b {{ color: #141414; }}
.zoom {{ overflow: hidden; aspect-ratio: 1; background: #e1e1e1; cursor: crosshair; }}
.zoom img {{ width: 100%; image-rendering: pixelated; display: block; }}
</style></head><body>
<h1>{title}</h1>
{body}<script>
for (const section of document.querySelectorAll("section")) {{
  const images = section.querySelectorAll(".zoom img");
  const show = (transform, origin) => images.forEach(image => {{
    image.style.transform = transform;
    image.style.transformOrigin = origin;
  }});
  images.forEach(image => {{
    const frame = image.parentElement;
    frame.addEventListener("mousemove", event => {{
      const box = frame.getBoundingClientRect();
      const x = 100 * (event.clientX - box.left) / box.width;
      const y = 100 * (event.clientY - box.top) / box.height;
      show("scale(4)", `${{x}}% ${{y}}%`);
    }});
    frame.addEventListener("mouseleave", () => show("", ""));
  }});
}}
</script></body></html>
"""
