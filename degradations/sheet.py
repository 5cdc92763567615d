"""Contact sheets: tiles of pictures with words beneath, as one PNG and as one HTML page."""

from __future__ import annotations

import base64
import html
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from degradations.pictures import png
from files.owned import refuse_folder, write_whole

GAP = 16  # pixels between tiles
INK, GREY, PALE = (20, 20, 20), (95, 95, 95), (225, 225, 225)


@dataclass
class Tile:
    """A picture and what is written beneath.

    picture: The picture at its own size; None leaves its place empty.
    title: One line.
    words: Further lines, broken where they are too long.
    """

    picture: Image.Image | None
    title: str
    words: Sequence[str] = ()


@dataclass
class Section:
    """Tiles side by side under a heading.

    side: Width in pixels that their pictures are shown at, in squares unless `exact`.
    exact: Show the pictures as they are, and never enlarged; for drawings.
    """

    heading: str
    tiles: Sequence[Tile]
    side: int = 256
    exact: bool = False
    words: Sequence[str] = field(default_factory=tuple)


def sheet(sections: Sequence[Section], width: int = 8 * (192 + GAP) + GAP) -> Image.Image:
    """One picture with all sections below each other, `width` pixels wide."""
    parts = [_drawn(section, width) for section in sections]
    page = Image.new("RGB", (width, sum(part.height for part in parts) + GAP), "white")
    top = 0
    for part in parts:
        page.paste(part, (0, top))
        top += part.height
    return page


def page(title: str, sections: Sequence[Section]) -> str:
    """A page of HTML with everything in it, pictures too: at rest it needs no script.

    With the mouse over a picture, all pictures of its section show the same place enlarged.
    """
    body = "".join(_html(section) for section in sections)
    return _PAGE.format(title=html.escape(title), body=body)


def paths_of(out: Path, inputs: Iterable[Path]) -> tuple[Path, Path]:
    """Return where the PNG and the page go, which is checked before any work.

    Args:
        out: Their path without a suffix.
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
            raise ValueError(f"{path} is read, and would be overwritten: give another --out")
    return paths


def write(paths: tuple[Path, Path], title: str, sections: Sequence[Section]) -> None:
    """Write the PNG and the page.

    Args:
        paths: Of ``paths_of``.
        title: Of the page.
        sections: What to show.
    """
    write_whole(paths[0], png(sheet(sections)))
    write_whole(paths[1], page(title, sections))


def _drawn(section: Section, width: int) -> Image.Image:
    heading, title, small = (ImageFont.load_default(size) for size in (22, 15, 13))
    columns = max(1, (width - GAP) // (section.side + GAP))
    rows = [section.tiles[i : i + columns] for i in range(0, len(section.tiles), columns)]
    intro = [line for text in section.words for line in _broken(text, small, width - 2 * GAP)]
    drawing = Image.new("RGB", (width, 1), "white")
    blocks: list[Image.Image] = []
    top = Image.new("RGB", (width, 48 + 17 * len(intro)), "white")
    draw = ImageDraw.Draw(top)
    draw.text((GAP, 14), section.heading, INK, heading)
    for number, line in enumerate(intro):
        draw.text((GAP, 44 + 17 * number), line, GREY, small)
    blocks.append(top)
    for row in rows:
        shown = [_shown(tile.picture, section) for tile in row]
        lines = [
            [line for text in tile.words for line in _broken(text, small, section.side)]
            for tile in row
        ]
        high = max(image.height for image in shown)
        block = Image.new("RGB", (width, high + 40 + 17 * max(map(len, lines))), "white")
        draw = ImageDraw.Draw(block)
        for column, (tile, image, texts) in enumerate(zip(row, shown, lines, strict=True)):
            left = GAP + column * (section.side + GAP)
            block.paste(image, (left, 0))
            name = _broken(tile.title, title, section.side)[0]
            draw.text((left, high + 5), name, INK, title)
            for number, line in enumerate(texts):
                draw.text((left, high + 24 + 17 * number), line, GREY, small)
        blocks.append(block)
    drawing = Image.new("RGB", (width, sum(block.height for block in blocks)), "white")
    y = 0
    for block in blocks:
        drawing.paste(block, (0, y))
        y += block.height
    return drawing


def _shown(picture: Image.Image | None, section: Section) -> Image.Image:
    side = section.side
    if picture is None:
        empty = Image.new("RGB", (side, side), PALE)
        ImageDraw.Draw(empty).line((0, side, side, 0), "white", 3)
        return empty
    if section.exact:
        return picture
    factor = side / max(picture.size)
    size = (max(1, round(picture.width * factor)), max(1, round(picture.height * factor)))
    # Pixels that are enlarged are shown as they are.
    how = Image.Resampling.NEAREST if factor >= 1 else Image.Resampling.BICUBIC
    return picture.resize(size, how)


def _broken(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> list[str]:
    lines, line = [], ""
    for word in _pieces(text, font, width):
        longer = f"{line} {word}".strip()
        if line and font.getlength(longer) > width:
            lines.append(line)
            line = word
        else:
            line = longer
    return [*lines, line]


def _pieces(
    text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int
) -> Iterator[str]:
    # Words, those that are wider than a line in parts.
    for word in text.split():
        while font.getlength(word) > width and len(word) > 1:
            fits = next(n for n in range(len(word), 0, -1) if font.getlength(word[:n]) <= width)
            yield word[: max(fits, 1)]
            word = word[max(fits, 1) :]
        yield word


def _html(section: Section) -> str:
    tiles = []
    for tile in section.tiles:
        if tile.picture is None:
            picture = '<div class="none"></div>'
        else:
            data = base64.b64encode(png(tile.picture)).decode()
            size = f"{tile.picture.width} x {tile.picture.height} px"
            picture = (
                f'<img alt="{html.escape(tile.title)}, {size}" src="data:image/png;base64,{data}">'
            )
        words = "<br>".join(html.escape(line) for line in tile.words)
        kind = "exact" if section.exact else "zoom"
        tiles.append(
            f'<figure style="width:{section.side}px"><div class="{kind}">{picture}</div>'
            f"<figcaption><b>{html.escape(tile.title)}</b><br>{words}</figcaption></figure>"
        )
    intro = "".join(f"<p>{html.escape(line)}</p>" for line in section.words)
    heading = html.escape(section.heading)
    return f"<section><h2>{heading}</h2>{intro}<div>{''.join(tiles)}</div></section>\n"


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<style>
body {{ font: 14px/1.4 system-ui, sans-serif; margin: 16px; color: #141414; background: #fff; }}
h1 {{ font-size: 22px; }} h2 {{ font-size: 18px; margin: 24px 0 8px; }}
p {{ margin: 0 0 8px; color: #5f5f5f; }}
section > div {{ display: flex; flex-wrap: wrap; gap: 16px; }}
figure {{ margin: 0; }} figcaption {{ color: #5f5f5f; overflow-wrap: anywhere; }}
figcaption b {{ color: #141414; }}
.zoom {{ overflow: hidden; aspect-ratio: 1; background: #e1e1e1; cursor: crosshair; }}
.zoom img {{ width: 100%; image-rendering: pixelated; display: block; }}
</style></head><body>
<h1>{title}</h1>
{body}<script>
for (const section of document.querySelectorAll("section")) {{
  const pictures = section.querySelectorAll(".zoom img");
  const show = (transform, origin) => pictures.forEach(picture => {{
    picture.style.transform = transform;
    picture.style.transformOrigin = origin;
  }});
  pictures.forEach(picture => {{
    const frame = picture.parentElement;
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
