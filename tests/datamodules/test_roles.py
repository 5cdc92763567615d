"""One rule for folders, tars and the packer: which file is HR, LR or a caption."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from datamodules.files.pairs import refuse_mixed
from datamodules.files.roles import roles_of
from datamodules.pack.__main__ import main as pack
from datamodules.pack.inputs import find_inputs
from datamodules.shards.shards import Shards
from datamodules.shards.stream import Stream
from datamodules.sources.folder import Folder, Inputs
from tests.datamodules.image_files import encoded, pixels, write_tar

Members = Mapping[str, bytes]
NAMES = [f"{number:04}" for number in range(4)]


def png(side: int, seed: int = 0) -> bytes:
    return encoded(pixels((side, side), seed))


def in_tar(folder: Path, members: Members) -> Path:
    return write_tar(folder / "set.tar", members)


def in_folder(folder: Path, members: Members) -> Path:
    for name, data in members.items():
        path = folder / "set" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder / "set"


def streamed(path: Path) -> list[dict[str, bytes]]:
    """One pass of ``Stream`` over a tar, in order: members by field, and the key."""
    source = Stream(1, str(path), shuffle=0)
    source.prepare(2.0)
    found, plan = [], source.plan(0, 1, 1, 1)
    for raw in source.raws(plan, 0, 0, []):
        if found and raw.key == found[0]["key"]:
            return found
        found.append({**raw.fields, "key": raw.key})
    raise AssertionError


def refusals(path: Path, folder: Path) -> list[str]:
    """What each reader of a tar says against it; "" if it is read."""

    def shards() -> None:
        Shards(str(path), index_cache=str(folder / "cache")).prepare(2.0)

    said = []
    for read in (shards, lambda: streamed(path)):
        try:
            read()
            said.append("")
        except ValueError as error:
            said.append(str(error))
    return said


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
def test_roles(suffixes: str, roles: str, unused: str) -> None:
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
def test_unclear_roles_are_refused_by_all(tmp_path: Path, members: Members) -> None:
    others = {f"b.{suffix}": data for suffix, data in {"hr.png": png(8), "lr.png": png(4)}.items()}
    path = in_tar(tmp_path, {**{f"a.{suffix}": d for suffix, d in members.items()}, **others})
    assert all("'a'" in message for message in refusals(path, tmp_path))
    [refused] = find_inputs(str(path)).refused
    assert refused.key == "a"


def test_a_tar_may_end_in_a_single_block_of_zeros(tmp_path: Path) -> None:
    path = in_tar(tmp_path, {f"{name}.png": png(8, n) for n, name in enumerate(NAMES)})
    content = path.read_bytes().rstrip(b"\0")
    path.write_bytes(content + bytes(-len(content) % 512) + bytes(512))
    assert refusals(path, tmp_path) == ["", ""]
    assert [sample["key"] for sample in streamed(path)] == NAMES


def test_hr_and_lr_as_images_of_their_own_are_refused(tmp_path: Path) -> None:
    members = {f"hr/{name}.png": png(8, n) for n, name in enumerate(NAMES)}
    members |= {f"lr/{name}.png": png(4, n) for n, name in enumerate(NAMES)}
    path, folder = in_tar(tmp_path, members), in_folder(tmp_path, members)
    for source in (Shards(str(path), index_cache=str(tmp_path)), Folder(str(folder))):
        with pytest.raises(ValueError, match="LR images would count as HR"):
            source.prepare(2.0)
    Folder.of(str(folder)).prepare(2.0)  # predict enlarges all of them
    Inputs(root=str(folder)).prepare(2.0)


def test_lr_of_several_scales_beside_hr_are_refused() -> None:
    sides = {"GTmod12": 24, "LRbicx2": 12, "LRbicx3": 8, "LRbicx4": 6}
    keys = [f"{folder}/{name}" for folder in sides for name in NAMES]
    all_sides = [side for side in sides.values() for _ in NAMES]
    with pytest.raises(ValueError, match=r"such as 'GTmod12/\w+' and 'LRbicx3/"):
        refuse_mixed("a set", keys, lambda index: (all_sides[index],) * 2, 3)


@pytest.mark.parametrize(
    ("sides", "names"),
    [
        ((8, 8), ("hr/{}", "lr/{}")),  # the same size: photographs of two folders
        ((8, 5), ("hr/{}", "lr/{}")),
        ((8, 8, 4), ("clip/{}", "other/{}", "small/{}")),  # frames of clips
        ((8, 4), ("{}", "{}1")),
    ],
)
def test_other_images_are_not_taken_for_pairs(sides: tuple[int, ...], names: tuple[str, ...]):
    keys = [name.format(number) for name in names for number in NAMES]
    all_sides = [side for side in sides for _ in NAMES]
    refuse_mixed("a set", keys, lambda index: (all_sides[index],) * 2, 2)


def test_an_image_without_a_role_is_counted_by_all(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    members = {f"{n}.{s}.png": png(8 if s == "hr" else 4) for n in NAMES for s in ("hr", "lq")}
    path = in_tar(tmp_path, members)
    assert refusals(path, tmp_path) == ["", ""]
    assert "left out 4 images without a role: ['0000.lq.png'" in caplog.text
    assert "left out images without a role, such as 0000.lq.png" in caplog.text
    with caplog.at_level("INFO"):
        pack([str(path), str(tmp_path / "out"), "--workers", "0"])
    assert "members lq.png: images without a role, kept: 4" in caplog.text


def test_pack_makes_what_trains_if_some_lack_an_lr(tmp_path: Path) -> None:
    members = {"a.hr.png": png(8), "a.lr.png": png(4), "b.hr.png": png(8, 1), "c.png": png(8, 2)}
    path = in_tar(tmp_path, members)
    assert "no lr.<ext>" in refusals(path, tmp_path)[0]
    assert pack([str(path), str(tmp_path / "out"), "--workers", "0"]) == 1
    source = Shards(f"{tmp_path}/out/*.tar")
    source.prepare(2.0)
    assert list(source.keys) == ["a"]


@pytest.mark.parametrize("suffix", ["txt", "caption", "TXT", "png.txt", "png.caption", "png.TXT"])
def test_captions_are_the_same_in_all(tmp_path: Path, suffix: str) -> None:
    """Also of the image without one among others."""
    members = {"a.png": png(8), f"a.{suffix}": b"a cat", "b.png": png(8, 1)}
    path, folder = in_tar(tmp_path, members), in_folder(tmp_path, members)
    pack([str(folder), str(tmp_path / "out"), "--workers", "0"])
    packed, shards = Shards(f"{tmp_path}/out/*.tar"), Shards(str(path), index_cache=str(tmp_path))
    for source in (packed, shards):
        source.prepare(2.0)
        assert [source.read(n)["text"] for n in range(2)] == ["a cat", ""]
    assert [sample["txt"] for sample in streamed(path)] == [b"a cat", b""]
