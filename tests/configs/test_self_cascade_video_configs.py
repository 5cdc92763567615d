"""The miniature of clips as a newcomer types it, made smaller."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.configs.shipped import PATHS, content
from tests.configs.test_casarbi_configs import differences
from tests.configs.test_self_cascade_configs import FEW, FIT, RUN
from tests.conftest import REPO

ROWS = ("direct", "scalecrafter", "tf", "tuned")
ALL = [f"mini/self_cascade_video/{name}" for name in ("base", *ROWS)]
FRAMES = tuple(
    word
    for part in ("train", "val.kodak", "test.kodak")
    for word in (f"--data.init_args.{part}.init_args.frames", "3")
)
ONE = tuple(
    word
    for part in ("val.kodak", "test.kodak")
    for word in (f"--data.init_args.{part}.init_args.per_image", "1")
)
SMALL = (*RUN, "--data.init_args.batch_size", "2", *FRAMES, *ONE)


def at(name: str) -> Path:
    return PATHS[f"experiment/mini/self_cascade_video/{name}.yaml"]


def model(name: str) -> Any:
    return content(at(name))["model"]["init_args"]


def test_rows_differ_in_what_they_are_called_after() -> None:
    base = content(REPO / "configs/model/diffusion_video_small.yaml")["init_args"]
    tuned = content(at("tuned"))
    rate = {"optimizer.init_args.lr", "lr_scheduler.init_args.final"}
    trains = {"optimizer", "lr_scheduler"}
    own = {"rank", "upsampler", "patch", "denoiser.init_args.flags.frozen", *rate, *trains}
    for name in ROWS:
        found, whole = model(name), content(at(name))
        assert found["denoiser"]["init_args"]["network"] == base["denoiser"]["init_args"]["network"]
        assert (found["schedule"], found["clamp"]) == (base["schedule"], base["clamp"])
        changed = differences(found, tuned["model"]["init_args"])
        assert {key for key in changed if not key.startswith("patch.")} <= own
        assert (whole["data"], whole["degradation"]) == (tuned["data"], tuned["degradation"])
        if "optimizer" in found:
            steps = whole["trainer"]["max_steps"]
            assert found["lr_scheduler"]["init_args"]["steps"] == steps
            assert {**whole, "model": 0} == {**tuned, "model": 0}


@pytest.fixture
def mini(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, enlarger: Any) -> Path:
    """A working directory with photographs, in which the base was trained, as shipped."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ENLARGER_DATA", str(tmp_path))
    for number, part in enumerate(("bsds400", "kodak24")):
        (tmp_path / part).mkdir()
        for image in range(2):
            generator = np.random.default_rng(2 * number + image)
            pixels = generator.integers(0, 256, (136, 144, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / part / f"{image}.png")
    enlarger("fit", "--config", at("base"), *SMALL, *FIT, "--model.init_args.sampler.steps", 2)
    return tmp_path


@pytest.mark.slow
@pytest.mark.runs(*ALL)
def test_the_experiments(mini: Path, enlarger: Any) -> None:
    free, trained = ("direct", "scalecrafter", "tf"), ("tuned",)
    for name in free:
        enlarger("test", "--config", at(name), *SMALL, *FEW)
    for name in trained:
        enlarger("fit", "--config", at(name), *SMALL, *FIT, *FEW)
        enlarger("test", "--config", at(name), *SMALL, *FEW)
    found = {}
    for name in (*free, *trained):
        run = Path(f"runs/mini_self_cascade_video_{name}")
        results = json.loads((run / "results.json").read_text())["results"]
        found[name] = {entry["metric"]: entry["value"] for entry in results}
        assert found[name].keys() >= {"frame_swd", "frame_kid_thumb", "flicker"}
        assert all(np.isfinite(value) for value in found[name].values())
    # Other ways to sample are other clips.
    assert len({found[name]["frame_swd"] for name in free}) == len(free)
    stored = torch.load(
        "runs/mini_self_cascade_video_tuned/checkpoints/step-000000002.ckpt", weights_only=True
    )
    assert sum(tensor.numel() for tensor in stored["state_dict"].values()) == 1_932
    assert stored["cascade"]["base"].startswith("runs/mini_self_cascade_video_base/")

    asked = ("--data.init_args.predict", "datamodules.Seeds")
    size = ("--data.init_args.predict.init_args.size", "32")
    count = ("--data.init_args.predict.init_args.count", 1)
    frames = ("--data.init_args.predict.init_args.frames", 3)
    config = at("tuned")
    enlarger("predict", "--config", config, *SMALL, *FEW, *asked, *size, *count, *frames)
    files = sorted(Path("runs/mini_self_cascade_video_tuned/predict").rglob("*.png"))
    assert len(files) == 3
