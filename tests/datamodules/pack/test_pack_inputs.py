"""Inputs of the packer: folders, lists, tars, and pairs."""

from __future__ import annotations

import os
import tarfile

import pytest

from datamodules.pack import __main__ as pack
from datamodules.pack.inputs import find_inputs
from tests.datamodules.image_files import save
from tests.datamodules.image_files import write_tar as tar


def keys(*arguments, **options):
    return [entry.key for entry in find_inputs(*map(str, arguments), **options).entries]


@pytest.fixture
def image(tmp_path):
    return save(tmp_path / "one.png").read_bytes()


# ------------------------------------------------------------------------------------------- lists


def test_a_list_keeps_its_order(tmp_path):
    for name in ("z.png", "a/b.png", "a/c.png"):
        save(tmp_path / name)
    text = "\ufeff# of the best\nz.png\n\n  a/c.png  \r\na/../a/b.png\nz.png\n"
    (tmp_path / "list.txt").write_text(text, encoding="utf-8")
    assert keys(tmp_path / "list.txt") == ["z", "a/c", "a/b"]


def test_files_of_a_list_that_are_missing(tmp_path, caplog):
    save(tmp_path / "a.png")
    (tmp_path / "list.txt").write_text("a.png\ngone.png\nnotes.doc\n")
    assert pack.main([str(tmp_path / "list.txt"), str(tmp_path / "out")]) == 1
    assert "refused (missing): " in caplog.text
    assert "notes.doc: not the name of an image" in caplog.text


def members(*arguments, **options):
    found = find_inputs(*map(str, arguments), **options)
    return {
        entry.key: {suffix: place.where for suffix, place in entry.members.items()}
        for entry in found.entries
    }, [refused.message for refused in found.refused]


def test_a_list_of_basicsr(tmp_path):
    """Names with sizes, as in its meta_info files."""
    for name in ("0001_s001.png", "x/b, c (1).png", "d (2,3).png"):
        save(tmp_path / name)
    text = "0001_s001.png (480,480,3)\nx/b, c (1).png (5, 7, 3) 1\nd (2,3).png\n"
    (tmp_path / "meta_info.txt").write_text(text)
    found, refused = members(tmp_path / "meta_info.txt")
    assert refused == []
    assert found == {
        "0001_s001": {"png": str(tmp_path / "0001_s001.png")},
        "x/b, c (1)": {"png": str(tmp_path / "x/b, c (1).png")},
        "d (2,3)": {"png": str(tmp_path / "d (2,3).png")},
    }


# ------------------------------------------------------------------------------------------ folders


def test_names_that_can_be_no_keys(tmp_path, caplog):
    for name in (b"a\nb.png", b"\xff\xfe.png", b"__meta__/a.png", b"good.png"):
        path = os.fsencode(tmp_path) + b"/in/" + name
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(save(tmp_path / "x.png").read_bytes())
    assert pack.main([str(tmp_path / "in"), str(tmp_path / "out")]) == 1
    assert "refused by reason: 3 unsafe name" in caplog.text
    for words in ("unprintable characters", "readers of shards"):
        assert words in caplog.text


# --------------------------------------------------------------------------------------------- tars


def test_tars_keep_keys_and_members(tmp_path, image):
    old = {"b.png": image, "b.cls": b"3", "b.json": b"{}", "a/x.hr.png": image}
    tar(tmp_path / "old.tar", old)
    out = tmp_path / "out"
    assert pack.main([str(tmp_path / "old.tar"), str(out)]) == 0
    with tarfile.open(out / "shard-000000.tar") as file:
        assert {name: file.extractfile(name).read() for name in file.getnames()} == old


def test_tars_whose_samples_lie_apart(tmp_path, image, caplog):
    kinds = {"lr.png": save(tmp_path / "lr.png", (4, 3)).read_bytes(), "txt": b"x", "cls": b"3"}
    members = {f"{n}.hr.png": image + bytes(n) for n in range(3)}
    members |= {f"{n}.{kind}": data for kind, data in kinds.items() for n in range(3)}
    tar(tmp_path / "old.tar", members)
    assert pack.main([str(tmp_path / "old.tar"), str(tmp_path / "out"), "--scale", "2"]) == 0
    assert "3 images packed into 1 shard" in caplog.text
    with tarfile.open(tmp_path / "out" / "shard-000000.tar") as file:
        assert sorted(file.getnames()) == sorted(members)
        assert [name[0] for name in file.getnames()] == list("000011112222")
        assert {name: file.extractfile(name).read() for name in file.getnames()} == members


def test_sources_are_never_overwritten(tmp_path, image):
    old = tar(tmp_path / "shard-000000.tar", {"a.png": image})
    before = old.read_bytes()
    with pytest.raises(ValueError, match="would be replaced"):
        pack.main([str(old), str(tmp_path)])
    assert old.read_bytes() == before


def test_a_wrong_pair_among_good_ones(tmp_path, caplog):
    for number in range(3):
        save(tmp_path / "hr" / f"{number}.png", (8, 6), seed=number)
        save(tmp_path / "lr" / f"{number}.png", (4, 3 if number else 2), seed=number)
    arguments = [str(tmp_path / "hr"), str(tmp_path / "out"), "--lr", str(tmp_path / "lr")]
    assert pack.main([*arguments, "--scale", "2"]) == 1
    assert (
        "0.png: the pair does not fit --scale 2.0: HR 8x6, LR 4x2, expected HR 8x4" in caplog.text
    )
    assert "2 images packed" in caplog.text
