"""FolderOutputs: another program's images, complete or not at all."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from PIL import Image

from callbacks.metrics.pixels import PSNR
from datamodules.base import SRDataModule
from degradations.bicubic import Bicubic
from lightning_modules.controls.simple import FolderOutputs
from tests.datamodules.memory import Memory, random_image, trainer

KEYS = ("baby", "bird", "sub/head")


def source() -> Memory:
    return Memory({key: {"hr": random_image(24, 31, seed)} for seed, key in enumerate(KEYS)})


def data() -> SRDataModule:
    sources = {"set5": source()}
    return SRDataModule(2, test=sources, val=sources, degradation=Bicubic(2), workers=0)


def write(root, suffix=".png", keys=KEYS, change=0):
    """HR, cut to the scale, as an output that is perfect up to `change` levels."""
    for key in keys:
        pixels = source().samples[key]["hr"][:24, :30]
        path = root / f"{key}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((pixels // 2 + change).astype(np.uint8)).save(path)


def measured(root, tmp_path, verb="test", **settings):
    metric = PSNR(color="rgb", border=0)
    run = trainer(tmp_path, callbacks=[metric])
    getattr(run, verb)(FolderOutputs(2, str(root), **settings), datamodule=data(), verbose=False)
    return metric.records[0]


@pytest.fixture
def root(tmp_path):
    write(tmp_path / "out")
    return tmp_path / "out"


class TestResult:
    @pytest.mark.parametrize("verb", ["test", "validate"])
    def test_it_is_what_the_files_hold(self, root, tmp_path, verb):
        record = measured(root, tmp_path, verb)
        values = []
        for key in KEYS:
            hr = source().samples[key]["hr"][:24, :30].astype(float)
            sr = np.asarray(Image.open(root / f"{key}.png")).astype(float)
            values.append(10 * np.log10(255**2 / ((sr - hr) ** 2).mean()))
        assert record["n"] == 3
        assert record["value"] == pytest.approx(np.mean(values), abs=1e-9)

    def test_exact_pixels(self, root):
        model = FolderOutputs(2, str(root))
        lr = torch.zeros(2, 3, 12, 15)
        batch = {"key": ["set5/baby", "set5/sub/head"], "size": (24, 30), "lr": lr, "seed": [0, 1]}
        sr = model.test_step(batch, 0)["sr"]
        for image, key in zip(sr, ("baby", "sub/head"), strict=True):
            levels = (image * 255).round().byte().permute(1, 2, 0).numpy()
            np.testing.assert_array_equal(levels, np.asarray(Image.open(root / f"{key}.png")))

    def test_a_folder_of_the_source_comes_first(self, root, tmp_path):
        write(root / "set5", change=100)
        model = FolderOutputs(2, str(root))
        assert model.path("set5/baby") == root / "set5" / "baby.png"
        assert model.path("set14/baby") == root / "baby.png"

    @pytest.mark.parametrize(
        ("suffix", "ending"),
        [("x2", "x2.png"), ("x{scale}_imdn", "x2_imdn.png"), ("[1]", "[1].png")],
    )
    def test_suffix(self, tmp_path, suffix, ending):
        write(tmp_path / "out", ending)
        assert measured(tmp_path / "out", tmp_path, suffix=suffix)["n"] == 3

    def test_grey_and_transparent_files(self, tmp_path):
        pixels = random_image(4, 6)
        for mode in ("L", "LA", "RGBA", "P", "1"):
            Image.fromarray(pixels).convert(mode).save(tmp_path / "a.png")
            batch = {"key": ["x/a"], "size": (4, 6), "lr": torch.zeros(1, 3, 2, 3), "seed": [0]}
            assert FolderOutputs(2, str(tmp_path)).test_step(batch, 0)["sr"].shape == (1, 3, 4, 6)

    def test_results_say_where_they_are_from(self, root):
        assert FolderOutputs(2, str(root)).weights_source == str(root)
        assert not FolderOutputs(2, str(root)).needs_weights


class TestBadInput:
    def test_missing_ones_are_listed_before_anything_is_measured(self, root, tmp_path):
        (root / "bird.png").unlink()
        (root / "sub" / "head.png").rename(root / "sub" / "Head.png")
        with pytest.raises(ValueError, match=r"model\.init_args\.root .*lacks 2 of 3") as caught:
            measured(root, tmp_path)
        for name in (str(root / "bird.png"), str(root / "sub" / "head.png")):
            assert name in str(caught.value)
        assert f"it has 1 extra ones: {root / 'sub' / 'Head.png'}" in str(caught.value)

    def test_extra_ones_are_reported(self, root, tmp_path, caplog):
        write(root, keys=["bird"], suffix="_old.png")
        write(root, keys=["bird"], suffix=".jpg")
        with caplog.at_level(logging.WARNING, "lightning_modules.controls.simple"):
            assert measured(root, tmp_path)["n"] == 3
        (record,) = caplog.records
        assert record.getMessage() == f"{root} has 1 extra images: {root / 'bird_old.png'}"

    def test_a_broken_one(self, root, tmp_path):
        data = (root / "bird.png").read_bytes()
        (root / "bird.png").write_bytes(data[: len(data) // 2])
        with pytest.raises(ValueError, match=r"bird\.png is not a readable image: \S"):
            measured(root, tmp_path)
        (root / "bird.png").write_text("an image")
        with pytest.raises(ValueError, match=r"bird\.png is not a readable image: \S"):
            measured(root, tmp_path)
