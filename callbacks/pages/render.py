"""HTML pages from templates, with the slider between images that all of them share."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

BESIDE = Path(__file__).parent  # the shared template, the style sheet and the script


class Tile(NamedTuple):
    """One image of a figure.

    label: Name of the method.
    uri: Where the browser finds it: an address below the page, or ``embedded``.
    caption: Its numbers.
    link: Address of the whole file, if another one is shown.
    """

    label: str
    uri: str
    caption: str = ""
    link: str = ""


class Figure(NamedTuple):
    """Images of one scene, which a slider compares.

    about: Sizes of what is shown.
    width: Of the images as shown, in pixels.
    left: Number of the tile that the slider shows on its left at first.
    right: The same for its right.
    full: Width of the images before they were reduced; 0 if they were not.
    """

    key: str
    about: str
    width: int
    height: int
    tiles: Sequence[Tile]
    left: int
    right: int
    full: int = 0


def embedded(data: bytes) -> str:
    """Return the address of a WebP file inside a page."""
    return "data:image/webp;base64," + base64.b64encode(data).decode()


def render(template: Path, **values: Any) -> str:
    """Fill a template; all text in it is escaped. It may import ``page.html.j2`` of this folder."""
    text = _environment(template.parent).get_template(template.name).render(values)
    # A file name that is not UTF-8, which no page can hold, is spelt out.
    return text.strip().encode("utf-8", "backslashreplace").decode() + "\n"


def render_page(
    template: Path, sources: str = "img-src data:", own_script: Path | None = None, **values: Any
) -> str:
    """Fill the template of a whole page, which calls ``frame``.

    Args:
        template: The file.
        sources: What the page loads besides itself, in words of a Content-Security-Policy.
        own_script: A script that follows the shared one.
        values: For the template.
    """
    style = (BESIDE / "page.css").read_text(encoding="utf-8")
    script = (BESIDE / "page.js").read_text(encoding="utf-8")
    if own_script is not None:
        script += own_script.read_text(encoding="utf-8")
    # The browser itself refuses to load anything else, and to run any script but ours.
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; {sources}; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    )
    return render(template, style=Markup(style), script=Markup(script), policy=policy, **values)


@cache
def _environment(folder: Path) -> Environment:
    # Kept, with the compiled templates: compiling takes longer than filling them.
    return Environment(
        loader=FileSystemLoader([folder, BESIDE]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
