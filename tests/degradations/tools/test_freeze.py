"""Frozen sets: equal to validation, reproducible, complete or absent."""

from __future__ import annotations

import json
import logging
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from datamodules.base import Source, SRDataModule
from datamodules.shards.shards import Shards
from datamodules.sources.folder import Folder
from degradations.draws import seed_of
from degradations.tools import freeze
from degradations.tools.configure import degradation_of
from tests.datamodules.memory import evaluation
from tests.datamodules.profiles import grey_profile, ink_profile, rgb_profile

NOISY = {
    "class_path": "degradations.Pipeline",
    "init_args": {"stages": [{"class_path": "degradations.GaussianNoise"}]},
}
SIZES = {"a": (24, 30), "b/c": (33, 47), "b/2020.01": (40, 40), "z": (25, 31)}


def make_image(folder: Path, name: str, size: tuple[int, int], mode: str = "RGB") -> None:
    generator = np.random.default_rng(len(name))
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = generator.integers(0, 256, (*size, 4), np.uint8)
    Image.fromarray(pixels).convert(mode).save(path)


@pytest.fixture
def images(tmp_path):
    """RGB, RGBA, grey and palette PNG, a JPEG, a hidden file, and a text file."""
    folder = tmp_path / "images"
    for (name, size), mode in zip(SIZES.items(), ("RGB", "RGBA", "L", "P"), strict=True):
        make_image(folder, f"{name}.png", size, mode)
    make_image(folder, "photo.jpg", (26, 22))
    make_image(folder, "._photo.png", (26, 22))
    (folder / "notes.txt").write_text("none")
    return folder


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "noisy.yaml"
    path.write_text(yaml.safe_dump(NOISY))
    return path


@pytest.fixture
def run(tmp_path, config, images):
    """Return a function that freezes into `out` with further arguments, and returns the shards."""

    def freeze_into(out: str, *arguments: object) -> list[Path]:
        command = ["--config", config, "--out", tmp_path / out, images, "--name", "photos"]
        if "--scale" not in arguments:
            command += ["--scale", 2]
        assert freeze.main([str(a) for a in (*command, *arguments)]) == 0
        return sorted((tmp_path / out).glob("*")) if (tmp_path / out).exists() else []

    return freeze_into


def batches(source: Source, config: Path, scale: float = 2, **settings: object) -> dict:
    data = SRDataModule(
        scale,
        val={"photos": source},
        degradation=degradation_of([config], scale),
        workers=0,
        **settings,
    )
    return {batch["key"][0]: batch for batch in evaluation(data, "val")}


def folder_of(shards: list[Path]) -> Shards:
    return Shards([str(path) for path in shards if path.suffix == ".tar"])


@pytest.mark.parametrize("scale", [2, 3, 2.5])
def test_as_validation_would_have_made_it(run, images, config, scale):
    expected = batches(Folder(str(images)), config, scale, seed=17)
    got = batches(folder_of(run("out", "--scale", scale)), config, scale)
    assert len(expected) == 5
    assert {key.replace(".", "_") for key in expected} == got.keys()
    for key, batch in expected.items():
        again = got[key.replace(".", "_")]
        assert torch.equal(again["hr"], batch["hr"])
        assert torch.equal(again["lr"], batch["lr"])
        assert again["size"] == batch["size"]


def test_colours_are_those_of_validation(run, images, config):
    """Frozen images have no profile, so they must be in sRGB."""
    with_profile = {"RGB": rgb_profile(), "L": grey_profile(), "CMYK": ink_profile()}
    for name in SIZES:
        (images / f"{name}.png").unlink()
    for mode, profile in with_profile.items():
        make_image(images, f"{mode}.jpg", (24, 30), mode)
        before = Image.open(images / f"{mode}.jpg")
        before.save(images / f"{mode}.jpg", icc_profile=profile)
        before.save(images / f"{mode}_of_another.jpg", icc_profile=b"no profile")
    make_image(images, "animation.gif", (24, 30), "P")
    expected = batches(Folder(str(images)), config)
    got = batches(folder_of(run("out")), config)
    assert got.keys() == expected.keys()
    assert len(got) == 8
    for key, batch in expected.items():
        assert torch.equal(got[key]["hr"], batch["hr"]), key


def test_the_name_and_the_seed_of_validation_count(run, config, images):
    seeded = batches(folder_of(run("other", "--degradation-seed", 5)), config)
    expected = batches(Folder(str(images)), config, degradation_seed=5)
    plain = batches(folder_of(run("out")), config)
    named = Shards([str(path) for path in run("named", "--name", "test")])
    named = batches(named, config)
    lr = {key: batch["lr"] for key, batch in seeded.items()}
    assert torch.equal(lr["photos/a"], expected["photos/a"]["lr"])
    assert not torch.equal(lr["photos/a"], plain["photos/a"]["lr"])
    assert not torch.equal(named["photos/a"]["lr"], plain["photos/a"]["lr"])


def test_the_same_bytes_again(run, images):
    first = [path.read_bytes() for path in run("one")]
    assert len(first) == 1
    torch.manual_seed(3)
    assert [path.read_bytes() for path in run("two")] == first
    # An LR does not depend on what else is frozen.
    before = members(run("three"))
    make_image(images, "0.png", (24, 24))
    after = members(run("four"))
    assert {name: after[name] for name in before} == before
    assert len(after) == len(before) + 3


def members(shards: list[Path]) -> dict[str, bytes]:
    found = {}
    for shard in shards:
        with tarfile.open(shard) as tar:
            found |= {member.name: tar.extractfile(member).read() for member in tar}
    return found


def test_what_is_in_a_shard(run):
    files = members(run("out"))
    keys = ["a", "b/2020_01", "b/c", "photo", "z"]
    assert list(files) == [f"{key}.{suffix}" for key in keys for suffix in FIELDS]
    about = json.loads(files["b/2020_01.json"])
    assert about.pop("params")["GaussianNoise"]
    version = about.pop("enlarger")
    assert version[0].isdigit()
    assert about == {
        "seed": seed_of(0, "photos/b/2020.01"),
        "shape": [3, 40, 40],
        "scale": 2.0,
        "recipe": "degradations.Pipeline",
        "key": "photos/b/2020.01",
    }


FIELDS = ("hr.png", "lr.png", "json")


def test_it_says_how_to_read_them(run, config, caplog):
    with caplog.at_level(logging.INFO):
        shards = run("out")
    assert f"5 images frozen into {shards[0]}" in caplog.messages
    start = caplog.messages.index("to validate on them at data.init_args.scale 2:") + 1
    printed = yaml.safe_load("\n".join(caplog.messages[start:]))
    source = printed["data"]["init_args"]["val"]["photos"]
    assert source["class_path"] == "datamodules.Shards"
    expected = batches(folder_of(shards), config)
    assert batches(Shards(**source["init_args"]), config).keys() == expected.keys()


class TestRefusals:
    def error(self, run, *arguments: object, out: str = "out") -> str:
        with pytest.raises((ValueError, OSError)) as caught:
            run(out, *arguments)
        return str(caught.value)  # which main.py prints

    def test_nothing_is_overwritten(self, run):
        shards = run("out")
        before = [path.read_bytes() for path in shards]
        assert "a frozen set is never overwritten" in self.error(run)
        assert [path.read_bytes() for path in shards] == before
        run("out", "--name", "another")

    def test_a_failure_leaves_nothing_behind(self, run, images, tmp_path):
        (images / "y.png").write_bytes(b"no image")
        message = self.error(run)
        assert "y.png: not an image" in message
        assert list((tmp_path / "out").iterdir()) == []

    def test_16_bits(self, run, images):
        import cv2

        cv2.imwrite(str(images / "deep.png"), np.full((24, 24, 3), 1000, np.uint16))
        assert "deep.png has more than 8 bits" in self.error(run)

    def test_an_lr_that_is_not_rounded(self, run, config):
        config.write_text(
            yaml.safe_dump({**NOISY, "init_args": {**NOISY["init_args"], "quantize": False}})
        )
        assert "is not rounded to 8 bits" in self.error(run)
