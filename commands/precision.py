"""Explain torch's errors of mixed number types by ``trainer.precision``."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from lightning.pytorch import LightningModule, Trainer

from commands.errors import ConfigurationError

# For precisions that convert all weights: the alternative, and the type in torch's messages.
INSTEAD = {"bf16-true": "bf16-mixed", "16-true": "16-mixed", "64-true": "32"}
TYPES = {"bf16-true": r"BFloat16", "16-true": r"\bHalf|float16", "64-true": r"[Dd]ouble|float64"}
# torch's messages for operations on two number types, and for missing operations.
_MIXED = re.compile(
    r"type .* should be the same|same dtype|scalar types?\b|dtypes? match|not implemented for '"
)


@contextmanager
def explained_precision(trainer: Trainer, model: LightningModule) -> Iterator[None]:
    """Make errors of mixed number types name ``trainer.precision``, if that is the cause.

    Images are float32. With weights of another type some methods convert them, as NSARM does, and
    others do not. It depends on their parts, which may be a user's network, so only the first step
    shows it.

    Args:
        trainer: The trainer, before it runs.
        model: The model that it runs.

    Raises:
        ConfigurationError: If the method cannot compute in that precision.
    """
    try:
        yield
    except RuntimeError as error:
        precision = str(trainer.precision)
        text = str(error)
        if (
            precision not in INSTEAD
            or not _MIXED.search(text)
            or not re.search(TYPES[precision], text)
        ):
            raise  # not about this precision
        raise ConfigurationError(
            f"trainer.precision is {precision}, in which {type(model).__name__} with these parts "
            f"cannot compute ({' '.join(text.split())}): set it to {INSTEAD[precision]}"
        ) from error
