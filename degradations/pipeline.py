"""Pipeline: a list of stages, then the exact LR size and 8-bit rounding."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import cast

import torch
from torch import Tensor, nn

from degradations.base import Degradation, Stage, quantize_8bit
from degradations.bicubic import resize
from degradations.draws import Draws
from degradations.params import Params


class Pipeline(Degradation):
    """Apply stages in order, clamp what they leave, and shrink it to the LR's size.

    Each stage draws from streams named by its class, and by its number among the stages of that
    class from the second on (`GaussianNoise`, `GaussianNoise#2`). So adding, removing or moving a
    stage leaves what the others draw as it was; of several stages of one class only their order
    among themselves counts, and an added one leaves the others alone when it comes after them.

    Args:
        scale: How many times smaller the LR is; any positive number. Linked to
            data.init_args.scale.
        stages: The steps, first to last, at the size of the HR unless they resize. An empty list
            leaves the bicubic degradation.
        quantize: Round the LR to 8 bits, as a file of it would be.

    Raises:
        TypeError: an entry of `stages` is no stage.
    """

    def __init__(self, scale: float, stages: list[Stage], quantize: bool = True) -> None:
        super().__init__(scale)
        for position, stage in enumerate(stages):
            if not isinstance(stage, Stage):
                raise TypeError(
                    f"stages[{position}] is {type(stage).__name__}; expected a Stage such as "
                    "degradations.noise.GaussianNoise (degradation.init_args.stages)"
                )
        self.stages = nn.ModuleList(stages)
        self.names = _stream_names(stages)
        self.quantize = quantize

    def draw(self, draws: Draws, shape: torch.Size) -> Params:
        """One entry a stage, under its stream's name."""
        return {name: stage.draw(draws.fold(name), shape) for name, stage in self._named_stages()}

    def degrade(self, hr: Tensor, params: Params) -> Tensor:
        """Run the stages, then resize: (B, 3, H, W) to (B, 3, *lr_size((H, W)))."""
        x = hr
        for name, stage in self._named_stages():
            x = stage(x, params[name])
            self.check_output(name, x, len(hr))
        lr = resize(x.clamp(0.0, 1.0), self.lr_size(hr.shape[-2:]))
        return quantize_8bit(lr) if self.quantize else lr

    def _named_stages(self) -> list[tuple[str, Stage]]:
        stages = cast("Iterable[Stage]", self.stages)  # ModuleList forgets the type
        return list(zip(self.names, stages, strict=True))


def _stream_names(stages: list[Stage]) -> list[str]:
    seen: Counter[str] = Counter()
    names = []
    for stage in stages:
        name = type(stage).__name__
        seen[name] += 1
        names.append(name if seen[name] == 1 else f"{name}#{seen[name]}")
    return names
