"""InvSR's experiment of its paper."""

from __future__ import annotations

from tests.configs.shipped import content
from tests.conftest import REPO

CONFIGS = REPO / "configs"
PAPER = CONFIGS / "experiment" / "invsr_sd_turbo.yaml"


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
