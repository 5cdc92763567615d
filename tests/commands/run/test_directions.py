"""Everything that monitors a value follows the direction of its metric."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Callback, LightningModule, Trainer

from callbacks.metrics.base import Metric
from callbacks.metrics.iqa import FILES as IQA_FILES
from callbacks.metrics.iqa import IQA
from callbacks.metrics.pixels import PSNR
from callbacks.metrics.swd import SWD
from callbacks.metrics.torchmetric import TorchMetric
from commands.errors import ConfigurationError
from commands.run.checkpoints import Checkpoints
from commands.run.directions import KNOWN, check_directions, direction_of
from tests.commands.run.test_checkpoints import ranking
from tests.contracts.discovery import concrete_subclasses

Enlarger = Callable[..., None]
ON_SWD = '{"class_path": "callbacks.SWD", "init_args": {"levels": 1}}'
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


@pytest.mark.parametrize("monitor", ["val/swd", "val/psnr"])
def test_the_best_follows_from_the_metric(fitted: Callable[..., Path], monitor: str) -> None:
    fitted(*MEASURED, "--checkpoint.monitor", monitor, *RANKED[2:])
    found, mode = ranking(), "min" if monitor == "val/swd" else "max"
    assert len(found["scores"]) == 4
    best = (max if mode == "max" else min)(found["scores"], key=found["scores"].get)
    assert (found["mode"], found["best"]) == (mode, [best])


@pytest.mark.parametrize(
    ("monitor", "mode"),
    [("val/swd", "max"), ("val/psnr", "min"), ("train/loss", "max"), ("val/loss", "max")],
)
def test_a_mode_against_the_metric(monitor: str, mode: Any) -> None:
    message = refused(Checkpoints(monitor=monitor, mode=mode))
    better = "lower" if mode == "max" else "higher"
    assert message == (
        f"checkpoint monitors {monitor} with mode {mode}, but {better} values of {monitor} are "
        "better: remove checkpoint.mode"
    )


def refused(callback: Callback) -> str:
    """Return the reason why training with a callback and the metrics of `FIT` is refused."""
    trainer = Trainer(accelerator="cpu", logger=False, callbacks=[PSNR(), SWD(levels=1), callback])
    with pytest.raises(ConfigurationError) as raised:
        check_directions(trainer)
    return str(raised.value)


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


# ------------------------------------------------------------------------ directions of names


def test_names_agree_with_the_metrics() -> None:
    found = concrete_subclasses(Metric, "callbacks")
    metrics = [m for m in found if m not in (IQA, TorchMetric)]  # named after what they hold
    assert len(metrics) > 15
    for metric in [*metrics, *map(IQA, IQA_FILES)]:
        assert KNOWN.get(metric.name) == ("max" if metric.higher_is_better else "min"), metric.name


@pytest.mark.parametrize(
    ("name", "direction"),
    [
        *(("val/set5/psnr", "max"), ("val/a/b/swd_3", "min"), ("val_psnr", "max")),
        *(("val/psnr/dataloader_idx_1", "max"), ("train/loss_step", "min"), ("val/my_loss", "min")),
        *(("val/kid_std", None), ("val/score", None), ("eval/psnr", "max"), ("lr-Adam", None)),
    ],
)
def test_of_a_name(name: str, direction: str | None) -> None:
    assert direction_of(name) == direction
