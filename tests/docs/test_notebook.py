"""The notebook runs from its first cell to its last; its page shows its outputs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from docs.hooks import notebook_page
from tests.conftest import REPO

TEXT = (REPO / "docs/quickstart.ipynb").read_text()
NOTEBOOK = json.loads(TEXT)
CELLS = ["".join(cell["source"]) for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]


def test_it_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for text in CELLS:
        exec(compile(text.replace("max_steps=30", "max_steps=2"), "cell", "exec"), names)
    assert names["photo"].size == (384, 288)
    assert names["lr"].size == (192, 144)
    assert all(
        isinstance(sr, Image.Image) and sr.size == (384, 288) for sr in names["outputs"].values()
    )
    printed = capsys.readouterr().out
    assert "bicubic" in printed
    assert names["numbers"]["bicubic"]["psnr"]["value"] > 30
    assert names["numbers"]["ours"]["psnr"]["value"] > 20


def test_its_page_has_its_outputs() -> None:
    page = notebook_page(TEXT)
    assert page.count("![output](data:image/") == 3
    assert "```\nbicubic" in page
