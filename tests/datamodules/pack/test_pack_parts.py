"""Parts of a packing, made in any number and order, give the bytes of one process."""

from __future__ import annotations

import json
import shutil

import pytest

from datamodules.pack import __main__ as pack
from datamodules.pack.blocks import Blocks
from datamodules.shards.shards import Shards
from tests.datamodules.image_files import save
from tests.datamodules.pack.killed import kill_at_every_step
from tests.datamodules.pack.test_pack_resume import content

# Blocks of 4 inputs; of up to three squares each, so that a block has several shards.
CROPS = ["--samples-per-shard", "4", "--crop", "8", "--encode", "png", "--workers", "0"]
WHOLE = ["--samples-per-shard", "6", "--shard-size", "5K", "--workers", "0"]


@pytest.fixture
def images(tmp_path):
    """60 images: broken ones, and a block of broken ones alone."""
    folder = tmp_path / "images"
    for number in range(60):
        save(folder / f"{number:02d}.png", (8 * (1 + number % 3), 8), seed=number)
        (folder / f"{number:02d}.txt").write_text(f"caption {number % 7}")
    for number in (5, 24, 25, 26, 27, 58, 59):
        broken = folder / f"{number:02d}.png"
        broken.write_bytes(broken.read_bytes()[:60] if number % 2 else b"")
    return folder


def made(images, out, *options):
    assert pack.main([str(images), str(out), *options]) == 1
    return content(out)


@pytest.mark.parametrize(
    "options",
    [
        CROPS,
        pytest.param(WHOLE, marks=pytest.mark.slow),
    ],
)
def test_any_number_of_parts_gives_the_same(images, tmp_path, options):
    whole = made(images, tmp_path / "whole", *options)
    for count in (1, 3, 7, 40):
        out = tmp_path / str(count)
        for part in sorted(range(1, count + 1), key=lambda n: n * 5 % (count + 1)):
            assert pack.main([str(images), str(out), *options, "--part", f"{part}/{count}"]) == 0
        assert not list(out.glob("*.tar"))
        assert pack.main([str(images), str(out), *options, "--finish"]) == 1
        assert content(out) == whole
    counts = json.loads(whole["shard.report.json"])["counts"]
    assert counts["refused"] == 7
    shards = json.loads(whole["shard.report.json"])["shards"]
    assert sum(shard["samples"] for shard in shards) == counts["samples"]
    assert {len(shard["checksum"]) for shard in shards} == {32}
    source = Shards(str(out / "*.tar"))
    source.prepare(2.0)
    assert len(source.keys) == counts["samples"]


def test_plain_and_parts_go_on_with_one_another(images, tmp_path, caplog):
    whole = made(images, tmp_path / "whole", *WHOLE)
    out = tmp_path / "out"
    for part in ("1/3", "2/3", "5/7", "3/3"):
        assert pack.main([str(images), str(out), *WHOLE, "--part", part]) == 0
    assert "continuing with 1 of 2 blocks" in caplog.text  # 2/3 has the other
    assert pack.main([str(images), str(out), *WHOLE, "--finish"]) == 1
    for again in (
        [str(images), str(out), *WHOLE, "--part", "2/7"],
        [str(images), str(out), *WHOLE, "--finish"],
    ):
        caplog.clear()
        assert pack.main(again) in (0, 1)
    caplog.clear()
    assert made(images, out, *WHOLE) == content(out)
    assert content(out) == whole
    assert sorted(path.name for path in out.iterdir()) == sorted(whole)
    assert pack.main([str(images), str(out), *WHOLE, "--overwrite"]) == 1


def test_missing_parts_are_named(images, tmp_path, caplog):
    whole = made(images, tmp_path / "whole", *CROPS)
    out = tmp_path / "out"
    command = [str(images), str(out), *CROPS]
    assert pack.main([*command, "--finish"]) == 2
    assert "1 of 1 parts" in caplog.text
    for part in ("1/5", "4/5"):
        assert pack.main([*command, "--part", part]) == 0
    assert pack.main([*command, "--finish"]) == 2
    assert "are not complete (2, 3, 5): give this command with --part 2/5" in caplog.text
    for part in ("2/5", "3/5", "5/5"):
        assert pack.main([*command, "--part", part]) == 0
    assert pack.main([*command, "--finish"]) == 1
    assert content(out) == whole


def test_a_shard_of_a_part_that_is_lost(images, tmp_path, caplog):
    whole = made(images, tmp_path / "whole", *WHOLE)
    out = tmp_path / "out"
    command = [str(images), str(out), *WHOLE, "--part", "1/1"]
    assert pack.main(command) == 0
    next((out / "shard.parts").glob("*.tar")).write_bytes(b"short")
    assert pack.main([str(images), str(out), *WHOLE, "--finish"]) == 2
    assert "are not complete (1)" in caplog.text
    assert pack.main(command) == 0
    assert "continuing with 1 of 10 blocks" in caplog.text
    assert pack.main([str(images), str(out), *WHOLE, "--finish"]) == 1
    assert content(out) == whole


# -------------------------------------------------------------------------------------------- kills
@pytest.mark.slow
def test_kills_at_every_step(images, tmp_path):
    """Parts and their joining are killed before and after each write, flush, rename and removal."""
    whole = made(images, tmp_path / "whole", *CROPS)
    out = tmp_path / "out"
    for words in (
        *([images, out, *CROPS, "--part", part] for part in ("2/2", "1/2")),
        [images, out, *CROPS, "--finish"],
    ):
        kills, status = kill_at_every_step(out, 1, 7, *words)
        assert (kills > 4, status) == (True, int("--finish" in words))
    assert content(out) == whole
    assert not (out / "shard.parts").exists()


# ------------------------------------------------------------------------------ what is refused
def test_parts_of_other_options_or_inputs(images, tmp_path, caplog):
    out = tmp_path / "out"
    assert pack.main([str(images), str(out), *WHOLE, "--part", "1/2"]) == 0
    assert pack.main([str(images), str(out), *WHOLE, "--encode", "png", "--part", "2/2"]) == 2
    assert "made otherwise (--encode was 'keep', now it is 'png')" in caplog.text
    assert pack.main([str(images), str(out), *WHOLE, "--part", "2/2"]) == 0
    for count in (60, 59):
        if count == 60:  # under its name
            shutil.copy(images / "11.png", images / "10.png")
        else:
            (images / "10.png").unlink()
        caplog.clear()
        assert pack.main([str(images), str(out), *WHOLE, "--part", "2/2"]) == 2
        assert "images was '60 of names and sizes" in caplog.text
        assert f"now it is '{count} of names and sizes" in caplog.text
        assert pack.main([str(images), str(out), *WHOLE, "--finish"]) == 2
        assert "made otherwise" in caplog.text


def test_a_file_of_the_user_among_the_parts_stays(images, tmp_path, caplog):
    out = tmp_path / "out"
    assert pack.main([str(images), str(out), *WHOLE, "--part", "1/1"]) == 0
    mine = out / "shard.parts" / "shard-notes.txt"
    mine.write_text("kept")
    assert pack.main([str(images), str(out), *WHOLE, "--finish"]) == 1
    assert mine.read_text() == "kept"
    assert "shard-notes.txt, which Enlarger did not write" in caplog.text


def test_two_processes_of_one_part(images, tmp_path, caplog):
    out = tmp_path / "out"
    with Blocks(out, "shard", 60, 6, {}).writing(3):
        assert pack.main([str(images), str(out), *WHOLE, "--part", "1/2"]) == 2
        assert "another process packs these shards" in caplog.text
        assert pack.main([str(images), str(out), *WHOLE, "--part", "2/2"]) == 0
    assert pack.main([str(images), str(out), *WHOLE, "--part", "1/2"]) == 0


def test_parts_are_not_joined_while_one_is_made(images, tmp_path, caplog):
    out = tmp_path / "out"
    assert pack.main([str(images), str(out), *WHOLE, "--part", "1/1"]) == 0
    with Blocks(out, "shard", 60, 6, {}).writing(12):
        assert pack.main([str(images), str(out), *WHOLE, "--finish"]) == 2
    assert "another process packs these shards" in caplog.text
    assert not list(out.glob("*.tar"))


def test_a_second_process_changes_nothing_of_a_finished_job(tmp_path):
    """It had asked what is to be done before the first one joined all blocks."""
    out = tmp_path / "out"
    out.mkdir()
    blocks = Blocks(out, "s", 6, 2, {})

    def write(block):
        with blocks.writing(block) as (writer, record):
            for number in blocks.numbers(block):
                writer.add(f"k{number}", {"txt": f"{number}".encode()})
                record.packed += 1

    todo = blocks.todo(range(3))
    for block in todo:
        write(block)
    left = shutil.copytree(blocks.folder, tmp_path / "left")
    blocks.join(lambda records: {})
    before = content(out)
    write(todo[-1])
    blocks.join(lambda records: {})
    assert content(out) == before
    shutil.move(left, blocks.folder)
    for file in blocks.folder.glob("s-000000*"):
        file.unlink()
    blocks.join(lambda records: {})
    assert content(out) == before
