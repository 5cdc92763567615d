"""Self-Cascade's miniature as a newcomer types it, made smaller."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import main
from datamodules.pack import __main__ as pack
from tests.conftest import REPO

MINI = REPO / "configs/experiment/mini"
BASE, FREE, TUNED = (
    MINI / f"{name}.yaml"
    for name in ("diffusion/automobiles", "self_cascade/tf", "self_cascade/tuned")
)
RUN = (
    *("--trainer.accelerator", "cpu", "--trainer.devices", "1", "--trainer.logger", "false"),
    *("--trainer.enable_progress_bar", "false", "--data.init_args.workers", "0"),
    *("--data.init_args.batch_size", "4", "--data.init_args.eval_batch_size", "2"),
)
FIT = ("--trainer.max_steps", "2", "--trainer.val_check_interval", "2")
FEW = ("--model.init_args.sampler.steps", "4")


@pytest.fixture(scope="module")
def _trained_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("base")
    for part in ("train", "test"):
        (home / part).mkdir()
        for number in range(4):
            seed = number + 10 * (part == "test")
            pixels = np.random.default_rng(seed).integers(0, 256, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(home / part / f"{part}{number}.png")
        arguments = [str(home / part), str(home / "cifar10")]
        assert pack.main([*arguments, "--name", f"{part}-automobile"]) == 0
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        patch.setenv("ENLARGER_DATA", str(home))
        steps = ("--model.init_args.sampler.steps", "2")
        main.main(["fit", "--config", str(BASE), *RUN, *FIT, *steps])
    return home


@pytest.fixture
def mini(tmp_path: Path, _trained_once: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with the data, in which the base was trained, as shipped."""
    home = tmp_path / "home"
    shutil.copytree(_trained_once, home)
    monkeypatch.chdir(home)
    monkeypatch.setenv("ENLARGER_DATA", str(home))
    return home


@pytest.mark.slow
@pytest.mark.runs("mini/self_cascade/tf", "mini/self_cascade/tuned")
def test_the_experiments(mini: Path, enlarger: Any) -> None:
    enlarger("test", "--config", FREE, *RUN, *FEW)
    found = json.loads(Path("runs/mini_self_cascade_tf/results.json").read_text())["results"]
    assert {entry["metric"] for entry in found} >= {"kid_thumb", "swd"}
    assert all(np.isfinite(entry["value"]) for entry in found)

    enlarger("fit", "--config", TUNED, *RUN, *FIT, *FEW)
    run = Path("runs/mini_self_cascade_tuned")
    stored = torch.load(run / "checkpoints/step-000000002.ckpt", weights_only=True)
    assert sum(tensor.numel() for tensor in stored["state_dict"].values()) == 1_932
    assert stored["cascade"]["ratio"] == 2.0
    assert stored["cascade"]["base"].startswith("runs/mini_diffusion_automobiles/")
    assert stored["frozen"] == {"denoiser": stored["cascade"]["base"]}
    enlarger("test", "--config", TUNED, *RUN, *FEW)
    assert json.loads((run / "results.json").read_text())["results"]

    # Images of nothing but their seeds, as many as one likes, and at another size.
    seeds = "datamodules.Seeds"
    asked = ("--data.init_args.predict", seeds, "--data.init_args.predict.init_args.count", 3)
    size = ("--data.init_args.predict.init_args.size", "[32,48]")
    enlarger("predict", "--config", TUNED, *RUN, *FEW, *asked, *size)
    files = sorted((run / "predict").glob("*.png"))
    assert [file.name for file in files] == ["000000.png", "000001.png", "000002.png"]
    pixels = [np.asarray(Image.open(file)) for file in files]
    assert all(image.shape == (32, 48, 3) for image in pixels)
    assert not np.array_equal(pixels[0], pixels[1])
