"""Parse a page without a browser: a tree of elements, which must be well nested."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any

import numpy as np
from PIL import Image

VOID = {"br", "img", "input", "link", "meta"}


@dataclass
class Node:
    """An element: its name, attributes and content."""

    name: str
    attributes: dict[str, str | None] = field(default_factory=dict)
    children: list[Node] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)

    @property
    def classes(self) -> list[str]:
        return (self.attributes.get("class") or "").split()

    @property
    def text(self) -> str:
        """All text in it; the element's own comes before that of its children."""
        parts = [*self.texts, *(child.text for child in self.children)]
        return " ".join(" ".join(parts).split())

    def all(self, name: str, kind: str | None = None) -> list[Node]:
        """Return elements below it with this name, or `*`, and this class."""
        found = []
        for child in self.children:
            if name in (child.name, "*") and (kind is None or kind in child.classes):
                found.append(child)
            found += child.all(name, kind)
        return found

    def one(self, name: str, kind: str | None = None) -> Node:
        (found,) = self.all(name, kind)
        return found


class Parser(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.root = Node("")
        self._open = [self.root]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        node = Node(tag, dict(attrs))
        assert len(node.attributes) == len(attrs), f"an attribute of {tag} is there twice"
        self._open[-1].children.append(node)
        if tag not in VOID:
            self._open.append(node)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._open[-1].children.append(Node(tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop().name == tag, f"</{tag}> ends something else"

    def handle_data(self, data: str) -> None:
        self._open[-1].texts.append(data)


def parse(text: str) -> Node:
    parser = Parser()
    parser.feed(text)
    parser.close()
    assert len(parser._open) == 1, f"{parser._open[-1].name} has no end"
    return parser.root


def pixels(image: Node) -> np.ndarray[Any, Any]:
    """Return (H, W, 3) uint8 of an `img` whose source is inside the page."""
    head, _, data = (image.attributes["src"] or "").partition(",")
    assert head == "data:image/webp;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data, validate=True))))


def tiles(page: Node) -> dict[str, dict[str, np.ndarray[Any, Any]]]:
    """Return the pixels of each method, by the image's name."""
    return {
        figure.one("figcaption").one("b").text: {
            tile.one("button").text: pixels(tile.one("img")) for tile in figure.all("div", "tile")
        }
        for figure in page.all("figure", "viewer")
    }


def table(page: Node) -> list[dict[str, str]]:
    """Return the rows of the table of results, by heading."""
    found = page.all("table")[0]
    heading = [cell.text for cell in found.one("thead").all("th")]
    rows = []
    for row in found.one("tbody").all("tr"):
        cells = [cell.text for cell in row.children]
        assert len(cells) == len(heading)
        rows.append(dict(zip(heading, cells, strict=True)))
    return rows
