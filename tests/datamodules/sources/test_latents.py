"""Sources that give no pairs: latents, prompts and seeds, judged triplets."""

from __future__ import annotations

import io
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.base import SRDataModule
from datamodules.batches import collate
from datamodules.order.plan import Item
from datamodules.shards.writer import write_shard
from datamodules.sources.latents import ABOUT, Latents, TrainingLatents, add_latents
from datamodules.sources.prompts import Prompts, Seeds
from datamodules.sources.triplets import PARTS, Triplets
from files.images.decode import UnreadableImage
from tests.datamodules.memory import Stage, data_of, evaluation, keys_of, on_device, training

ABOUT_OURS = {"space": "Space 0123", "factor": 8, "scale": None}


def npy(array: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def write_latents(
    folder: Path, *samples: dict[str, bytes], about: dict[str, Any] | None = None
) -> str:
    folder.mkdir()
    numbered = ((f"a/{number}", members) for number, members in enumerate(samples))
    write_shard(folder / "latents-000000.tar", numbered)
    (folder / ABOUT).write_text(json.dumps(about or ABOUT_OURS))
    return f"{folder}/*.tar"


def test_a_batch_of_latents(tmp_path):
    z = np.arange(24, dtype=np.float16).reshape(2, 3, 4)
    source = Latents(write_latents(tmp_path / "out", *[{"latent.npy": npy(z)}] * 2))
    source.prepare(2.0)
    assert list(source.keys) == ["a/0", "a/1"]
    assert source.groups == [2]
    dataset = TrainingLatents(source, "train", 2.0, 96, True)
    items = [Item(image=i, seed=i, epoch=0, position=i) for i in (1, 0)]
    batch = collate(dataset.__getitems__(items))
    add_latents(batch, source)
    assert batch["key"] == ["train/a/1", "train/a/0"]
    assert batch["latent"].tolist() == [z.tolist()] * 2
    assert batch["size"] == (24, 32)
    assert batch["space"] == "Space 0123"


def test_what_is_no_latent(tmp_path):
    source = Latents(
        write_latents(tmp_path / "ints", {"latent.npy": npy(np.zeros((1, 2, 2), int))})
    )
    source.prepare(2.0)
    with pytest.raises(UnreadableImage, match=r"is int64 \(1, 2, 2\); expected floats"):
        source.read(0)
    source = Latents(write_latents(tmp_path / "objects", {"latent.npy": npy(np.array([None, {}]))}))
    source.prepare(2.0)
    with pytest.raises(UnreadableImage, match="allow_pickle"):  # no code in a shard is executed
        source.read(0)
    source = Latents(write_latents(tmp_path / "images", {"txt": b"the sea"}))
    with pytest.raises(ValueError, match=r"expected a member latent\.npy"):
        source.prepare(2.0)


def test_latents_of_another_scale_or_without_their_description_are_refused(tmp_path):
    z = {"latent.npy": npy(np.zeros((1, 2, 2), np.float32))}
    urls = write_latents(tmp_path / "pairs", z, about={**ABOUT_OURS, "scale": 4.0})
    with pytest.raises(ValueError, match=r"scale 4, but data\.init_args\.scale is 2"):
        Latents(urls).prepare(2.0)
    (tmp_path / "pairs" / ABOUT).write_text("{")
    with pytest.raises(ValueError, match=r"encode\.json, which .* is missing or damaged"):
        Latents(urls).prepare(4.0)
    (tmp_path / "pairs" / ABOUT).unlink()
    with pytest.raises(ValueError, match=r"encode\.json, which .* is missing"):
        Latents(urls).prepare(4.0)


def test_sets_that_were_not_encoded_alike_are_refused(tmp_path):
    z = {"latent.npy": npy(np.zeros((1, 2, 2), np.float32))}
    one = write_latents(tmp_path / "one", z)
    two = write_latents(tmp_path / "two", z, about={**ABOUT_OURS, "space": "Space 4567"})
    with pytest.raises(ValueError, match=r"space differ in .*one/.* and .*two/"):
        Latents([one, two]).prepare(2.0)


def test_features_of_captions_are_filled_up_to_the_longest(tmp_path):
    z = np.zeros((1, 2, 2), np.float32)
    texts = [np.full((n, 3), n, np.float16) for n in (2, 5, 1)]
    members = [{"latent.npy": npy(z), "text_features.npy": npy(text)} for text in texts]
    source = Latents(write_latents(tmp_path / "out", *members))
    source.prepare(1)
    samples = [{"key": str(n), "seed": n, **source.read(n)} for n in range(3)]
    batch = collate(samples)
    assert batch["text_features"].shape == (3, 5, 3)
    assert batch["text_lengths"].tolist() == [2, 5, 1]
    for row, text in zip(batch["text_features"], texts, strict=True):
        assert torch.equal(row[: len(text)], torch.from_numpy(text))
        assert not row[len(text) :].any()


# ------------------------------------------------------------------------------- Seeds and prompts


TEXT = "\ufeffa red car\n\n  a dog \r\n\t\nün ours blanc\u2028assis\na red car"


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text(TEXT, encoding="utf-8")
    return str(path)


def batches(source, part="test", **settings):
    given = {"test": {"own": source}} if part == "test" else {"predict": source}
    return list(evaluation(SRDataModule(2.0, **given, **settings), part))


@pytest.mark.slow
def test_a_number_of_seeds():
    found = batches(Seeds(3, [16, 24]))
    assert [batch["key"] for batch in found] == [["own/000000"], ["own/000001"], ["own/000002"]]
    assert all(batch.keys() == {"key", "seed", "size"} for batch in found)
    assert all(batch["size"] == (16, 24) for batch in found)
    assert len({int(batch["seed"]) for batch in found}) == 3
    more = batches(Seeds(5, 16))
    assert [b["seed"] for b in more[:3]] == [b["seed"] for b in found]
    assert more[0]["size"] == (16, 16)


def test_each_line_of_a_file_is_a_prompt(file, caplog):
    with caplog.at_level(logging.INFO):
        found = batches(Prompts(file, 32), eval_batch_size=3, workers=1)
    assert "prompts.txt: 2 empty lines skipped" in caplog.text
    texts = [text for batch in found for text in batch["text"]]
    assert texts == ["a red car", "a dog", "ün ours blanc\u2028assis", "a red car"]
    keys = [key.removeprefix("own/") for batch in found for key in batch["key"]]
    assert [key.split("-")[0] for key in keys] == ["000001", "000003", "000005", "000006"]
    assert keys[0].split("-")[1] == keys[3].split("-")[1] != keys[1].split("-")[1]
    assert [batch["seed"].shape for batch in found] == [torch.Size([3]), torch.Size([1])]
    assert all(batch["size"] == (32, 32) for batch in found)


def test_a_size_is_a_pair_again_after_pinned_memory():
    """Torch makes it a list on the way to a GPU."""
    data = SRDataModule(2.0, test={"own": Seeds(1, 32)}, workers=0)
    data.trainer = Stage("test")
    data.setup("test")
    (batch,) = data.test_dataloader()[0]
    found = on_device(data, {**batch, "size": [32, 48]})
    assert found["size"] == (32, 48)


# --------------------------------------------------------------------------------- Judged triplets


SIDE = 20


def write_triplets(folder: Path, names: str = "abcdef", judge: float = 0.25) -> Path:
    """p0 is ref with all colours 1 higher, p1 with all 2 higher; `ref` encodes the name."""
    for part in (*PARTS, "judge"):
        (folder / part).mkdir(parents=True)
    for name in names:
        pixels = np.random.default_rng(ord(name)).integers(0, 250, (SIDE, SIDE, 3), np.uint8)
        for more, part in enumerate(PARTS):
            Image.fromarray(pixels + np.uint8(more)).save(folder / part / f"{name}.png")
        np.save(folder / "judge" / f"{name}.npy", np.array([judge], np.float32))
    return folder


def prepared(root: Path) -> Triplets:
    source = Triplets(str(root))
    source.prepare(1.0)
    return source


def module(root: Path, **settings: object) -> SRDataModule:
    triplets = {"scale": 1.0, "batch_size": 3, "crop_size": 8, "degradation": None}
    return data_of(Triplets(str(root)), **triplets | settings)


def test_folders_at_any_depth(tmp_path):
    write_triplets(tmp_path / "cnn", "ab", judge=0.0)
    write_triplets(tmp_path / "more/mix", "a", judge=1.0)
    source = prepared(tmp_path)
    assert source.keys == ["cnn/a", "cnn/b", "more/mix/a"]
    assert prepared(tmp_path / "cnn").keys == ["a", "b"]
    sample = source.read(2)
    assert set(sample) == {*PARTS, "judge"}
    assert sample["judge"] == 1.0
    assert sample["ref"].shape == (SIDE, SIDE, 3)
    assert np.array_equal(sample["ref"] + 2, sample["p1"])


@pytest.mark.parametrize("workers", [0, 1])
def test_crops_of_a_triplet_lie_in_one_place(tmp_path, workers):
    batches = list(training(module(write_triplets(tmp_path / "set"), workers=workers)))
    assert sorted(keys_of(batches)) == [f"train/{name}" for name in "abcdef"]
    for batch in batches:
        assert not {"hr", "lr", "size"} & set(batch)
        assert batch["ref"].shape == (3, 3, 8, 8)
        assert batch["judge"].tolist() == [0.25] * 3
        for more, part in ((1, "p0"), (2, "p1")):
            torch.testing.assert_close(batch[part], batch["ref"] + more / 255)
    places = {tuple(x.flatten().tolist()) for batch in batches for x in batch["ref"]}
    assert len(places) == 6


def test_an_unreadable_triplet_is_named(tmp_path):
    folder = write_triplets(tmp_path / "set", "abcd")
    np.save(folder / "judge/a.npy", np.array([1.5]))
    (folder / "judge/b.npy").write_bytes(b"nothing")
    Image.new("RGB", (SIDE, SIDE + 1)).save(folder / "p0/c.png")
    (folder / "ref/d.png").write_bytes(b"")
    source = prepared(folder)
    reasons = [r"a\.npy: it holds 1\.5", r"b\.npy: ", "c: .* have the shapes", r"d\.png"]
    for index, reason in enumerate(reasons):
        with pytest.raises(UnreadableImage, match=reason):
            source.read(index)
