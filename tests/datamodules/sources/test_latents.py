"""Latents: errors for incomplete or wrong shards."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from datamodules.batches import collate
from datamodules.order.plan import Item
from datamodules.shards.writer import write_shard
from datamodules.sources.latents import ABOUT, Latents, TrainingLatents, add_latents
from files.images.decode import UnreadableImage

ABOUT_OURS = {"space": "Space 0123", "factor": 8, "scale": None}


def npy(array: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def write(folder: Path, *samples: dict[str, bytes], about: dict[str, Any] | None = None) -> str:
    folder.mkdir()
    numbered = ((f"a/{number}", members) for number, members in enumerate(samples))
    write_shard(folder / "latents-000000.tar", numbered)
    (folder / ABOUT).write_text(json.dumps(about or ABOUT_OURS))
    return f"{folder}/*.tar"


def test_a_batch_of_latents(tmp_path):
    z = np.arange(24, dtype=np.float16).reshape(2, 3, 4)
    source = Latents(write(tmp_path / "out", *[{"latent.npy": npy(z)}] * 2))
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
    source = Latents(write(tmp_path / "ints", {"latent.npy": npy(np.zeros((1, 2, 2), int))}))
    source.prepare(2.0)
    with pytest.raises(UnreadableImage, match=r"is int64 \(1, 2, 2\); expected floats"):
        source.read(0)
    source = Latents(write(tmp_path / "objects", {"latent.npy": npy(np.array([None, {}]))}))
    source.prepare(2.0)
    with pytest.raises(UnreadableImage, match="allow_pickle"):  # no code in a shard is executed
        source.read(0)
    source = Latents(write(tmp_path / "images", {"txt": b"the sea"}))
    with pytest.raises(ValueError, match=r"expected a member latent\.npy"):
        source.prepare(2.0)


def test_latents_of_another_scale_or_without_their_description_are_refused(tmp_path):
    z = {"latent.npy": npy(np.zeros((1, 2, 2), np.float32))}
    urls = write(tmp_path / "pairs", z, about={**ABOUT_OURS, "scale": 4.0})
    with pytest.raises(ValueError, match=r"scale 4, but data\.init_args\.scale is 2"):
        Latents(urls).prepare(2.0)
    (tmp_path / "pairs" / ABOUT).write_text("{}")
    with pytest.raises(ValueError, match=r"damaged .KeyError"):
        Latents(urls).prepare(4.0)
    (tmp_path / "pairs" / ABOUT).unlink()
    with pytest.raises(ValueError, match=r"encode\.json, which .* is missing"):
        Latents(urls).prepare(4.0)


def test_sets_that_were_not_encoded_alike_are_refused(tmp_path):
    z = {"latent.npy": npy(np.zeros((1, 2, 2), np.float32))}
    one = write(tmp_path / "one", z)
    two = write(tmp_path / "two", z, about={**ABOUT_OURS, "space": "Space 4567"})
    with pytest.raises(ValueError, match=r"space differ in .*one/.* and .*two/"):
        Latents([one, two]).prepare(2.0)


def test_features_of_captions_are_filled_up_to_the_longest(tmp_path):
    z = np.zeros((1, 2, 2), np.float32)
    texts = [np.full((n, 3), n, np.float16) for n in (2, 5, 1)]
    members = [{"latent.npy": npy(z), "text_features.npy": npy(text)} for text in texts]
    source = Latents(write(tmp_path / "out", *members))
    source.prepare(1)
    samples = [{"key": str(n), "seed": n, **source.read(n)} for n in range(3)]
    batch = collate(samples)
    assert batch["text_features"].shape == (3, 5, 3)
    assert batch["text_lengths"].tolist() == [2, 5, 1]
    for row, text in zip(batch["text_features"], texts, strict=True):
        assert torch.equal(row[: len(text)], torch.from_numpy(text))
        assert not row[len(text) :].any()
