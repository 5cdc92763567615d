"""Captions: every encoding with a mark, in every reader."""

from __future__ import annotations

import os

import pytest

from datamodules.files.captions import parse_caption
from datamodules.pack.images import Recipe, process
from datamodules.pack.inputs import find_inputs
from datamodules.shards.shards import Shards
from datamodules.shards.stream import decode_sample, raw_of, whole_samples
from datamodules.sources.clips import ClipShards
from files.images.decode import UnreadableImage
from tests.datamodules.image_files import save
from tests.datamodules.shards.test_shards import image_bytes, write

TEXT = "ein Häuschen\nam See"
GOOD = {
    "utf-8": TEXT.encode(),
    "mark": TEXT.encode("utf-8-sig"),
    "utf-16": TEXT.encode("utf-16"),
    "utf-16 of the other order": b"\xfe\xff" + TEXT.encode("utf-16-be"),
    "crlf": TEXT.replace("\n", "\r\n").encode() + b"\r\n",
    "cr": b"  " + TEXT.replace("\n", "\r").encode() + b"\r",
}
BAD = {
    "latin-1": (TEXT.encode("latin-1"), "'utf-8' codec can't decode"),
    "utf-16 without a mark": ("ab".encode("utf-16-le"), "zero bytes, as UTF-16 without a byte"),
    "half of utf-16": (b"\xff\xfea", "'utf-16-le' codec can't decode"),
}


@pytest.mark.parametrize("kind", GOOD)
def test_encodings(kind):
    assert parse_caption(GOOD[kind]) == TEXT


@pytest.mark.parametrize("data", [b"", b" \n", b"\xef\xbb\xbf", b"\xff\xfe"])
def test_empty(data):
    assert parse_caption(data) == ""


@pytest.mark.parametrize("kind", BAD)
def test_what_cannot_be_read_is_said(kind, tmp_path):
    data, message = BAD[kind]
    with pytest.raises(ValueError, match=message):
        parse_caption(data)
    path = write(tmp_path / "a.tar", [("a.png", image_bytes(tmp_path, 0)), ("a.txt", data)])
    source = Shards(str(path), index_cache=str(tmp_path))
    source.prepare(2.0)
    with pytest.raises(UnreadableImage, match=f"a.tar: a: .*{message}"):
        source.read(0)
    (raw,) = map(raw_of, whole_samples([{"url": str(path)}], []))
    with pytest.raises(UnreadableImage, match=f"a.tar: a: .*{message}"):
        decode_sample(raw, srgb=False)
    save(tmp_path / "b" / "b.png")
    (tmp_path / "b" / "b.txt").write_bytes(data)
    [entry] = find_inputs(str(tmp_path / "b")).entries
    found = process(Recipe(), entry)
    assert found.refused.reason == "damaged"
    assert "b.png: its caption" in found.refused.message


@pytest.mark.parametrize("suffix", ["txt", "TXT", "caption"])
def test_of_clips(tmp_path, suffix):
    members = [("a.1.png", image_bytes(tmp_path, 0)), ("a.2.png", image_bytes(tmp_path, 1))]
    path = write(tmp_path / "clips.tar", [*members, (f"a.{suffix}", GOOD["utf-16"])])
    clips = ClipShards(str(path), frames=2)
    clips.prepare(1.0)
    assert clips.read(0)["text"] == TEXT


@pytest.mark.parametrize("name", ["a.txt", "a.json"])
def test_a_pipe_in_the_place_of_a_caption_does_not_block(tmp_path, name):
    save(tmp_path / "a.png")
    os.mkfifo(tmp_path / name)
    [entry] = find_inputs(str(tmp_path)).entries
    found = process(Recipe(), entry)
    assert found.refused.reason == "not a file"
    assert f"not a regular file: '{tmp_path / name}'" in found.refused.message
