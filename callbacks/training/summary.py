"""The model's parts and their parameters, logged when training starts."""

from __future__ import annotations

import logging
from typing import Any

from lightning.pytorch.callbacks import ModelSummary
from lightning.pytorch.utilities.model_summary.model_summary import (
    get_human_readable_count as readable,
)

log = logging.getLogger(__name__)


class Summary(ModelSummary):
    """Log the parts of the model with their parameters; FLOPs only where they were counted.

    Lightning counts FLOPs if the model has an ``example_input_array``; its own summary shows 0
    where it has none.

    Args:
        max_depth: Levels of nested modules to list.
        kwargs: As in Lightning's ``ModelSummary``.
    """

    def __init__(self, max_depth: int = 1, **kwargs: Any) -> None:
        super().__init__(max_depth, **kwargs)

    @staticmethod
    def summarize(
        summary_data: list[tuple[str, list[str]]],
        total_parameters: int,
        trainable_parameters: int,
        model_size: float,
        total_training_modes: dict[str, int],
        total_flops: int,
        **summarize_kwargs: Any,
    ) -> None:
        """Log the table and its sums. The arguments are Lightning's; the size is in megabytes."""
        shown = [pair for pair in summary_data if total_flops or pair[0] != "FLOPs"]
        columns = [[name.strip(), *values] for name, values in shown]
        widths = [max(map(len, column)) for column in columns]
        rows = [
            "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in zip(*columns, strict=True)
        ]
        sums = f"{readable(total_parameters).strip()} parameters ({model_size:,.1f} MB)"
        if trainable_parameters < total_parameters:
            sums += f", {readable(trainable_parameters).strip()} of them trained"
        flops = [f"{readable(total_flops).strip()} FLOPs"] if total_flops else []
        log.info("%s", "\n".join([*rows, ", ".join([sums, *flops])]))
