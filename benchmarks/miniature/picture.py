"""The picture of a miniature: the same crops as several rows enlarge them, beside HR."""

from __future__ import annotations

import shutil
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from benchmarks.miniature.callbacks import HR, OUTPUTS
from benchmarks.miniature.numbers import Measured, set_of
from benchmarks.miniature.plan import Plan
from benchmarks.miniature.report import COLUMNS, strips
from callbacks.report.plots import Point, Quantity, scatter
from files.owned import write_whole

SIDE, GAP, LINE, FONT_SIZE = 192, 6, 20, 13  # pixels


def draw(plan: Plan, path: Path) -> Path | None:
    """Draw a line of pictures for each image and scale, a column for each row.

    Args:
        plan: Its commands are done.
        path: The file; names of the others end in the metric that is drawn against distortion, or
            in the number of a strip.

    Returns:
        The file, or None where a row of the picture was not measured.
    """
    names = {row.name: row.label for row in plan.rows}
    if not plan.method.shown or not names.keys() >= set(plan.method.shown):
        return None
    rows = {n: Measured(plan.run_of(n), plan.seeds[0]) for n in plan.method.shown}
    first = rows[plan.method.shown[0]]
    lines: list[tuple[str, list[Path]]] = []
    for scale in (s for s in plan.method.shown_scales if s in first.scales):
        for key in chosen(first.keys(scale), plan.method.pictures):
            files = [row.run / OUTPUTS / str(plan.seeds[0]) / f"{key}.png" for row in rows.values()]
            files.append(first.run / OUTPUTS / HR / f"{key}.png")
            lines.append((f"{set_of(key.partition('/')[0])} x{scale:g}", files))
    page([names[n] for n in rows] + ["HR"], lines).save(path, optimize=True)
    for metric in plan.method.plane:
        write_whole(path.with_name(f"{path.stem}_{metric}.svg"), plane(plan, metric))
    copy_strips(plan, path)
    return path


def copy_strips(plan: Plan, path: Path) -> None:
    """Lay the pictures that runs wrote themselves beside the picture. Args as ``draw``'s."""
    for number, strip in enumerate(strips(plan).values(), 1):
        shutil.copyfile(strip, path.with_name(f"{path.stem}_strip_{number}.png"))


def plane(plan: Plan, metric: str) -> str:
    """Perception against distortion, a point a row; a file of SVG.

    Args:
        plan: Its commands are done.
        metric: Of perception; lower is better.
    """
    points, scale = [], plan.method.shown_scales[0]
    for number, row in enumerate(row for row in plan.rows if row.data is None):
        measured = Measured(plan.run_of(row.name), plan.seeds[0])
        both = [measured.means(name, scale) for name in ("psnr", metric)]
        x, y = (statistics.fmean(seeds) for seeds in both)
        spread = [statistics.stdev(seeds) if len(seeds) > 1 else 0.0 for seeds in both]
        points.append(Point(number, row.label, (x, y), (spread[0], spread[1])))
    axes = Quantity(COLUMNS["psnr"], True), Quantity(COLUMNS[metric], False)
    return scatter(points, *axes, notes=())


def chosen(keys: Sequence[str], wanted: Sequence[str]) -> list[str]:
    """Some of the images.

    Args:
        keys: All, as DATASET/KEY.
        wanted: Those to show, as SET/KEY; the first of each set, if empty.
    """
    sets: dict[str, list[str]] = {}
    for key in keys:
        sets.setdefault(set_of(key.partition("/")[0]), []).append(key)
    if not wanted:
        return [found[0] for found in sets.values()]
    named = {f"{name}/{key.partition('/')[2]}": key for name, of in sets.items() for key in of}
    return [named[name] for name in wanted if name in named]


def page(columns: Sequence[str], lines: Sequence[tuple[str, Sequence[Path]]]) -> Image.Image:
    """All pictures on one.

    Args:
        columns: What stands above them.
        lines: What stands beside each line, and its pictures, a column each.
    """
    font = ImageFont.load_default(FONT_SIZE)
    heads = [wrapped(label, SIDE, font.getlength) for label in columns]
    width, head = len(columns) * (SIDE + GAP) - GAP, LINE * max(map(len, heads))
    paper = Image.new("RGB", (width, head + len(lines) * (SIDE + LINE + GAP)), "white")
    pen = ImageDraw.Draw(paper)
    for column, words in enumerate(heads):
        pen.text((column * (SIDE + GAP), 2), "\n".join(words), "black", font)
    for line, (label, files) in enumerate(lines):
        top = head + line * (SIDE + LINE + GAP)
        pen.text((0, top + 2), label, "black", font)
        for column, file in enumerate(files):
            with Image.open(file) as picture:
                zoom = max(SIDE // max(picture.size), 1)  # of small ones each pixel is a square
                large = picture.convert("RGB").resize(
                    (picture.width * zoom, picture.height * zoom), Image.Resampling.NEAREST
                )
            crop = large.crop((0, 0, SIDE, SIDE))
            paper.paste(crop, (column * (SIDE + GAP), top + LINE))
    return paper


def wrapped(text: str, width: float, length: Callable[[str], float]) -> list[str]:
    """Lines of whole words, none wider than ``width`` unless one word is.

    Args:
        text: Words.
        width: In the units of ``length``.
        length: Of a line.
    """
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and length(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines
