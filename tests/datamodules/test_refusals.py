"""What is refused: the table `refusals.yaml`."""

from pathlib import Path

import numpy as np
import pytest
import yaml

import datamodules
from datamodules.pack import command as pack
from datamodules.pack import options
from datamodules.scales import Scales
from tests.datamodules.image_files import image_bytes, save, write_tar
from tests.datamodules.memory import Memory, data_of, evaluation, training

TABLE = yaml.safe_load(Path(__file__).with_name("refusals.yaml").read_text())


def images(sizes, scale=None):
    """A source of black images and pairs, from the table's sizes."""
    samples = {}
    for key, sample in sizes.items():
        samples[key] = {}
        for field, (height, width, *channels) in sample.items():
            samples[key][field] = np.zeros((height, width, *(channels or [3])), np.uint8)
    return Memory(samples, scale=scale)


def read_all(row):
    """Read the images of a row for training, validation or `predict`, with its settings."""
    settings = {"batch_size": 1} | row.get("settings", {})
    if "scales" in settings:
        settings["scales"] = Scales(**settings["scales"])
    if "augment" in settings:
        settings["augment"] = lambda hr, seed: hr
    if "train" in row:
        list(training(data_of(images(row["train"]), **settings)))
    elif "val" in row:
        val = {"own": images(row["val"], row.get("scale"))}
        list(evaluation(data_of(val=val, **settings), "val"))
    else:
        list(evaluation(data_of(predict=images(row["predict"])), "predict"))


@pytest.mark.parametrize("row", TABLE["data"], ids=lambda row: row["case"])
def test_unusable_data_is_refused_with_words_that_name_the_fix(row):
    """A row is a mistake: sizes of images and settings, such as HR of 30x32 with LR of 10x10.

    All pixels are black, as no refusal depends on them.
    """
    with pytest.raises(ValueError, match=row["words"]):
        read_all(row)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    for name, size in TABLE["images"].items():
        save(tmp_path / name, size)
    (tmp_path / "two.txt").write_text("two/a.png\ntwo/a.jpg\n")
    (tmp_path / "noise.txt").write_bytes(bytes(range(256)) * 100)
    (tmp_path / "short.tar").write_bytes(b"a.png" + bytes(695))  # 700 bytes: not whole blocks
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("row", TABLE["sources"], ids=str)
def test_unusable_sources_are_refused_with_words_that_name_the_fix(folder, row):
    """A row has a source's class, its arguments and the words; some have members of tars."""
    for name, members in row.get("tars", {}).items():
        write_tar(folder / f"{name}.tar", dict.fromkeys(members, image_bytes(seed=0)))
    source = getattr(datamodules, row["class"])(**row["arguments"])
    with pytest.raises(ValueError, match=row["words"]):
        source.prepare(scale=2.0)


def refusal(typed, capsys):
    """The message of a refusal; the parser prints its own."""
    with pytest.raises((ValueError, SystemExit)) as raised:
        pack.main(typed.split())
    return str(raised.value) + capsys.readouterr().err


@pytest.mark.parametrize("row", TABLE["pack"], ids=lambda row: row["typed"])
def test_the_packer_refuses_unusable_inputs_and_writes_nothing(folder, row, capsys, monkeypatch):
    """A row has a command as it is typed, and words of the error."""
    monkeypatch.setattr(options, "usable_cores", lambda: 0)  # and so without workers
    assert row["words"] in refusal(row["typed"], capsys)
    assert not (folder / "out").exists()


def test_the_packer_in_several_processes_is_refused(folder, monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "pack runs in one process: use --part" in refusal("images out", capsys)
