"""LPIPS of latents is learnt from judgements, by the shipped experiment, and loads as a loss."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from PIL import Image
from torch import Tensor, nn

from lightning_modules.backbone.space import PixelSpace
from lightning_modules.first_stage.latent_perceptual import LatentPerceptual, Ranking, agreement
from lightning_modules.networks.latent_lpips import VGG16, LatentLPIPS
from tests.conftest import REPO

Enlarger = Callable[..., None]
EXPERIMENT = REPO / "configs/experiment/latent_lpips.yaml"
HERE = "tests.lightning_modules.first_stage.test_latent_perceptual"
WIDTHS = (8, 8, 8, 8, 8)
SMALL = (
    *("--model.init_args.space", "lightning_modules.PixelSpace"),
    *("--model.init_args.widths", list(WIDTHS), "--model.init_args.vgg16", "null"),
    *("--model.init_args.optimizer", "torch.optim.Adam"),
    *("--model.init_args.optimizer.init_args.lr", 3e-3),
    *("--model.init_args.lr_scheduler", "null"),
    *("--data.init_args.crop_size", 16, "--data.init_args.batch_size", 16),
    *("--data.init_args.eval_batch_size", 8, "--data.init_args.workers", 0),
    *("--trainer.accelerator", "cpu", "--trainer.devices", 1, "--trainer.logger", "false"),
    *("--trainer.enable_progress_bar", "false", "--trainer.log_every_n_steps", 1),
    *("--trainer.num_sanity_val_steps", 0, "--trainer.callbacks", f"{HERE}.Losses"),
)


class Losses(Callback):
    """Keeps the loss of every step."""

    found: list[float] = []  # noqa: RUF012  (of the latest run; made anew by each test)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.found.append(float(outputs["loss"]))


def write_bapps(root: Path, count: int) -> None:
    """Smooth references, one distortion weak and one strong; all people choose the weak one."""
    generator = np.random.default_rng(0)
    for part in ("ref", "p0", "p1", "judge"):
        (root / part).mkdir(parents=True)
    for number in range(count):
        blocks = generator.integers(60, 190, (3, 3, 3), dtype=np.uint8)
        ref = np.asarray(Image.fromarray(blocks).resize((16, 16), Image.Resampling.BICUBIC))
        second_is_weak = number % 2
        for part, strong in (("ref", None), ("p0", second_is_weak), ("p1", not second_is_weak)):
            level = 0 if strong is None else 40 if strong else 5
            pixels = np.clip(ref + generator.normal(0, level, ref.shape), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(root / part / f"{number:06}.png")
        np.save(root / "judge" / f"{number:06}.npy", np.array([second_is_weak], np.float32))


@pytest.fixture
def bapps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ENLARGER_DATA", str(tmp_path))
    write_bapps(tmp_path / "2afc/train/made", 64)
    write_bapps(tmp_path / "2afc/val/made", 16)
    monkeypatch.setattr(Losses, "found", [])
    return tmp_path


def model(**arguments: Any) -> LatentPerceptual:
    torch.manual_seed(0)
    settings = {"space": PixelSpace(), "widths": WIDTHS, "vgg16": None, **arguments}
    return LatentPerceptual(1.0, **settings)


def batch(count: int = 4) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    ref, p0, p1 = torch.rand(3, count, 3, 8, 8, generator=generator).unbind(0)
    return {"ref": ref, "p0": p0, "p1": p1, "judge": torch.linspace(0, 1, count)}


# ----------------------------------------------------------------------------------- the experiment


@pytest.mark.slow
@pytest.mark.runs("latent_lpips")
def test_the_shipped_experiment(
    bapps: Path, enlarger: Enlarger, caplog: pytest.LogCaptureFixture
) -> None:
    """It runs, its loss falls, it agrees with people in the end, and its run is a loss."""
    config = ("--config", EXPERIMENT)
    enlarger("fit", *config, *SMALL, "--trainer.max_steps", 60, "--trainer.val_check_interval", 20)
    losses = Losses.found
    assert len(losses) == 60
    assert np.mean(losses[-10:]) < 0.7 * np.mean(losses[:10])
    checkpoints = bapps / "runs/latent_lpips/checkpoints"
    ranking = json.loads((checkpoints / "best.json").read_text())
    assert ranking["monitor"] == "val/2afc"
    best = torch.load(checkpoints / ranking["best"][0], weights_only=True)
    assert not any(name.startswith("space.") for name in best["state_dict"])
    assert all(
        (tensor >= 0).all() for name, tensor in best["state_dict"].items() if "network.lin" in name
    )

    metric = LatentLPIPS(channels=3, widths=WIDTHS)
    metric.load(checkpoints / ranking["best"][0])
    ref = torch.rand(8, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1
    noise = torch.randn(ref.shape, generator=torch.Generator().manual_seed(2))
    weak, strong = (metric(ref, ref + level * noise) for level in (0.04, 0.3))
    assert (weak < strong).float().mean() > 0.9

    caplog.clear()
    with caplog.at_level("INFO", "lightning_modules"):
        enlarger("validate", *config, *SMALL)
    score = next(message for message in caplog.messages if message.startswith("val/2afc: "))
    assert float(score.split("2afc: ")[1]) > 0.9


# -------------------------------------------------------------------------------------- what it is


def test_the_distances_are_those_of_the_network() -> None:
    trained, given = model().eval(), batch()
    found = trained.distances(given)  # type: ignore[arg-type]
    for distance, part in zip(found, ("p0", "p1"), strict=True):
        expected = trained.network(given["ref"] * 2 - 1, given[part] * 2 - 1)
        torch.testing.assert_close(distance, expected)


def test_agreement_of_people_and_distances() -> None:
    near, far = torch.tensor([1.0, 2.0, 1.0]), torch.tensor([2.0, 1.0, 1.0])
    judge = torch.tensor([0.25, 0.75, 1.0])  # the last ones are equally far
    assert agreement(near, far, judge).tolist() == [0.75, 0.75, 0.5]


def test_the_ranking_sees_both_and_their_ratios() -> None:
    seen: list[Tensor] = []
    ranking = Ranking()
    ranking.layers[0].register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    assert ranking(torch.tensor([0.4, 0.1]), torch.tensor([0.9, 0.1])).shape == (2,)
    expected = torch.tensor([[0.4, 0.9, -0.5, 0.4, 1.8], [0.1, 0.1, 0.0, 0.5, 0.5]])
    torch.testing.assert_close(seen[0], expected)


def test_it_begins_with_vgg16(tmp_path: Path) -> None:
    state, before = {}, 3
    layers = (0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28)
    for width, numbers in zip(VGG16, layers, strict=True):
        for number in numbers:
            state[f"features.{number}.weight"] = torch.full((width, before, 3, 3), 0.01)
            state[f"features.{number}.bias"] = torch.zeros(width)
            before = width
    torch.save(state, tmp_path / "vgg16.pth")
    asked = []

    def find(argument: str, name: str) -> Path:
        asked.append((argument, name))
        return tmp_path / "vgg16.pth"

    with torch.device("meta"):
        whole = model(widths=VGG16, vgg16="vgg16")
    whole.network = whole.network.to_empty(device="cpu")
    whole.load_parts(find)
    assert asked == [("vgg16", "vgg16")]
    assert all(
        (layer.weight == 0.01).all()
        for layer in whole.network.net.modules()
        if isinstance(layer, nn.Conv2d)
    )
    with pytest.raises(ValueError, match=r"vgg16\.pth and of LPIPS do not fit .* of another shape"):
        model(vgg16="vgg16").load_parts(find)
