"""Count and name outputs with pixels that are not finite."""

from __future__ import annotations

import logging
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from callbacks.evaluation import EvaluationCallback, Stage, evaluated_datasets, output_image
from callbacks.finite_pixels import are_finite
from callbacks.processes import gather

log = logging.getLogger(__name__)

SHOWN = 5  # images in a message


class FiniteOutputs(EvaluationCallback):
    """Count and name the outputs with pixels that are NaN or infinite.

    In ``validate``, ``test`` and the validations of ``fit``, once for each dataset, over all
    processes. Their numbers are NaN, and so are the means. Nothing waits for the device before the
    end of an evaluation.

    Args:
        strict: Fail if there are any, after the evaluation, whose numbers are stored first.

    Raises:
        ValueError: If there are any and ``strict`` is set.
    """

    def __init__(self, strict: bool = False) -> None:
        super().__init__()
        self.strict = strict
        self.found: dict[str, list[str]] = {}  # keys by dataset, of the latest evaluation
        self._seen: list[tuple[int, list[str], Tensor]] = []  # dataset, keys, whether finite
        self._problem = ""

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop training if an output is not finite and ``strict`` is set."""
        if trainer.state.fn == TrainerFn.FITTING:
            self._refuse()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Fail the command likewise; all other callbacks are done by now."""
        if stage in ("validate", "test"):
            self._refuse()

    def _start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._seen, self.found = [], {}

    def _add(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        dataloader_idx: int,
    ) -> None:
        if trainer.sanity_checking or outputs is None:  # or a model without image outputs
            return
        self._seen.append((dataloader_idx, batch["key"], are_finite(output_image(outputs))))

    def _finish(self, trainer: Trainer, pl_module: LightningModule, stage: Stage) -> None:
        if trainer.sanity_checking:
            return
        mine = [
            (dataset, key)
            for dataset, keys, finite in self._seen
            for key, sound in zip(keys, finite.tolist(), strict=True)
            if not sound
        ]
        self._seen = []
        everyones = {found for part in gather(mine) for found in part}
        datasets, lines = evaluated_datasets(trainer), []
        for number, dataset in enumerate(datasets):
            keys = sorted(key for place, key in everyones if place == number)
            if keys:
                self.found[dataset.name] = keys
                shown = ", ".join(keys[:SHOWN]) + (", ..." if len(keys) > SHOWN else "")
                lines.append(f"{len(keys)} of the {len(dataset.keys)} of {dataset.name} ({shown})")
        self._problem = f"outputs with pixels that are NaN or infinite: {'; '.join(lines)}"
        if lines and trainer.is_global_zero:
            log.warning("%s; so their numbers are not finite either", self._problem)

    def _refuse(self) -> None:
        if self.strict and self.found:
            raise ValueError(f"{self._problem}; FiniteOutputs.strict allows none")
