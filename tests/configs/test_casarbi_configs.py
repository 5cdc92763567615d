"""CasArbi's experiments: its miniature as a newcomer types it, and the runs of its paper."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.pack import __main__ as pack
from tests.configs.shipped import PATHS

RUN = (
    *("--trainer.accelerator", "cpu", "--trainer.devices", "1", "--trainer.logger", "false"),
    *("--trainer.enable_progress_bar", "false", "--data.init_args.workers", "0"),
)
FIT = ("--trainer.max_steps", "2", "--trainer.val_check_interval", "2")
SMALL_NETWORK = (
    *("--model.init_args.network.init_args.width", "8"),
    *("--model.init_args.network.init_args.multipliers", "[1]"),
    # On its one level, every pixel would see every other.
    *("--model.init_args.network.init_args.attention", "false"),
)
NO_VALIDATION = ("--data.init_args.val", "null", "--checkpoint.monitor", "null")


def trained(run: str, steps: int) -> Any:
    return torch.load(f"runs/{run}/checkpoints/step-{steps:09}.ckpt", weights_only=True)


def mini(name: str) -> str:
    return f"experiment/mini/casarbi/{name}.yaml"


@pytest.mark.slow
def test_the_miniature_as_a_newcomer_types_it(
    enlarger: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Base, cascade, test at several scales, and images of any size; each made small."""
    monkeypatch.chdir(tmp_path)
    cascade = ("--config", PATHS[mini("cascade")], *RUN, *SMALL_NETWORK)
    cascade = (*cascade, "--model.init_args.sampling.timesteps", "[14,0]")
    fit = (*FIT, *NO_VALIDATION)
    enlarger("fit", "--config", PATHS[mini("base")], *RUN, *fit)
    enlarger("fit", *cascade, *fit)
    assert 0.01 < trained("mini_casarbi_cascade", 2)["state_dict"]["sigma_r"] < 0.3
    enlarger("test", *cascade, "--trainer.limit_test_batches", 1)
    found = json.loads((tmp_path / "runs/mini_casarbi_cascade/results.json").read_text())["results"]
    assert {entry["scale"] for entry in found} == {2, 4, 8}
    assert all(np.isfinite(entry["value"]) for entry in found)
    Image.fromarray(np.full((12, 16, 3), 99, np.uint8)).save(tmp_path / "image.png")
    image = ("--data.init_args.predict", tmp_path / "image.png")
    for arguments, size in (
        (("--data.init_args.scale", 5.3), (85, 64)),
        (("--data.init_args.size", "[48,80]"), (80, 48)),
    ):
        folder = tmp_path / str(size[0])
        enlarger("predict", *cascade, *image, *arguments, "--writer.folder", folder)
        with Image.open(next(folder.glob("*.png"))) as written:
            assert written.size == size


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `$ENLARGER_DATA` has to hold for the paper's runs, made here."""
    root = tmp_path_factory.mktemp("data")
    files = {
        "ffhq_128": (128, 128),
        "DIV2K_train_HR": (200, 196),
        "Flickr2K/Flickr2K_HR": (196, 200),
        "lsun": (256, 256),
    }
    for folder, size in files.items():
        (root / folder).mkdir(parents=True)
        for number in range(4):
            blocks = np.random.default_rng(number).integers(0, 256, (6, 6, 3), dtype=np.uint8)
            image = Image.fromarray(blocks).resize(size, Image.Resampling.BICUBIC)
            image.save(root / folder / f"{number}.png")
    for kind in ("bedroom", "tower"):
        assert pack.main([str(root / "lsun"), str(root / f"lsun_{kind}"), "--name", "train"]) == 0
    return root
