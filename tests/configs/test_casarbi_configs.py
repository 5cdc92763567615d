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
from tests.configs.shipped import PATHS, content

MINI = [name for name in PATHS if name.startswith("experiment/mini/casarbi/")]
PAPER = {"ffhq": 2, "lsun_bedroom": 2, "lsun_tower": 2, "df2k": 4}  # the factor of its stages
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


def small_liif(key: str) -> tuple[str, ...]:
    """Little of it, and as good as bicubic after a step, which a cascade demands of its base."""
    settings = {"blocks": "1", "channels": "8", "hidden": "[8]", "global_skip": "true"}
    return tuple(w for k, v in settings.items() for w in (f"--model.init_args.{key}.{k}", v))


def trained(run: str, steps: int) -> Any:
    return torch.load(f"runs/{run}/checkpoints/step-{steps:09}.ckpt", weights_only=True)


def mini(name: str) -> str:
    return f"experiment/mini/casarbi/{name}.yaml"


def differences(a: Any, b: Any, key: str = "") -> set[str]:
    """Keys under which two configurations differ."""
    if isinstance(a, dict) and isinstance(b, dict):
        parts = (differences(a.get(k), b.get(k), f"{key}.{k}") for k in a.keys() | b.keys())
        return set().union(*parts)
    return set() if a == b else {key.removeprefix(".")}


def test_schedules_end_with_the_run() -> None:
    steps = content("trainer/mini.yaml")["max_steps"]
    for name in MINI:
        schedule = content(name)["model"]["init_args"]["lr_scheduler"]["init_args"]
        assert steps in schedule.values(), name
    steps = content("trainer/casarbi.yaml")["max_steps"]
    cascade = content("experiment/casarbi.yaml")["model"]["init_args"]
    assert cascade["lr_scheduler"]["init_args"]["steps"] == steps


def test_every_cascade_stands_on_a_base_that_is_shipped() -> None:
    for name in [*MINI, *(name for name in PATHS if name.startswith("experiment/casarbi"))]:
        model = content(name)["model"]
        if isinstance(model, dict) and "base_weights" in model["init_args"]:
            run = model["init_args"]["base_weights"].removeprefix("runs/")
            base = run.removeprefix("mini_casarbi_")
            assert f"{name.rpartition('/')[0]}/{base}.yaml" in PATHS, name


@pytest.mark.slow
@pytest.mark.runs("mini/casarbi/base", "mini/casarbi/cascade")
def test_a_miniature_runs(enlarger: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On its base, which is trained first."""
    monkeypatch.chdir(tmp_path)
    enlarger("fit", "--config", PATHS[mini("base")], *RUN, *FIT, *NO_VALIDATION)
    cascade = ("--config", PATHS[mini("cascade")], *RUN, *SMALL_NETWORK)
    enlarger("fit", *cascade, *FIT, *NO_VALIDATION)
    stored = trained("mini_casarbi_cascade", 2)
    assert stored["frozen"]["base"].startswith("runs/mini_casarbi_base/")
    assert stored["state_dict"]["sigma_r"] > 0


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


@pytest.mark.runs("casarbi", "casarbi_base")
@pytest.mark.slow
@pytest.mark.parametrize(("name", "fixed"), PAPER.items())
def test_a_run_of_the_paper(
    name: str,
    fixed: int,
    enlarger: Any,
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A step of it and of its base, with the flags of the page, as small as can be."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ENLARGER_DATA", str(images))
    step = (*NO_VALIDATION, "--trainer.max_steps", 1, "--data.init_args.batch_size", 2)
    data = ("--data", PATHS[f"data/casarbi_{name}.yaml"])
    base = ("--config", PATHS["experiment/casarbi_base.yaml"], "--run.name", f"casarbi_{name}_base")
    enlarger("fit", *base, *data, *RUN, *small_liif("network"), *step)
    enlarger(
        *(
            "fit",
            "--config",
            PATHS["experiment/casarbi.yaml"],
            "--run.name",
            f"casarbi_{name}",
            *data,
        ),
        *("--model.init_args.base_weights", f"runs/casarbi_{name}_base"),
        *(
            "--model.init_args.stages.fixed",
            fixed,
            *RUN,
            *SMALL_NETWORK,
            *small_liif("base"),
            *step,
        ),
        *("--model.init_args.network.init_args.features", 8),
    )
    stored = trained(f"casarbi_{name}", 1)
    assert stored["frozen"]["base"].startswith(f"runs/casarbi_{name}_base/")
    assert stored["state_dict"]["sigma_r"] > 0
