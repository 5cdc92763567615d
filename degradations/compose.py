"""Stages made of other stages: Sometimes, OneOf, Shuffled, Mixture."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from degradations.base import Canvas, Degradation, Stage, check_images, check_probability, select
from degradations.draws import Draws, Integers, Params, to_device

Stages = list[Stage] | dict[str, Stage]


class Sometimes(Stage):
    """Apply a stage to some images.

    Args:
        stage: The stage.
        p: Probability that the stage is applied to an image.

    Raises:
        ValueError: ``p`` is not a probability.
    """

    def __init__(self, stage: Stage, p: float = 0.5) -> None:
        super().__init__()
        self.stage, self.p = stage, check_probability(p, "p")
        self.resizes, self.waits = stage.resizes, stage.waits

    def draw(self, draws: Draws, shape: torch.Size) -> Params:
        """Draw `applied` (B,) bool, and the parameters of the stage under `stage`."""
        applied = draws.bernoulli(self.p)
        return {"applied": applied, "stage": self.stage.draw(draws.fold("stage"), shape)}

    def prepare(self, params: Params) -> Params:
        """Prepare the parameters of the stage."""
        return {**params, "stage": self.stage.prepare(params["stage"])}

    def forward(self, x: Tensor, params: Params) -> Tensor:
        """Apply the stage to some images of (B, C, H, W)."""
        if len(x) == 1:
            return self.stage(x, params["stage"]) if params["applied"].item() else x
        return torch.where(params["applied"].view(-1, 1, 1, 1), self.stage(x, params["stage"]), x)

    def on_canvas(self, canvas: Canvas, params: Params) -> Canvas:
        """Apply the stage to all images, then select; `p` of 0 or 1 needs no selection."""
        if self.p in (0.0, 1.0):
            return self.stage.run_on_canvas(canvas, params["stage"]) if self.p else canvas
        return select(params["applied"], self.stage.run_on_canvas(canvas, params["stage"]), canvas)

    @property
    def alone(self) -> bool:
        """Whether the stage gets images one by one."""
        return self.stage.alone


class _Several(Stage):
    """Base of stages that draw which of several stages apply, or their order, as `choice`."""

    choice = ""

    def __init__(self, stages: Stages) -> None:
        super().__init__()
        self.stages = nn.ModuleDict(name_stages(stages, but=self.choice))
        self.resizes = any(stage.resizes for _, stage in self._named())
        self.waits = any(stage.waits for _, stage in self._named())

    @property
    def alone(self) -> bool:
        """Whether any of the stages gets images one by one."""
        return any(stage.alone for _, stage in self._named())

    def _named(self) -> list[tuple[str, Stage]]:
        stages = cast("Iterable[Stage]", self.stages.values())  # ModuleDict forgets the type
        return list(zip(self.stages, stages, strict=True))

    def _draw_each(self, draws: Draws, shape: torch.Size) -> Params:
        return {name: stage.draw(draws.fold(name), shape) for name, stage in self._named()}

    def prepare(self, params: Params) -> Params:
        """Prepare the parameters of the stages."""
        return {**params, **{name: part.prepare(params[name]) for name, part in self._named()}}


class OneOf(_Several):
    """Apply one of several stages, chosen per image.

    Args:
        stages: The stages, by name (which names their random stream) or in a list.
        p: Their probabilities, in the same order; equal by default.

    Raises:
        ValueError: There are no stages, or ``p`` is not one probability per stage with sum 1.
    """

    choice = "which"

    def __init__(self, stages: Stages, p: Sequence[float] | None = None) -> None:
        super().__init__(stages)
        count = len(self.stages)
        self.p = check_probabilities(p if p is not None else [1 / max(count, 1)] * count, count)

    def draw(self, draws: Draws, shape: torch.Size) -> Params:
        """Draw `which` (B,), the index of the stage, and the parameters of all by their names."""
        which = draws.choice(np.arange(len(self.stages)), self.p)
        return {"which": which, **self._draw_each(draws, shape)}

    def forward(self, x: Tensor, params: Params) -> Tensor:
        """Apply to each image of (B, C, H, W) its stage."""
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
        """Apply all stages, and select one for each image."""
        (first, stage), *others = self._named()
        result = stage.run_on_canvas(canvas, params[first])
        for number, (name, stage) in enumerate(others, start=1):
            result = select(
                params["which"] == number, stage.run_on_canvas(canvas, params[name]), result
            )
        return result


class Shuffled(_Several):
    """Apply stages in an order drawn per image.

    On a canvas stages run in a sequence that contains every order, so the cost is quadratic in the
    number of stages; image by image the order costs nothing.

    Args:
        stages: The stages, by name (which names their random stream) or in a list.

    Raises:
        ValueError: There are no stages.
    """

    choice = "order"

    def __init__(self, stages: Stages) -> None:
        super().__init__(stages)
        if not self.stages:
            raise ValueError("stages is empty; expected one or more to shuffle")

    def draw(self, draws: Draws, shape: torch.Size) -> Params:
        """Draw `order` (B, K), the indices of the stages, first to last, and their parameters."""
        keys = np.stack([draws.uniform() for _ in self.stages], axis=1)
        return {"order": np.argsort(keys, axis=1), **self._draw_each(draws, shape)}

    def forward(self, x: Tensor, params: Params) -> Tensor:
        """Apply the stages to each image of (B, C, H, W) in its own order."""
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
        """Apply the stages of `schedule`, each to the images whose next stage it is."""
        order, named_stages = params["order"], self._named()
        order = torch.nn.functional.pad(order, (0, 1), value=-1)  # after the last: none
        place = torch.zeros_like(order[:, :1])
        for number in self.schedule():
            name, stage = named_stages[number]
            here = (order.gather(1, place) == number)[:, 0]
            canvas = select(here, stage.run_on_canvas(canvas, params[name]), canvas)
            place = place + here.unsqueeze(1)
        return canvas

    def schedule(self) -> Sequence[int]:
        """Return the indices of stages in a sequence of which every order is a subsequence."""
        # An order goes on to a next round wherever its indices fall: to the last one only if all
        # fall, and then for the first stage.
        count = len(self.stages)
        return [*range(count)] * (count - 1) + [0]


def name_stages(
    stages: Stages | Sequence[Stage] | Mapping[str, Stage], but: str = ""
) -> dict[str, Stage]:
    """Return stages by the names of their random streams.

    A stage in a list is named by its class, with a number from the second of that class on
    (`GaussianNoise`, `GaussianNoise#2`).

    Args:
        stages: The stages.
        but: Reserved name of another parameter.

    Raises:
        ValueError: A name is invalid.
        TypeError: An entry is not a stage.
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
                "degradations.GaussianNoise (degradation.init_args.stages)"
            )
        if not name or "." in name:
            raise ValueError(f"a stage is named {name!r}; expected a name without a dot")
        if name == but or hasattr(nn.ModuleDict, name):  # torch refuses e.g. `values`
            raise ValueError(f"a stage is named {name!r}, which is taken; choose another name")
    return dict(pairs)


def check_probabilities(p: Sequence[float], count: int, name: str = "p") -> tuple[float, ...]:
    """Check and return `count` probabilities.

    Raises:
        ValueError: Their number is another, one is negative, or their sum is not 1.
    """
    if count < 1 or len(p) != count or not min(p) >= 0.0 or not abs(sum(p) - 1.0) <= 1e-6:
        total = f" (it is {sum(p):g})" if p else ""
        raise ValueError(
            f"{name} is {list(p)}; expected {count} probabilities, none negative, with sum 1{total}"
        )
    return tuple(float(value) for value in p)


RecipeCallable = Callable[[float], Degradation]
Recipes = list[RecipeCallable] | dict[str, RecipeCallable]


class Mixture(Degradation):
    """Degrade each image by one of several recipes of the same scale.

    Each recipe runs once, on its own images only. If any of them has ``compile: true`` (for one
    batch size), all run on the whole batch instead, and each image is selected from its recipe. By
    default none is compiled, because the numbers of images differ.

    Each recipe draws from a stream of its name, or of its number in a list. Record, replay and pair
    pool apply to whole batches, so they go around a mixture, not into it.

    Args:
        scale: How many times smaller the LR is; any positive number. Linked to
            data.init_args.scale.
        recipes: The recipes, by name or in a list; classes whose first argument is the scale.
        weights: Relative frequencies of the recipes, in the same order; equal by default.

    Raises:
        TypeError: A recipe does not make a degradation.
        ValueError: There are no recipes, a name is invalid, a recipe records, replays or has a pair
            pool, or the weights do not fit.
    """

    def __init__(self, scale: float, recipes: Recipes, weights: list[float] | None = None) -> None:
        super().__init__(scale)
        items = (
            recipes.items()
            if isinstance(recipes, dict)
            else ((str(number), recipe) for number, recipe in enumerate(recipes))
        )
        made = {name: recipe(self.scale) for name, recipe in items}
        for name, recipe in made.items():
            if not isinstance(recipe, Degradation):
                raise TypeError(
                    f"recipes[{name}] made {type(recipe).__name__}; expected a Degradation such as "
                    "degradations.Bicubic (degradation.init_args.recipes)"
                )
            if recipe.pool:
                raise ValueError(
                    f"recipes[{name}] has a pool of {recipe.pool} pairs, which a mixture does not "
                    "support: set its pool to 0"
                )
            if not name or "." in name or name == "which" or hasattr(nn.ModuleDict, name):
                raise ValueError(f"a recipe is named {name!r}; choose another name, without a dot")
        self.recipes = nn.ModuleDict(made)
        self.p = _probabilities(weights, len(made))
        pipelines: list[Any] = [r for r in made.values() if hasattr(r, "compile_canvas")]
        self.compiled = any(recipe.compile_canvas for recipe in pipelines)
        for recipe in pipelines:
            recipe.compile_canvas = bool(recipe.compile_canvas)

    def _named(self) -> list[tuple[str, Degradation]]:
        recipes = cast("Iterable[Degradation]", self.recipes.values())
        return list(zip(self.recipes, recipes, strict=True))

    def draw(self, draws: Draws, shape: torch.Size) -> Params:
        """Draw `which` (B,), the index of the recipe, and the parameters of all by their names."""
        params: Params = {"which": draws.choice(np.arange(len(self.recipes)), self.p)}
        for name, recipe in self._named():
            params[name] = recipe.draw(draws.fold(name), shape)
        return params

    def replay(self, hr: Tensor, params: Params) -> Tensor:
        """Degrade by given parameters as `Degradation.replay`."""
        which = params["which"]
        if self.compiled or isinstance(which, Tensor):  # tensors are not read back
            lr = super().replay(hr, params)
            for _, recipe in self._named():
                recipe._checked = True  # the first batch was checked; a check makes the host wait
            return lr
        check_images(hr)
        self.lr_size(hr.shape[-2:])
        groups = _groups(np.asarray(which), len(hr), len(self.recipes))
        # One transfer; the host does not wait.
        places = to_device({"of": np.concatenate(groups)}, len(hr), hr.device)["of"]
        parts = []
        named_rows = zip(self._named(), groups, places.split([*map(len, groups)]), strict=True)
        for (name, recipe), rows, own in named_rows:
            if len(rows):
                parts.append(
                    recipe.replay(hr.index_select(0, own), _select_images(params[name], rows))
                )
        lr = torch.cat(parts)
        return torch.empty_like(lr).index_copy_(0, places, lr)

    def degrade(self, hr: Tensor, params: Params) -> Tensor:
        """Apply all recipes to all images, and select one for each: (B, 3, *lr_size((H, W)))."""
        (first, recipe), *others = self._named()
        lr = recipe.degrade(hr, params[first])
        for number, (name, recipe) in enumerate(others, start=1):
            mask = (params["which"] == number).view(-1, 1, 1, 1)
            lr = torch.where(mask, recipe.degrade(hr, params[name]), lr)
        return lr


def _groups(which: Integers, batch: int, count: int) -> list[Integers]:
    """Return the indices of the images of each recipe."""
    if which.shape != (batch,):
        raise ValueError(f"the parameter which has the shape {which.shape}; expected ({batch},)")
    groups = [np.flatnonzero(which == number) for number in range(count)]
    if sum(map(len, groups)) != batch:
        raise ValueError(
            f"the parameter which holds {sorted(set(which.tolist()))} of {count} recipes"
        )
    return groups


def _select_images(params: Params, rows: Integers) -> Params:
    """Select the parameters of some images; shared parameters are kept."""

    def part(value: Any) -> Any:
        if isinstance(value, dict):
            return _select_images(value, rows)
        return value[rows] if isinstance(value, np.ndarray) else value

    return {name: part(value) for name, value in params.items()}


def _probabilities(weights: list[float] | None, count: int) -> list[float]:
    if not count:
        raise ValueError("recipes is empty; expected one or more (degradation.init_args.recipes)")
    values = [1.0] * count if weights is None else [float(weight) for weight in weights]
    usable = len(values) == count and all(math.isfinite(w) and w >= 0.0 for w in values)
    if not usable or not sum(values) > 0.0:
        raise ValueError(
            f"weights is {weights}; expected {count} numbers, one per recipe, none negative, not "
            "all 0 (degradation.init_args.weights)"
        )
    return [value / sum(values) for value in values]
