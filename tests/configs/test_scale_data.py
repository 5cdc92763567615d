"""Data at many scales: each shipped file of them gives its batches, of images made here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from lightning.pytorch.cli import LightningArgumentParser

from datamodules.base import SRDataModule
from datamodules.pack import __main__ as pack
from tests.configs.blurred import save
from tests.conftest import REPO
from tests.datamodules.memory import evaluation, training
from tests.quick import quick

Sizes = dict[str, tuple[int, int]]

FACES = {"x5_3": (16, 85), "x7": (16, 112), "x10": (16, 160), "x10_7": (16, 171), "x12": (16, 192)}
# Images of 204x136: the height of the LR and of what is left of HR.
DIV2K = {"x4": (34, 136), "x8": (17, 136), "x12": (11, 132), "x17": (8, 136)}
SQUARES = {"x2": (96, 192), "x2_7": (71, 192), "x4": (48, 192), "x5_3": (36, 191)}
SQUARES |= {"x8": (24, 192), "x12": (16, 192)}
ONE_LR = {"x2_7": (24, 65), "x4": (24, 96), "x5_3": (24, 127), "x8": (24, 192)}


def of(scales: Sizes, *names: str) -> Sizes:
    return {f"{name}_{scale}": sides for name in names for scale, sides in scales.items()}


SETS: dict[str, Sizes] = {
    "celeba_hq_scales": of(FACES, "celeba_hq"),
    "casarbi_ffhq": of(FACES, "celeba_hq"),
    "lsun_bedroom": {"lsun_bedroom": (16, 256)},
    "lsun_tower": {"lsun_tower": (16, 256)},
    "casarbi_lsun_bedroom": {"lsun_bedroom": (16, 256)},
    "casarbi_lsun_tower": {"lsun_tower": (16, 256)},
    "div2k_scales": of(DIV2K, "div2k"),
    "casarbi_df2k": of(DIV2K, "div2k"),
    "mini_test": of(SQUARES, "set14", "kodak"),
    "mini_same": of(ONE_LR, "same"),
}
# LR sides, and the largest HR side.
TRAINED: dict[str, tuple[set[int], int]] = {
    "casarbi_ffhq": ({16, 32, 64}, 128),
    "casarbi_lsun_bedroom": ({16, 32, 64, 128}, 256),
    "casarbi_lsun_tower": ({16, 32, 64, 128}, 256),
    "casarbi_df2k": ({48}, 192),
    "mini_bsds": ({24}, 48),
}


@pytest.fixture(scope="module")
def data_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `$ENLARGER_DATA` holds, an image a set and three to train on."""
    root = tmp_path_factory.mktemp("data")
    for name in ("celeba_hq_256", "celeba_hq_256_val", "set14/x2/hr", "kodak24"):
        save(root / name / "image.png", (256, 256))
    for name in ("bedroom", "tower"):
        for part, count in (("train", 3), ("val", 1), ("test", 1)):
            for number in range(count):
                save(root / f"lsun_{name}" / part / f"{number}.jpg", (256, 256), number)
        folder = root / f"lsun_{name}"
        assert pack.main([f"{folder}/train", str(folder), "--name", "train"]) == 0
    for name in ("DIV2K_train_HR", "Flickr2K/Flickr2K_HR", "ffhq_128", "bsds400"):
        for number in range(3):
            size = (128, 128) if name == "ffhq_128" else (210, 200)
            save(root / name / f"{name[0]}{number}.png", size, number)
    save(root / "DIV2K_valid_HR/0801.png", (204, 136))
    save(root / "DIV2K_valid_LR_bicubic/X4/0801x4.png", (51, 34))
    for side, size in (("hr", (256, 256)), ("lr", (64, 64))):
        save(root / "set14/x4" / side / "image.png", size)
    return root


@pytest.fixture
def build(data_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Make the DataModule of a file, as the command line does, with the run's bicubic."""
    monkeypatch.setenv("ENLARGER_DATA", str(data_folder))
    parser = LightningArgumentParser()
    parser.add_subclass_arguments(SRDataModule, "data")

    def build(name: str, **changes: Any) -> SRDataModule:
        content = yaml.safe_load((REPO / f"configs/data/{name}.yaml").read_text())
        arguments = content["init_args"]
        bicubic = {"class_path": "degradations.Bicubic"}
        bicubic["init_args"] = {"scale": arguments["scale"]}
        arguments |= {"workers": 0, "degradation": bicubic} | changes
        arguments["crops"] = arguments.get("crops", {}) | {"per_image": 8}
        return parser.instantiate(parser.parse_object({"data": content})).data

    return build


@pytest.mark.parametrize(
    "name", quick(SETS, "celeba_hq_scales", "lsun_bedroom", "div2k_scales", "mini_test")
)
def test_sets_of_all_scales(name: str, build: Any) -> None:
    data = build(name)
    found = {}
    for batch in evaluation(data, "test"):
        source = batch["key"][0].partition("/")[0]
        found[source] = (batch["lr"].shape[-2], batch["size"][0])
        assert batch["hr"].shape[-2:] == batch["size"]
    assert found == SETS[name]


@pytest.mark.parametrize("name", TRAINED)
def test_training_and_validation(name: str, build: Any) -> None:
    data = build(name, batch_size=1)
    lr_sides, largest = TRAINED[name]
    batches = list(training(data))
    sides = [(batch["lr"].shape[-1], batch["hr"].shape[-1]) for batch in batches]
    assert {lr for lr, _ in sides} <= lr_sides
    assert len({hr / lr for lr, hr in sides}) > 1
    assert max(hr for _, hr in sides) == largest
    (first, *_) = evaluation(data, "val")
    scale = {"casarbi_ffhq": 8, "casarbi_df2k": 4, "mini_bsds": 4}.get(name, 16)
    assert first["size"][0] == scale * first["lr"].shape[-2]


def test_strengths_differ_in_strength_alone(build: Any) -> None:
    """The same squares with the same noise: a stronger set is further from the clean one."""
    first: dict[str, Any] = {}
    for batch in evaluation(build("strengths"), "test"):
        first.setdefault(batch["key"][0].partition("/")[0], batch)
    assert list(first) == ["clean", "light", "medium", "strong"]
    clean, *others = first.values()
    for batch in others:
        assert [k.split("/")[1:] for k in batch["key"]] == [k.split("/")[1:] for k in clean["key"]]
        assert batch["seed"].tolist() == clean["seed"].tolist()
        assert batch["hr"].equal(clean["hr"])
    distances = [(batch["lr"] - clean["lr"]).square().mean().sqrt() for batch in others]
    assert 0.01 < distances[0] < 0.7 * distances[1] < 0.5 * distances[2]
