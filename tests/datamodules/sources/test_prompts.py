"""Seeds and prompts: requests to a generator, from a number or a file to a batch."""

from __future__ import annotations

import logging

import pytest
import torch

from datamodules.base import SRDataModule
from datamodules.sources.prompts import Prompts, Seeds
from tests.datamodules.memory import Stage, evaluation, on_device

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


def test_in_predict(file):
    first, *_ = batches(Prompts(file, 32), "predict")
    assert (first["text"], first["size"]) == (["a red car"], (32, 32))
    first, *_ = batches(Seeds(2, 32), "predict", size=(64, 48))
    assert (first["key"], first["size"]) == (["predict/000000"], (64, 48))


def test_a_size_is_a_pair_again_after_pinned_memory():
    """Torch makes it a list on the way to a GPU."""
    data = SRDataModule(2.0, test={"own": Seeds(1, 32)}, workers=0)
    data.trainer = Stage("test")
    data.setup("test")
    (batch,) = data.test_dataloader()[0]
    found = on_device(data, {**batch, "size": [32, 48]})
    assert found["size"] == (32, 48)
