"""Parts of a packing, made in any number and order, give the bytes of one process."""

from __future__ import annotations

import json
import shutil

import pytest

from datamodules.pack import __main__ as pack
from datamodules.shards.shards import Shards
from tests.datamodules.image_files import save
from tests.datamodules.pack.test_pack_resume import content

CROPS = ["--images-per-shard", "4", "--crop", "8", "--encode", "png", "--workers", "0"]


@pytest.fixture
def images(tmp_path):
    """60 images: broken ones, and a shard of broken ones alone."""
    folder = tmp_path / "images"
    for number in range(60):
        save(folder / f"{number:02d}.png", (8 * (1 + number % 3), 8), seed=number)
        (folder / f"{number:02d}.txt").write_text(f"caption {number % 7}")
    for number in (5, 24, 25, 26, 27, 58, 59):
        broken = folder / f"{number:02d}.png"
        broken.write_bytes(broken.read_bytes()[:60] if number % 2 else b"")
    return folder


def run(images, out, *options):
    return pack.main([str(images), str(out), *CROPS, *options])


@pytest.mark.parametrize("parts", [2, 7, 40])
def test_any_number_of_parts_gives_the_same(images, tmp_path, parts, caplog):
    whole, out = tmp_path / "whole", tmp_path / "out"
    assert run(images, whole) == 1
    for part in reversed(range(parts)):
        assert run(images, out, "--part", f"{part}/{parts}") in (0, 1)
    assert content(out) == content(whole)
    assert "shards are missing: make the other parts" in caplog.text
    assert "to train on them" in caplog.messages[-1]
    assert not (out / "shard-000006.tar").exists()  # of broken images alone
    source = Shards(str(out / "*.tar"))
    source.prepare(2.0)
    records = [json.loads(path.read_text()) for path in out.glob("shard-??????.json")]
    assert len(source.keys) == sum(record["samples"] for record in records) == 105
    assert sum(len(record["refused"]) for record in records) == 7


def test_another_division_goes_on(images, tmp_path, caplog):
    assert run(images, tmp_path / "whole") == 1
    out = tmp_path / "out"
    for part in ("1/3", "2/3", "5/7"):
        run(images, out, "--part", part)
    assert "continuing with 1 of 2 shards" in caplog.text  # 2/3 has the other
    assert run(images, out) == 1
    assert content(out) == content(tmp_path / "whole")


def test_parts_of_other_options_or_inputs(images, tmp_path):
    out = tmp_path / "out"
    run(images, out, "--part", "1/2")
    with pytest.raises(ValueError, match=r"made otherwise \(--encode was 'png', now it is 'webp'"):
        run(images, out, "--encode", "webp", "--part", "0/2")
    shutil.copy(images / "11.png", images / "10.png")  # another size under its name
    with pytest.raises(ValueError, match="images was '60 of names and sizes"):
        run(images, out, "--part", "0/2")
    (images / "10.png").unlink()
    with pytest.raises(ValueError, match="now it is '59 of names and sizes"):
        run(images, out, "--part", "0/2")
