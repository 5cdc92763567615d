"""The best checkpoint follows the direction of its metric."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from lightning.pytorch import Callback, LightningModule, Trainer

from tests.commands.run.test_checkpoints import ranking

Enlarger = Callable[..., None]
ON_SWD = '{"class_path": "callbacks.SWD", "init_args": {"levels": 1}}'
PATCH_GAN = '{"class_path": "lightning_modules.PatchGAN", "init_args": {"width": 4, "layers": 1}}'
MEASURED = (
    *("--trainer.max_steps", 4),
    *("--trainer.val_check_interval", 1, "--trainer.callbacks+", ON_SWD),
)
FIT: tuple[object, ...] = ("fit", "--config", "tiny.yaml", *MEASURED)
RANKED = ("--checkpoint.monitor", "val/swd", "--checkpoint.keep_last", 4)


class Score(Callback):
    """Log a value of unknown direction: 1, 9, 0, 8."""

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.sanity_checking:
            pl_module.log("val/score", float([1, 9, 0, 8][trainer.global_step - 1]))


def test_a_run_that_keeps_no_best_forgets_an_earlier_one(trained: Path, enlarger: Enlarger) -> None:
    assert ranking()["best"]
    other = ("--checkpoint.keep_best", 0, "--tiling.size", 8, "--run.change", "true")
    enlarger("fit", "--config", "tiny.yaml", *other, "--trainer.max_steps", 15)
    assert ranking()["best"] == []


@pytest.mark.parametrize("monitor", ["val/swd", "val/psnr"])
def test_the_best_follows_from_the_metric(fitted: Callable[..., Path], monitor: str) -> None:
    fitted(*MEASURED, "--checkpoint.monitor", monitor, *RANKED[2:])
    found, mode = ranking(), "min" if monitor == "val/swd" else "max"
    assert len(found["scores"]) == 4
    values = {name: score["value"] for name, score in found["scores"].items()}
    best = (max if mode == "max" else min)(values, key=values.get)
    assert (found["mode"], found["best"]) == (mode, [best])


def test_a_value_of_unknown_direction(
    tiny: Path, enlarger: Enlarger, caplog: pytest.LogCaptureFixture
) -> None:
    score = ("--trainer.callbacks+", f"{__name__}.Score", "--checkpoint.monitor", "val/score")
    enlarger(*FIT, *score)
    assert [name[5:14] for name in ranking()["best"]] == ["000000002"]
    message = [r for r in caplog.records if "set checkpoint.mode to max or min" in r.getMessage()]
    assert len(message) == 1
    caplog.clear()
    enlarger(*FIT, *score, "--checkpoint.mode", "min", "--run.overwrite", "true")
    assert [name[5:14] for name in ranking()["best"]] == ["000000003"]
    assert "set checkpoint.mode" not in caplog.text


def test_a_gan_is_used_with_its_last_weights(tiny: Path, enlarger: Enlarger) -> None:
    gan = ("--model", "lightning_modules.RealESRGAN", "--model.discriminator", PATCH_GAN)
    kept = {(): 0, ("--checkpoint.monitor", "val/swd"): 1, ("--checkpoint.keep_best", 1): 1}
    for options, count in kept.items():
        enlarger(*FIT, *gan, *options, "--run.overwrite", "true")
        assert len(ranking()["best"]) == count
