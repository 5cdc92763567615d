"""The pages: their commands say how they are checked; examples, notebook and generated parts."""

import doctest
import importlib
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import webdataset
from PIL import Image

from commands.tracebacks import ROOMS
from docs import hooks, reference
from docs.make_screenshots import DIGESTS, digests
from tests.conftest import REPO
from tests.docs import commands
from tests.docs.blocks import blocks, pages

NOTEBOOK = (REPO / "docs/quickstart.ipynb").read_text()
EXAMPLES = [
    path.relative_to(REPO).with_suffix("").as_posix().replace("/", ".")
    for room in ROOMS
    for path in sorted((REPO / room).rglob("*.py"))
    if ">>> " in path.read_text()
]


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.relative_to(REPO).as_posix())
def test_every_block_says_how_it_is_checked(page):
    shown = list(blocks(page))
    for block in shown:
        if block.how == "test":
            assert commands.tested(block) == "ok"
    # A block without a comment is run; each comment belongs to a block.
    comments = re.findall(r"^<!-- checked:", page.read_text(), re.MULTILINE)
    assert len(comments) == sum(block.how != "run" for block in shown)


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_examples_of_a_file_run_as_they_stand(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # What the examples take as given: photos, shards, and an `image`.
    Path("my/photos").mkdir(parents=True)
    Path("my/shards").mkdir()
    for number, letter in enumerate("ab"):
        photo = Path(f"my/photos/{letter}.png")
        Image.fromarray(np.full((48, 64, 3), 99, np.uint8)).save(photo)
        with webdataset.TarWriter(f"my/shards/{number:03}.tar") as shard:
            shard.write({"__key__": str(number), "png": photo.read_bytes()})
    torch.manual_seed(0)
    names = {"image": Image.new("RGB", (32, 24))}
    ran = doctest.testmod(importlib.import_module(name), extraglobs=names)
    assert ran.attempted > 0
    assert ran.failed == 0


def test_the_notebook_runs_from_its_first_cell_to_its_last(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = {}
    assert "max_steps=30" in NOTEBOOK
    for cell in json.loads(NOTEBOOK)["cells"]:
        if cell["cell_type"] == "code":
            text = "".join(cell["source"]).replace("max_steps=30", "max_steps=2")
            exec(compile(text, "cell", "exec"), names)
    assert names["photo"].size == (384, 288)  # of its first cell
    assert names["lr"].size == (192, 144)  # by scale 2
    for sr in names["outputs"].values():
        assert sr.size == (384, 288)
    assert "bicubic" in capsys.readouterr().out
    assert names["numbers"]["bicubic"]["psnr"]["value"] > 30  # dB
    assert names["numbers"]["ours"]["psnr"]["value"] > 20  # after 2 steps


def test_the_page_of_the_notebook_has_its_images_and_printed_text():
    page = hooks.notebook_page(NOTEBOOK)
    assert page.count("![output](data:image/") == 3  # two LR images, one SR
    assert "```\nbicubic" in page


def test_a_section_of_the_readme_is_included_with_its_links():
    line = "[Start](../README.md#start) <!-- include -->"
    text = hooks.site_text(f"Before.\n\n{line}\n\nAfter.", "index.md")
    assert text.startswith("Before.\n\nLinux or macOS")
    assert "](repository/benchmarks/results/quickstart.json)" in text
    assert text.endswith("\n\nAfter.")
    assert "](docs/" not in text  # pages of docs/ are linked from beside them


def test_a_file_has_a_page_of_the_reference_and_its_first_line_in_that_of_the_folder():
    made = dict(reference.api_pages("callbacks"))
    row = "| [`metrics/pixels.py`](callbacks/metrics/pixels.md) | PSNR and SSIM with the "
    assert "::: callbacks.metrics.pixels\n" in made["reference/callbacks/metrics/pixels.md"]
    assert row in made["reference/callbacks.md"]
    assert not any("__init__" in name for name in made)


def test_the_files_behind_the_screenshots_are_those_that_they_were_made_from():
    """Also a comment in them counts: one cannot tell what changes the picture."""
    assert json.loads(DIGESTS.read_text()) == digests(), "run docs/make_screenshots.py"
