"""The table of InvSR's captions, its images and its encoder."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from benchmarks import invsr_captions
from benchmarks.invsr_captions import CLASSES, FOLDER, RUNS, SEEDS, TABLE, ClassNames, write_images
from benchmarks.miniature.table import Plan, load
from files.yaml_loader import plain_yaml


def test_predictors_differ_in_captions_alone() -> None:
    jobs = {job.name: list(job.arguments) for job in Plan(load(TABLE), RUNS, SEEDS).jobs()}
    without, captions = jobs["fit without"], jobs["fit captions"]
    at = captions.index("--model.init_args.encoder")
    assert captions[:at] + captions[at + 2 : -1] == without[:-1]
    assert captions[-1] == "captions"


def test_an_encoder_tells_the_classes_apart_and_the_wrong_one_moves_them() -> None:
    right, wrong = (
        ClassNames(**plain_yaml((TABLE.with_suffix("") / name).read_text())["init_args"])
        for name in ("encoder.yaml", "wrong.yaml")
    )
    assert tuple(right.numbers) == CLASSES
    assert right(CLASSES).shape == (4, 1, 32)
    assert torch.equal(right(["frog", "frog"])[0], right(CLASSES)[1])
    assert torch.equal(wrong(["frog"]), right(["horse"]))
    assert not any(torch.equal(right([name]), wrong([name])) for name in CLASSES)


def test_images_are_written_once_from_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for split in ("train", "test"):
        for name in CLASSES:
            (tmp_path / "cifar" / split / name).mkdir(parents=True)
            for number in range(3):
                file = tmp_path / "cifar" / split / name / f"{number}.png"
                Image.new("RGB", (32, 32), (10 * number, 0, 0)).save(file)
    monkeypatch.setenv(FOLDER, str(tmp_path / "cifar"))
    parts = {"train": ("train", 0, 2), "val": ("train", 2, 3), "test": ("test", 0, 3)}
    monkeypatch.setattr(invsr_captions, "PARTS", parts)
    out = tmp_path / "out"
    assert write_images(out) == write_images(out) == "the folder $ENLARGER_CIFAR10"
    for part, count in (("train", 2), ("val", 1), ("test", 3)):
        assert len(list((out / part / "frog").iterdir())) == count
    with Image.open(out / "val" / "ship" / "0000.png") as image:
        assert image.getpixel((0, 0)) == (20, 0, 0)
    monkeypatch.setattr(invsr_captions, "PARTS", {"val": ("train", 2, 4)})
    with pytest.raises(ValueError, match=r"train/automobile are 3; expected at least 4: check \$"):
        write_images(tmp_path / "few")
