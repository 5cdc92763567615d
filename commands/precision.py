"""A precision that a method cannot compute in: torch's words on it with the key and the mend."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from lightning.pytorch import LightningModule, Trainer

from commands.errors import ConfigurationError

# By the precisions in which all weights are converted, what to take instead, and torch's words for
# the type.
INSTEAD = {"bf16-true": "bf16-mixed", "16-true": "16-mixed", "64-true": "32"}
TYPES = {"bf16-true": r"BFloat16", "16-true": r"\bHalf|float16", "64-true": r"[Dd]ouble|float64"}
# What torch says of an operation on numbers of two types, or of one that it has not.
_MIXED = re.compile(
    r"type .* should be the same|same dtype|scalar types?\b|dtypes? match|not implemented for '"
)


@contextmanager
def telling_of_precision(trainer: Trainer, model: LightningModule) -> Iterator[None]:
    """Have an error of two types of numbers name ``trainer.precision``, where that is its cause.

    Images are float32, and so is what a method computes from them: with weights of another type
    some methods convert them, as NSARM does, and others do not. Which can depends on their parts,
    a user's network among them, so it is found by the first step and not known beforehand.

    Args:
        trainer: About to run.
        model: What it runs.

    Raises:
        ConfigurationError: The method cannot compute in that precision.
    """
    try:
        yield
    except RuntimeError as error:
        precision = str(trainer.precision)
        said = str(error)
        if (
            precision not in INSTEAD
            or not _MIXED.search(said)
            or not re.search(TYPES[precision], said)
        ):
            raise  # of other types, or of something else: it would be there in any precision
        raise ConfigurationError(
            f"trainer.precision is {precision}, in which {type(model).__name__} with these parts "
            f"cannot compute ({' '.join(said.split())}): set it to {INSTEAD[precision]}"
        ) from error
