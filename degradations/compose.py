"""Stages made of stages: applied sometimes, one of several, in any order; chosen per image."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from degradations.base import Stage, check_probability
from degradations.canvas import Canvas, select
from degradations.draws import Draws
from degradations.params import Params

Stages = list[Stage] | dict[str, Stage]


class Sometimes(Stage):
    """Apply a stage to some images.

    Args:
        stage: The stage.
        p: Probability, for each image, that it is applied.

    Raises:
        ValueError: ``p`` is no probability.
    """

    def __init__(self, stage: Stage, p: float = 0.5) -> None:
        super().__init__()
        self.stage, self.p = stage, check_probability(p, "p")
        self.resizes, self.waits = stage.resizes, stage.waits

    def draw(self, draws: Draws, shape: torch.Size) -> Params:
        """`applied` (B,) bool, and the stage's own parameters under `stage`."""
        applied = draws.bernoulli(self.p)
        return {"applied": applied, "stage": self.stage.draw(draws.fold("stage"), shape)}

    def prepare(self, params: Params) -> Params:
        """The stage's."""
        return {**params, "stage": self.stage.prepare(params["stage"])}

    def forward(self, x: Tensor, params: Params) -> Tensor:
        """(B, C, H, W), each image with or without the stage."""
        if len(x) == 1:
            return self.stage(x, params["stage"]) if params["applied"].item() else x
        return torch.where(params["applied"].view(-1, 1, 1, 1), self.stage(x, params["stage"]), x)

    def on_canvas(self, canvas: Canvas, params: Params) -> Canvas:
        """Both, and each picture from one of them; what is certain costs nothing."""
        if self.p in (0.0, 1.0):
            return self.stage.run_on_canvas(canvas, params["stage"]) if self.p else canvas
        return select(params["applied"], self.stage.run_on_canvas(canvas, params["stage"]), canvas)

    @property
    def alone(self) -> bool:
        """The stage's."""
        return self.stage.alone


class _Several(Stage):
    """What a stage has that chooses among others, or their order, by a parameter named `choice`."""

    choice = ""

    def __init__(self, stages: Stages) -> None:
        super().__init__()
        self.stages = nn.ModuleDict(named(stages, but=self.choice))
        self.resizes = any(stage.resizes for _, stage in self._named())
        self.waits = any(stage.waits for _, stage in self._named())

    @property
    def alone(self) -> bool:
        """Whether one of the stages is."""
        return any(stage.alone for _, stage in self._named())

    def _named(self) -> list[tuple[str, Stage]]:
        stages = cast("Iterable[Stage]", self.stages.values())  # ModuleDict forgets the type
        return list(zip(self.stages, stages, strict=True))

    def _draw_each(self, draws: Draws, shape: torch.Size) -> Params:
        return {name: stage.draw(draws.fold(name), shape) for name, stage in self._named()}

    def prepare(self, params: Params) -> Params:
        """The stages'."""
        return {**params, **{name: part.prepare(params[name]) for name, part in self._named()}}


class OneOf(_Several):
    """Apply one of several stages, each image its own.

    Args:
        stages: The stages, by name (the name is part of what they draw) or in a list.
        p: Their probabilities, in the same order; equal ones by default.

    Raises:
        ValueError: There is no stage, or ``p`` is not one probability for each, with sum 1.
    """

    choice = "which"

    def __init__(self, stages: Stages, p: Sequence[float] | None = None) -> None:
        super().__init__(stages)
        count = len(self.stages)
        self.p = check_probabilities(p if p is not None else [1 / max(count, 1)] * count, count)

    def draw(self, draws: Draws, shape: torch.Size) -> Params:
        """`which` (B,), the number of the stage, and every stage's parameters under its name."""
        which = draws.choice(np.arange(len(self.stages)), self.p)
        return {"which": which, **self._draw_each(draws, shape)}

    def forward(self, x: Tensor, params: Params) -> Tensor:
        """(B, C, H, W), each image by its stage."""
        named_stages = self._named()
        if len(x) == 1:
            name, stage = named_stages[int(params["which"].item())]
            return stage(x, params[name])
        y = x
        for number, (name, stage) in enumerate(named_stages):
            mask = (params["which"] == number).view(-1, 1, 1, 1)
            y = torch.where(mask, stage(x, params[name]), y)
        return y

    def on_canvas(self, canvas: Canvas, params: Params) -> Canvas:
        """All of them, and each picture from one."""
        (first, stage), *others = self._named()
        result = stage.run_on_canvas(canvas, params[first])
        for number, (name, stage) in enumerate(others, start=1):
            result = select(
                params["which"] == number, stage.run_on_canvas(canvas, params[name]), result
            )
        return result


class Shuffled(_Several):
    """Apply stages in an order that is drawn for each image.

    On a canvas every stage runs once for every place in the order, so its cost grows with the
    square of their number; picture by picture the order costs nothing.

    Args:
        stages: The stages, by name (the name is part of what they draw) or in a list.

    Raises:
        ValueError: There is no stage.
    """

    choice = "order"

    def __init__(self, stages: Stages) -> None:
        super().__init__(stages)
        if not self.stages:
            raise ValueError("stages is empty; expected one or more to shuffle")

    def draw(self, draws: Draws, shape: torch.Size) -> Params:
        """`order` (B, K): the numbers of the stages, first to last; and the stages' parameters."""
        keys = np.stack([draws.uniform() for _ in self.stages], axis=1)
        return {"order": np.argsort(keys, axis=1), **self._draw_each(draws, shape)}

    def forward(self, x: Tensor, params: Params) -> Tensor:
        """(B, C, H, W), each image in its own order."""
        named_stages = self._named()
        if len(x) == 1:
            for number in params["order"][0].tolist():
                name, stage = named_stages[number]
                x = stage(x, params[name])
            return x
        for place in range(len(named_stages)):
            y = x
            for number, (name, stage) in enumerate(named_stages):
                mask = (params["order"][:, place] == number).view(-1, 1, 1, 1)
                y = torch.where(mask, stage(x, params[name]), y)
            x = y
        return x

    def on_canvas(self, canvas: Canvas, params: Params) -> Canvas:
        """Every stage at every place, and each picture by its own order."""
        for place in range(len(self.stages)):
            result = canvas
            for number, (name, stage) in enumerate(self._named()):
                here = params["order"][:, place] == number
                result = select(here, stage.run_on_canvas(canvas, params[name]), result)
            canvas = result
        return canvas


def named(
    stages: Stages | Sequence[Stage] | Mapping[str, Stage], but: str = ""
) -> dict[str, Stage]:
    """Stages by the names of their streams.

    In a list, a stage is named by its class, and by its number among the stages of that class from
    the second on (`GaussianNoise`, `GaussianNoise#2`).

    Args:
        stages: The stages.
        but: A name that none may have, because a parameter beside theirs has it.

    Raises:
        ValueError: a name cannot be one.
        TypeError: one of them is no stage.
    """
    pairs: list[tuple[str, Stage]]
    if isinstance(stages, Mapping):
        pairs = list(stages.items())
    else:
        pairs = []
        for stage in stages:
            kind = type(stage).__name__
            earlier = sum(type(other).__name__ == kind for _, other in pairs)
            pairs.append((kind if not earlier else f"{kind}#{earlier + 1}", stage))
    for position, (name, stage) in enumerate(pairs):
        if not isinstance(stage, Stage):
            place = name if isinstance(stages, Mapping) else position
            raise TypeError(
                f"stages[{place}] is {type(stage).__name__}; expected a Stage such as "
                "degradations.noise.GaussianNoise (degradation.init_args.stages)"
            )
        if not name or "." in name:
            raise ValueError(f"a stage is named {name!r}; expected a name without a dot")
        if name == but or hasattr(nn.ModuleDict, name):  # such as `values`: torch refuses it
            raise ValueError(f"a stage is named {name!r}, which is taken; choose another name")
    return dict(pairs)


def check_probabilities(p: Sequence[float], count: int, name: str = "p") -> tuple[float, ...]:
    """Probabilities of `count` things, checked.

    Raises:
        ValueError: they are not one for each, none negative, with sum 1.
    """
    if count < 1 or len(p) != count or not min(p) >= 0.0 or not abs(sum(p) - 1.0) <= 1e-6:
        total = f" (it is {sum(p):g})" if p else ""
        raise ValueError(
            f"{name} is {list(p)}; expected {count} probabilities, none negative, with sum 1{total}"
        )
    return tuple(float(value) for value in p)
