"""InvSR's experiments: its miniature as a newcomer types it, its paper's run, and its test sets."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import main
from lightning_modules.networks.autoencoders import taef2_decoder, taef2_encoder
from tests.configs.blurred import save
from tests.configs.shipped import PATHS, content
from tests.conftest import REPO

Enlarger = Callable[..., None]
CONFIGS = REPO / "configs"
EXPERIMENTS = CONFIGS / "experiment"
RUN = (
    *("--trainer.accelerator", "cpu", "--trainer.devices", "1", "--trainer.logger", "false"),
    *("--trainer.enable_progress_bar", "false", "--data.init_args.workers", "0"),
)
STEPS = ("--trainer.max_steps", "2", "--data.init_args.batch_size", "2")
FIT = (
    *STEPS,
    *("--trainer.val_check_interval", "2", "--data.init_args.eval_batch_size", "1"),
    *("--trainer.limit_val_batches", "1", "--trainer.num_sanity_val_steps", "0"),
)
PAPER = EXPERIMENTS / "invsr_sd_turbo.yaml"


def at(name: str) -> Path:
    return PATHS[f"experiment/mini/{name}.yaml"]


# ----------------------------------------------------------------------------------- the miniature


@pytest.fixture(scope="module")
def _mini(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which latents were written and the base was trained, as shipped."""
    folder = tmp_path_factory.mktemp("mini")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        torch.save(taef2_encoder().state_dict(), folder / "taef2_encoder.pth")
        torch.save(taef2_decoder().state_dict(), folder / "taef2_decoder.pth")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("ENLARGER_WEIGHTS", str(folder))
        patch.setenv("ENLARGER_DATA", str(folder))
        for number in range(4):
            save(folder / f"bsds400/{number}.png", (96, 80), number)
        typed(at("invsr/latents"), *RUN, "--encode.crops_per_image", "1")
        typed(at("invsr/base"), *RUN, *STEPS)
    return folder


@pytest.fixture
def mini(_mini: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """It as the working directory."""
    monkeypatch.chdir(_mini)
    monkeypatch.setenv("ENLARGER_WEIGHTS", str(_mini))
    monkeypatch.setenv("ENLARGER_DATA", str(_mini))
    return _mini


def typed(path: Path, *more: str) -> None:
    """Run the command in a file's first line, with more behind it."""
    _, script, *words = shlex.split(path.read_text().splitlines()[0].removeprefix("# "))
    assert script == "main.py"
    main.main([str(REPO / word) if word.endswith(".yaml") else word for word in words] + [*more])


@pytest.mark.slow
def test_the_miniature_is_tested(
    mini: Path, enlarger: Enlarger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENLARGER_DATA", str(mini / "data"))
    for folder in ("set14/x4/hr", "kodak24"):
        save(mini / "data" / folder / "image.png", (192, 192))
    if not Path("runs/mini_invsr").is_dir():
        typed(at("invsr"), *RUN, *FIT)
    enlarger(
        *("test", "--config", at("invsr"), *RUN, "--model.init_args.sampling.steps", 3),
        *("--trainer.limit_test_batches", 1),
    )
    found = json.loads(Path("runs/mini_invsr/results.json").read_text())["results"]
    assert {entry["dataset"] for entry in found} == {"set14", "kodak"}
    assert all(np.isfinite(entry["value"]) for entry in found)


# ------------------------------------------------------------------------------------- the paper


def test_the_constants_of_the_paper() -> None:
    """Section 8 of its description; those that the classes have by default are tested there."""
    run, data = content(PAPER), content(CONFIGS / "data/invsr_train.yaml")["init_args"]
    assert run["trainer"]["max_steps"] == 100_000
    assert run["model"]["init_args"]["lr_scheduler"]["init_args"] == {
        "warm_up": 2000,
        "released": True,
    }
    averaged = {"class_path": "callbacks.EMA", "init_args": {"first": 1}}
    quality = content(CONFIGS / "callbacks/paper.yaml")
    assert run["trainer"]["callbacks"] == [
        averaged if callback == "callbacks.EMA" else callback for callback in quality
    ]
    assert (data["scale"], data["batch_size"], data["crop_size"]) == (4, 64, 512)
    assert data["crops"]["flips"] is False  # which would transpose, too
