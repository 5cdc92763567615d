"""The site's generated pages, as far as they are made without MkDocs."""

from __future__ import annotations

from typing import Any

import pytest

from docs import reference


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"type": "integer"}, "integer"),
        ({"type": ["string", "null"]}, "string or null"),
        ({"enum": ["y", None]}, '`"y"`, `null`'),
        ({"$ref": "#/$defs/Space"}, "a `Space`"),
        ({"anyOf": [{"type": "null"}, {"$ref": "#/$defs/A"}]}, "null or a `A`"),
        ({"type": "array", "items": {"type": "number"}}, "list of number"),
        (
            {"type": "array", "prefixItems": [{"type": "number"}] * 2, "items": False},
            "[number, number]",
        ),
        ({}, "anything"),
    ],
)
def test_types(schema: dict[str, Any], words: str) -> None:
    assert reference.type_of(schema) == words


def test_a_table_has_a_row_for_each_key() -> None:
    keys = {
        "stages": {"type": "array", "description": "In\norder | as ``given``."},
        "stages+": {"type": "array"},
        "scale": {"type": "number", "default": 4.0},
    }
    assert reference.table(keys)[2:] == [
        "| `stages` | list |  | In order \\| as `given`. |",
        "| `scale` | number | `4.0` |  |",
        "",
    ]


def test_every_file_has_a_page_with_its_first_line() -> None:
    pages = dict(reference.api_pages("callbacks"))
    assert "::: callbacks.metrics.pixels\n" in pages["reference/callbacks/metrics/pixels.md"]
    row = "| [`metrics/pixels.py`](callbacks/metrics/pixels.md) | PSNR and SSIM with the "
    row += "pixels and borders of the literature. |"
    assert row in pages["reference/callbacks.md"]
    assert not any("__init__" in name for name in pages)
