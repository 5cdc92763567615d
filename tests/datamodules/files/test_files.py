"""One rule for folders, tars and the packer: which file is HR, LR or a caption, and its text."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from datamodules.files.captions import parse_caption
from datamodules.files.pairs import refuse_mixed
from datamodules.files.roles import roles_of
from datamodules.pack.__main__ import main as pack
from datamodules.pack.images import Recipe, process
from datamodules.pack.inputs import find_inputs
from datamodules.shards.shards import Shards
from datamodules.shards.stream import Stream, decode_sample, raw_of, whole_samples
from datamodules.sources.folder import Folder
from files.images.decode import UnreadableImage
from tests.datamodules.image_files import encoded, pixels, write_tar

Members = Mapping[str, bytes]
NAMES = [f"{number:04}" for number in range(4)]


def png(side: int, seed: int = 0) -> bytes:
    return encoded(pixels((side, side), seed))


def in_folder(folder: Path, members: Members) -> Path:
    for name, data in members.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


def shards_of(path: Path) -> Shards:
    source = Shards(str(path), index_cache=str(path.parent / "cache"))
    source.prepare(2.0)
    return source


def streamed(path: Path) -> list[dict[str, object]]:
    """One pass of `Stream` over a tar: the members by their roles, and the key."""
    source = Stream(1, str(path), shuffle=0)
    source.prepare(2.0)
    samples: list[dict[str, object]] = []
    for raw in source.raws(source.plan(0, 1, 1, 1), 0, 0, []):
        if samples and raw.key == samples[0]["key"]:
            break
        samples.append({**raw.fields, "key": raw.key})
    return samples


# ------------------------------------------------------------------------------------------ roles


@pytest.mark.parametrize(
    ("suffixes", "roles", "unused"),
    [
        ("png txt json", "hr txt json", ""),
        ("hr.png lr.webp caption", "hr lr txt", ""),
        ("jpg jpg.txt jpg.json", "hr txt json", ""),
        ("hr.jpg hr.jpg.txt rst", "hr txt", ""),
        ("JPG JPG.TXT", "hr txt", ""),
        ("hr.png lq.png", "hr", "lq.png"),
        ("png mask.png depth.x.tif", "hr", "mask.png depth.x.tif"),
        ("latent.npy lr.png lr_latent.npy", "latent lr lr_latent", ""),
        ("txt cls hr.txt", "txt", ""),
    ],
)
def test_roles_follow_from_suffixes(suffixes, roles, unused):
    found = roles_of(tuple(suffixes.split()))
    assert list(found.members) == roles.split()
    assert found.unused == tuple(unused.split())


UNCLEAR = {
    "two images": {"png": png(8), "hr.png": png(8, 1)},
    "two formats": {"png": png(8), "jpg": png(8)},
    "two LR": {"hr.png": png(8), "lr.png": png(4), "lr.webp": png(4)},
    "two captions": {"png": png(8), "txt": b"a", "caption": b"b"},
    "two captions by the extension": {"png": png(8), "txt": b"a", "png.txt": b"b"},
    "LR alone": {"lr.png": png(4)},
}


@pytest.mark.parametrize("members", UNCLEAR.values(), ids=UNCLEAR)
def test_unclear_roles_are_refused_by_all_readers(tmp_path, members):
    clear = {"b.hr.png": png(8), "b.lr.png": png(4)}
    unclear = {f"a.{suffix}": data for suffix, data in members.items()}
    path = write_tar(tmp_path / "set.tar", unclear | clear)
    for read in (shards_of, streamed):
        with pytest.raises(ValueError, match="'a'"):
            read(path)
    [refused] = find_inputs(str(path)).refused
    assert refused.key == "a"


def test_an_image_without_a_role_is_counted_by_all(tmp_path, caplog):
    members = {}
    for name in NAMES:
        members[f"{name}.hr.png"] = png(8)
        members[f"{name}.lq.png"] = png(4)
    path = write_tar(tmp_path / "set.tar", members)
    with caplog.at_level("INFO"):
        shards_of(path)
        streamed(path)
        pack([str(path), str(tmp_path / "out"), "--workers", "0"])
    assert "left out 4 images without a role: ['0000.lq.png'" in caplog.text
    assert "left out images without a role, such as 0000.lq.png" in caplog.text
    assert "members lq.png: images without a role, kept: 4" in caplog.text


def test_hr_and_lr_as_images_of_their_own_are_refused(tmp_path):
    members = {f"hr/{name}.png": png(8, n) for n, name in enumerate(NAMES)}
    members |= {f"lr/{name}.png": png(4, n) for n, name in enumerate(NAMES)}
    path = write_tar(tmp_path / "set.tar", members)
    folder = in_folder(tmp_path / "set", members)
    with pytest.raises(ValueError, match="LR images would count as HR"):
        shards_of(path)
    Folder.of(str(folder)).prepare(2.0)  # predict enlarges all of them


@pytest.mark.parametrize(
    ("sides", "names"),
    [
        ((8, 8), ("hr/{}", "lr/{}")),  # the same size: photographs of two folders
        ((8, 5), ("hr/{}", "lr/{}")),
        ((8, 8, 4), ("clip/{}", "other/{}", "small/{}")),  # frames of clips
        ((8, 4), ("{}", "{}1")),
    ],
)
def test_other_images_are_not_taken_for_pairs(sides, names):
    keys = [name.format(number) for name in names for number in NAMES]
    all_sides = [side for side in sides for _ in NAMES]
    refuse_mixed("a set", keys, lambda index: (all_sides[index],) * 2, 2)


def test_lr_of_several_scales_beside_hr_are_refused():
    sides = {"GTmod12": 24, "LRbicx2": 12, "LRbicx3": 8, "LRbicx4": 6}
    keys = [f"{folder}/{name}" for folder in sides for name in NAMES]
    all_sides = [side for side in sides.values() for _ in NAMES]
    with pytest.raises(ValueError, match=r"such as 'GTmod12/\w+' and 'LRbicx3/"):
        refuse_mixed("a set", keys, lambda index: (all_sides[index],) * 2, 3)


def test_the_packer_makes_what_trains_if_some_lack_an_lr(tmp_path):
    members = {"a.hr.png": png(8), "a.lr.png": png(4), "b.hr.png": png(8, 1), "c.png": png(8, 2)}
    path = write_tar(tmp_path / "set.tar", members)
    with pytest.raises(ValueError, match=r"no lr\.<ext>"):
        shards_of(path)
    assert pack([str(path), str(tmp_path / "out"), "--workers", "0"]) == 1
    assert list(shards_of(tmp_path / "out" / "*.tar").keys) == ["a"]


# --------------------------------------------------------------------------------------- captions


@pytest.mark.parametrize("suffix", ["txt", "caption", "TXT", "png.txt", "png.caption"])
def test_captions_are_the_same_in_all_readers(tmp_path, suffix):
    """Also of the image without one among others."""
    members = {"a.png": png(8), f"a.{suffix}": b"a cat", "b.png": png(8, 1)}
    path = write_tar(tmp_path / "set.tar", members)
    folder = in_folder(tmp_path / "set", members)
    pack([str(folder), str(tmp_path / "out"), "--workers", "0"])
    for source in (shards_of(tmp_path / "out" / "*.tar"), shards_of(path)):
        assert [source.read(number)["text"] for number in range(2)] == ["a cat", ""]
    assert [sample["txt"] for sample in streamed(path)] == [b"a cat", b""]


TEXT = "ein Häuschen\nam See"
ENCODINGS = {
    "utf-8": TEXT.encode(),
    "mark": TEXT.encode("utf-8-sig"),
    "utf-16": TEXT.encode("utf-16"),
    "utf-16 of the other order": b"\xfe\xff" + TEXT.encode("utf-16-be"),
    "crlf": TEXT.replace("\n", "\r\n").encode() + b"\r\n",
    "cr": b"  " + TEXT.replace("\n", "\r").encode() + b"\r",
}


@pytest.mark.parametrize("data", ENCODINGS.values(), ids=ENCODINGS)
def test_every_encoding_with_a_mark_is_read(data):
    assert parse_caption(data) == TEXT


@pytest.mark.parametrize("data", [b"", b" \n", b"\xef\xbb\xbf", b"\xff\xfe"])
def test_a_caption_may_be_empty(data):
    assert parse_caption(data) == ""


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (TEXT.encode("latin-1"), "'utf-8' codec can't decode"),
        ("ab".encode("utf-16-le"), "zero bytes, as UTF-16 without a byte"),
        (b"\xff\xfea", "'utf-16-le' codec can't decode"),
    ],
)
def test_a_caption_that_cannot_be_read_names_its_image(tmp_path, data, message):
    members = {"a.png": png(8), "a.txt": data}
    path = write_tar(tmp_path / "a.tar", members)
    folder = in_folder(tmp_path / "set", members)

    with pytest.raises(UnreadableImage, match=f"a.tar: a: .*{message}"):
        shards_of(path).read(0)
    (raw,) = map(raw_of, whole_samples([{"url": str(path)}], []))
    with pytest.raises(UnreadableImage, match=f"a.tar: a: .*{message}"):
        decode_sample(raw, srgb=False)
    [entry] = find_inputs(str(folder)).entries
    assert process(Recipe(), entry).refused.reason == "damaged"
