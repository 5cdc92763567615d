"""Stages made of other stages: Sometimes, OneOf, Shuffled, Mixture."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from degradations.base import Canvas, Degradation, Stage, check_images, each_image, select
from degradations.draws import Draws, Integers, Params, Seeds, check_probabilities, to_device
from files.numbers import NonNegativeFloat, UnitInterval

Stages = list[Stage] | dict[str, Stage]


class Sometimes(Stage):
    """Apply a stage to some images.

    Args:
        stage: The stage.
        p: Probability that the stage is applied to an image.
    """

    def __init__(self, stage: Stage, p: UnitInterval = 0.5) -> None:
        super().__init__()
        self.stage, self.p = stage, p
        self.resizes, self.waits = stage.resizes, stage.waits
        self.selects = 0.0 < p < 1.0  # set by a recipe that changes `applied`

    def draw(self, draws: Draws, shape: torch.Size) -> Params:
        """Draw `applied` (B,) bool, and the parameters of the stage under `stage`."""
        applied = draws.bernoulli(self.p)
        return {"applied": applied, "stage": self.stage.draw(draws.fold("stage"), shape)}

    def prepare(self, params: Params) -> Params:
        """Prepare the parameters of the stage."""
        return {**params, "stage": self.stage.prepare(params["stage"])}

    def forward(self, x: Tensor, params: Params) -> Tensor:
        """Apply the stage to some images of (B, C, H, W)."""
        if len(x) > 1:
            return each_image(self, x, params)
        return self.stage(x, params["stage"]) if params["applied"].item() else x

    def on_canvas(self, canvas: Canvas, params: Params) -> Canvas:
        """Apply the stage to all images, then select unless all are alike."""
        if not self.selects:
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
        return items_of(self.stages)

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
        if len(x) > 1:
            return each_image(self, x, params)
        name, stage = self._named()[int(params["which"].item())]
        return stage(x, params[name])

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
    """

    choice = "order"

    def draw(self, draws: Draws, shape: torch.Size) -> Params:
        """Draw `order` (B, K), the indices of the stages, first to last, and their parameters."""
        keys = np.stack([draws.uniform() for _ in self.stages], axis=1)
        return {"order": np.argsort(keys, axis=1), **self._draw_each(draws, shape)}

    def forward(self, x: Tensor, params: Params) -> Tensor:
        """Apply the stages to each image of (B, C, H, W) in its own order."""
        if len(x) > 1:
            return each_image(self, x, params)
        named_stages = self._named()
        for number in params["order"][0].tolist():
            name, stage = named_stages[number]
            x = stage(x, params[name])
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


def items_of(modules: nn.ModuleDict) -> list[Any]:
    """Return the names and modules of a dictionary, which forgets their types."""
    return list(modules.items())


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
    for name, _ in pairs:
        _check_name(name, but)
    return dict(pairs)


def _check_name(name: str, but: str) -> None:
    # torch refuses e.g. `values`
    if not name or "." in name or name == but or hasattr(nn.ModuleDict, name):
        raise ValueError(f"{name!r} names a stage or recipe; choose another name, without a dot")


RecipeCallable = Callable[[float], Degradation]
Recipes = list[RecipeCallable] | dict[str, RecipeCallable]


class Mixture(Degradation):
    """Degrade each image by one of several recipes of the same scale.

    Each recipe runs once, on its own images only. It is not compiled, because the numbers of images
    differ. It draws from a stream of its name, or of its number in a list.

    Args:
        scale: How many times smaller the LR is; any positive number. Linked to
            data.init_args.scale.
        recipes: The recipes, by name or in a list; classes whose first argument is the scale.
        weights: Relative frequencies of the recipes, in the same order; equal by default.

    Raises:
        ValueError: There are no recipes, a name is invalid, a recipe has a pair pool, or the
            weights do not fit.
    """

    def __init__(
        self, scale: float, recipes: Recipes, weights: list[NonNegativeFloat] | None = None
    ) -> None:
        super().__init__(scale)
        items = (
            recipes.items()
            if isinstance(recipes, dict)
            else ((str(number), recipe) for number, recipe in enumerate(recipes))
        )
        made = {name: recipe(self.scale) for name, recipe in items}
        for name, recipe in made.items():
            if recipe.pool:
                raise ValueError(
                    f"recipes[{name}] has a pool of {recipe.pool} pairs, which a mixture does not "
                    "support: set its pool to 0"
                )
            _check_name(name, "which")
            recipe.compile_canvas = False
        self.recipes = nn.ModuleDict(made)
        shares = [1.0] * len(made) if weights is None else weights
        total = sum(shares) or 1.0
        self.p = check_probabilities([share / total for share in shares], len(made), "weights")

    def _named(self) -> list[tuple[str, Degradation]]:
        return items_of(self.recipes)

    def draw(self, draws: Draws, shape: torch.Size) -> Params:
        """Draw `which` (B,), the index of the recipe, and the parameters of all by their names."""
        which = draws.choice(np.arange(len(self.recipes)), self.p)
        parts = {name: recipe.draw(draws.fold(name), shape) for name, recipe in self._named()}
        return {"which": which, **parts}

    def draw_ahead(self, seeds: Seeds, shape: torch.Size) -> Any:
        """Draw as `params_of`: the recipes' images are chosen on the host."""
        return self.params_of(seeds, shape)

    def replay(self, hr: Tensor, params: Any) -> Tensor:
        """Degrade by given parameters as `Degradation.replay`."""
        check_images(hr)
        which = np.asarray(params["which"])
        groups = [np.flatnonzero(which == number) for number in range(len(self.recipes))]
        # One transfer; the host does not wait.
        places = to_device({"of": np.concatenate(groups)}, len(hr), hr.device)["of"]
        parts = []
        named_rows = zip(self._named(), groups, places.split([*map(len, groups)]), strict=True)
        for (name, recipe), rows, there in named_rows:
            if len(rows):
                images = hr.index_select(0, there)
                parts.append(recipe.replay(images, _select_images(params[name], rows)))
        lr = torch.cat(parts)
        return torch.empty_like(lr).index_copy_(0, places, lr)

    def degrade(self, hr: Tensor, params: Params) -> Tensor:
        """As `replay`: each recipe has its own images."""
        return self.replay(hr, params)


def _select_images(params: Params, rows: Integers) -> Params:
    """Select the parameters of some images; shared parameters are kept."""

    def part(value: Any) -> Any:
        if isinstance(value, dict):
            return _select_images(value, rows)
        return value[rows] if isinstance(value, np.ndarray) else value

    return {name: part(value) for name, value in params.items()}
