"""The site's generated pages, as far as they are made without MkDocs."""

from __future__ import annotations

from docs import reference


def test_every_file_has_a_page_with_its_first_line() -> None:
    pages = dict(reference.api_pages("callbacks"))
    assert "::: callbacks.metrics.pixels\n" in pages["reference/callbacks/metrics/pixels.md"]
    row = "| [`metrics/pixels.py`](callbacks/metrics/pixels.md) | PSNR and SSIM with the "
    row += "pixels and borders of the literature. |"
    assert row in pages["reference/callbacks.md"]
    assert not any("__init__" in name for name in pages)
