"""``--run.seeds``: repeat an evaluation with several noise seeds of a stochastic method."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from lightning.pytorch import Trainer

from callbacks.evaluation import all_callbacks
from callbacks.results import Results
from lightning_modules.image_model import ImageModel

log = logging.getLogger(__name__)


def evaluate_seeds(
    trainer: Trainer, model: ImageModel, seeds: Sequence[int], evaluate: Callable[[], object]
) -> None:
    """Evaluate once for each seed; only once for a method that draws no noise.

    LR images are the same each time: they follow from ``data.init_args.degradation_seed``. The
    evaluation of seed ``n`` equals that of ``--seed_everything n`` bit for bit.

    Args:
        trainer: The trainer, whose ``Results`` collect the evaluations.
        model: The model to evaluate.
        seeds: At least one seed.
        evaluate: Runs ``validate`` or ``test`` once.
    """
    results = [c for c in all_callbacks(trainer) if isinstance(c, Results)]
    for keeper in results:
        keeper.repeats = len(seeds)
    for number, seed in enumerate(seeds, start=1):
        if len(seeds) > 1:
            log.info("seed %d (%d of %d)", seed, number, len(seeds))
        model.noise_seed = seed
        evaluate()
        if len(seeds) > 1 and not any(keeper.drew_noise for keeper in results):
            log.warning(
                "run.seeds is %d, but %s drew no noise: all seeds give the same result, so it was "
                "evaluated once",
                *(len(seeds), type(model).__name__),
            )
            return
