"""`doctor` on files: weights and shards that are damaged, missing or intact."""

from __future__ import annotations

import hashlib
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import webdataset
import yaml

from callbacks import weights
from commands.doctor.data import existing_weights, missing_weights, shards
from commands.doctor.lines import Options, guarded
from datamodules.shards.index import build_index, save_index
from tests.commands.doctor.test_doctor_checks import said

Patch = pytest.MonkeyPatch


# ---------------------------------------------------------------------------------------- weights


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: Patch) -> Path:
    """Return a folder of weights, with a manifest of three files."""
    right = b"PK right, and no archive"
    about = {"licence": "", "source": "SOURCE"}
    known = hashlib.sha256(right).hexdigest()
    text = {
        "net": {
            "file": "net.npz",
            "sha256": known,
            "used_by": "callbacks.LPIPS",
            **about,
        },
        "old": {"file": "old.pth", "sha256": None, "used_by": "callbacks.metrics.iqa.PI", **about},
        "big": {"file": "b.pth", "sha256": known, "used_by": "lightning_modules.a.B, x", **about},
    }
    manifest = tmp_path / "weights.yaml"
    manifest.write_text(yaml.safe_dump(text, sort_keys=False))
    monkeypatch.setattr(weights, "MANIFEST", manifest)
    monkeypatch.setattr(weights, "folders", lambda: [tmp_path])
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    return tmp_path


def test_missing_weights(shelf: Path) -> None:
    assert said(existing_weights) == {}
    text = said(missing_weights)
    assert text["weights of metrics"].startswith("look: missing, needed for LPIPS (net), PI (")
    assert text["weights of methods"].startswith("look: missing, needed for B (big): python")


def test_intact_weights(shelf: Path, monkeypatch: Patch) -> None:
    for name in ("net.npz", "b.pth"):
        (shelf / name).write_bytes(b"PK right, and no archive")
    monkeypatch.setattr("zipfile.is_zipfile", lambda path: True)
    np.savez(shelf / "old", a=np.zeros(3))
    (shelf / "old.npz").rename(shelf / "old.pth")
    text = said(existing_weights)
    assert text["weights net"].endswith("the checksum is correct")
    assert text["weights old"].endswith("complete; its checksum is unknown")
    assert said(missing_weights) == {"weights": "ok: all 3 files of configs/weights.yaml exist"}
    monkeypatch.setattr("commands.doctor.data.LARGE", 4)
    assert "--doctor.checksums true compares" in said(existing_weights)["weights big"]
    assert said(existing_weights, checksums=True)["weights big"].endswith("the checksum is correct")


WRONG: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "is empty: replace it with the file from SOURCE"),
    "of git-lfs": (b"version https://git-lfs.github.com/spec/v1\n", "is a git-lfs pointer"),
    "a page": (b"<!DOCTYPE html>", "is a web page instead of the file"),
    "half": (b"PK\x03\x04 half an archive", "is truncated"),
    "another": (b"\x80\x02 something else", "is not the published file, its SHA-256 is"),
}


@pytest.mark.parametrize("case", WRONG)
def test_damaged_weights(shelf: Path, case: str) -> None:
    content, expected = WRONG[case]
    (shelf / "net.npz").write_bytes(content)
    text = said(existing_weights)["weights net"]
    assert text.startswith("broken")
    assert expected in text


# ----------------------------------------------------------------------------------------- shards


@pytest.fixture
def tars(tmp_path: Path) -> list[Path]:
    """Return two tars of three images each, with their indices."""
    paths = [tmp_path / f"train-{number}.tar" for number in range(2)]
    for path in paths:
        with webdataset.TarWriter(str(path)) as writer:
            for number in range(3):
                image = np.full((16, 16, 3), 40 * number, np.uint8)
                writer.write({"__key__": f"{path.stem}-{number}", "png": image})
        save_index(build_index(path, checksums=True), index_of(path))
    return paths


def index_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.idx.json")


def checked(folder: Path, **options: Any) -> list[str]:
    lines = guarded("shards", shards, Options(shards=(f"{folder}/*.tar",), **options))
    return [f"{line.verdict}: {line.text}" for line in lines]


def test_intact_shards(tars: list[Path]) -> None:
    (text,) = checked(tars[0].parent)
    assert text.startswith("ok: 2 of 2 tars are complete, 6 samples, 20 kB;")
    (text,) = checked(tars[0].parent, checksums=True)
    assert text.endswith("all checksums are correct")
    index_of(tars[0]).unlink()
    (text,) = checked(tars[0].parent, checksums=True)
    assert text.endswith("the checksums of 1 are correct, the others have none")
    assert "1 without an index, which fit writes" in checked(tars[0].parent)[0]


def test_shards_with_scattered_samples(tars: list[Path]) -> None:
    """Good for Shards, with a note about readers that read front to back."""
    index_of(tars[0]).unlink()
    with tarfile.open(tars[0], "a") as tar:
        for number in (0, 2):
            tar.addfile(tarfile.TarInfo(f"{tars[0].stem}-{number}.cls"))
    lines = checked(tars[0].parent)
    assert lines[0].startswith(
        f"look: {tars[0]}: the members of 2 samples, such as 'train-0-0', are"
    )
    assert f"tar --sort=name -cf {tars[0].with_name('sorted-train-0.tar')}" in lines[0]
    assert lines[1].startswith("ok: 2 of 2 tars are complete, 6 samples")


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:3000])


def damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[data.rindex(b"IDAT") + 6] ^= 1
    path.write_bytes(data)


def damage_first(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data.replace(b"\x89PNG", b"\x00PNG"))


def change_index(path: Path) -> None:
    content = json.loads(index_of(path).read_text())
    content["samples"][1][1]["png"][0] += 512
    index_of(path).write_text(json.dumps(content))


def shorten_index(path: Path) -> None:
    content = json.loads(index_of(path).read_text())
    content["samples"].pop()
    content["count"] -= 1
    index_of(path).write_text(json.dumps(content))


BAD: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "truncated": (truncate, "broken", "is truncated"),
    "empty": (lambda path: path.write_bytes(b""), "broken", "is empty"),
    "one bit": (damage, "broken", "have changed since packing"),
    "no image": (damage_first, "broken", "not an image, or its header is broken"),
    "its index": (change_index, "broken", "its index has 'train-0-1' at other bytes than the tar"),
    "a short index": (shorten_index, "broken", "its index has 2 samples"),
    "no index": (lambda path: index_of(path).write_text("{"), "look", "is damaged"),
    "an old index": (lambda path: index_of(path).write_text('{"version": 1}'), "look", "version"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_damaged_shard(tars: list[Path], case: str) -> None:
    spoil, verdict, expected = BAD[case]
    spoil(tars[0])
    first, last = checked(tars[0].parent, checksums=True)
    assert first.startswith(f"{verdict}: ")
    assert "train-0.tar" in first
    assert expected in first
    assert last.startswith(f"ok: {1 if verdict == 'broken' else 2} of 2 tars are complete")


def test_missing_shards(tmp_path: Path) -> None:
    (text,) = checked(tmp_path)
    assert text.startswith("broken: ValueError: Shards.urls")


def test_many_damaged_shards_are_not_all_named(tars: list[Path]) -> None:
    for number in range(2, 15):
        (tars[0].parent / f"train-{number}.tar").write_bytes(b"")
    found = checked(tars[0].parent)
    assert len(found) == 12
    assert found[10] == "broken: and 3 more lines of this kind"
