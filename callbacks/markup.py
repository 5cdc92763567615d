"""HTML and SVG as values: what is not markup already is escaped, so no name can break a page."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping

Attributes = Mapping[str, str | float | bool | None]

HTML_VOID = frozenset({"br", "img", "input", "link", "meta"})  # have no end
SVG_EMPTY = frozenset({"circle", "line", "path", "polyline"})


class Markup(str):
    """Text that is markup, and is put into a page as it is. All other text is escaped."""

    __slots__ = ()


def element(name: str, attributes: Attributes | None = None, *content: str) -> Markup:
    """One element.

    Args:
        name: Of the element.
        attributes: True gives an attribute without a value, False and None leave it out.
        content: Elements, and text, which is escaped.
    """
    written = "".join(
        f" {key}" if value is True else f' {key}="{_escaped(_text(value))}"'
        for key, value in (attributes or {}).items()
        if value is not None and value is not False
    )
    if name in HTML_VOID:
        return Markup(f"<{name}{written}>")
    if name in SVG_EMPTY:
        return Markup(f"<{name}{written}/>")
    return Markup(f"<{name}{written}>{joined(content)}</{name}>")


def joined(parts: Iterable[str]) -> Markup:
    """Elements and text, one after another."""
    return Markup("".join(p if isinstance(p, Markup) else _escaped(p) for p in parts))


def _escaped(text: str) -> str:
    # Of a name whose bytes are no UTF-8, which no page can hold, they are spelt out.
    return html.escape(text.encode("utf-8", "backslashreplace").decode())


def _text(value: str | float) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
