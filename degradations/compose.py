"""Stages made of other stages: Sometimes, OneOf, Shuffled, Mixture."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from degradations.base import (
    Canvas,
    Degradation,
    ImageFunction,
    Stage,
    by_images,
    in_order,
    select,
)
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
        self.stage = stage
        self.p = p
        self.resizes = stage.resizes
        self.waits = stage.waits
        # Whether `applied` differs between images; a recipe that changes `applied` sets it.
        self.selects = 0.0 < p < 1.0

    def draw(self, draws: Draws, shape: torch.Size) -> Params:
        """Draw `applied` (B,) bool, and the parameters of the stage under `stage`."""
        return {
            "applied": draws.bernoulli(self.p),
            "stage": self.stage.draw(draws.fold("stage"), shape),
        }

    def prepare(self, params: Params) -> Params:
        """Prepare the parameters of the stage."""
        prepared = self.stage.prepare(params["stage"])
        return {**params, "stage": prepared}

    def forward(self, x: Tensor, params: Params) -> Tensor:
        """Apply the stage to some images of (B, C, H, W)."""
        return by_images(self, x, params)

    def image_functions(self, params: Params, x: Tensor) -> list[ImageFunction]:
        """Return the stage's functions, or nothing in their place, for each image."""
        functions = self.stage.image_functions(params["stage"], x)
        applied = params["applied"].tolist()
        some = zip(functions, applied, strict=True)
        return [function if is_applied else _unchanged for function, is_applied in some]

    def on_canvas(self, canvas: Canvas, params: Params) -> Canvas:
        """Apply the stage to all images, and keep the results of those that it applies to."""
        if self.p == 0.0 and not self.selects:
            return canvas
        result = self.stage.run_on_canvas(canvas, params["stage"])
        if not self.selects:
            return result
        return select(params["applied"], result, canvas)

    @property
    def alone(self) -> bool:
        """Whether the stage gets images one by one."""
        return self.stage.alone


class _Several(Stage):
    """Base of stages that draw which of several stages apply, or their order."""

    def __init__(self, stages: Stages) -> None:
        super().__init__()
        self.stages = nn.ModuleDict(name_stages(stages))
        self.resizes = any(stage.resizes for stage in self._stages().values())
        self.waits = any(stage.waits for stage in self._stages().values())

    @property
    def alone(self) -> bool:
        """Whether any of the stages gets images one by one."""
        return any(stage.alone for stage in self._stages().values())

    def _stages(self) -> dict[str, Stage]:
        """Return the stages by name, with their type."""
        return dict(items_of(self.stages))

    def _draw_each(self, draws: Draws, shape: torch.Size) -> Params:
        """Draw the parameters of all stages, each from the stream of its name."""
        params: Params = {}
        for name, stage in self._stages().items():
            params[name] = stage.draw(draws.fold(name), shape)
        return params

    def _functions_of_each(self, params: Params, x: Tensor) -> list[list[ImageFunction]]:
        """Return the functions of each stage, for each image."""
        stages = self._stages().items()
        return [stage.image_functions(params[name], x) for name, stage in stages]

    def prepare(self, params: Params) -> Params:
        """Prepare the parameters of the stages."""
        prepared = dict(params)
        for name, stage in self._stages().items():
            prepared[name] = stage.prepare(params[name])
        return prepared


class OneOf(_Several):
    """Apply one of several stages, chosen per image.

    Args:
        stages: The stages, by name (which names their random stream) or in a list.
        p: Their probabilities, in the same order; equal by default.

    Raises:
        ValueError: There are no stages, or ``p`` is not one probability per stage with sum 1.
    """

    def __init__(self, stages: Stages, p: Sequence[float] | None = None) -> None:
        super().__init__(stages)
        count = len(self.stages)
        if p is None:
            p = [1 / max(count, 1)] * count
        self.p = check_probabilities(p, count)

    def draw(self, draws: Draws, shape: torch.Size) -> Params:
        """Draw `which` (B,), the index of the stage, and the parameters of all by their names."""
        indices = np.arange(len(self.stages))
        which = draws.choice(indices, self.p)
        return {"which": which, **self._draw_each(draws, shape)}

    def forward(self, x: Tensor, params: Params) -> Tensor:
        """Apply to each image of (B, C, H, W) its stage."""
        return by_images(self, x, params)

    def image_functions(self, params: Params, x: Tensor) -> list[ImageFunction]:
        """Return for each image the function of its stage."""
        functions = self._functions_of_each(params, x)
        which = params["which"].tolist()
        return [functions[index][i] for i, index in enumerate(which)]

    def on_canvas(self, canvas: Canvas, params: Params) -> Canvas:
        """Apply all stages, and select one for each image."""
        (first_name, first_stage), *others = self._stages().items()
        result = first_stage.run_on_canvas(canvas, params[first_name])
        for index, (name, stage) in enumerate(others, start=1):
            output = stage.run_on_canvas(canvas, params[name])
            result = select(params["which"] == index, output, result)
        return result


class Shuffled(_Several):
    """Apply stages in an order drawn per image.

    On a canvas stages run in a sequence that contains every order, so the cost is quadratic in the
    number of stages; image by image the order costs nothing.

    Args:
        stages: The stages, by name (which names their random stream) or in a list.
    """

    def draw(self, draws: Draws, shape: torch.Size) -> Params:
        """Draw `order` (B, K), the indices of the stages, first to last, and their parameters."""
        # Sorting random numbers gives each order with equal probability.
        keys = [draws.uniform() for _ in self.stages]
        key_rows = np.stack(keys, axis=1)
        order = np.argsort(key_rows, axis=1)
        return {"order": order, **self._draw_each(draws, shape)}

    def forward(self, x: Tensor, params: Params) -> Tensor:
        """Apply the stages to each image of (B, C, H, W) in its own order."""
        return by_images(self, x, params)

    def image_functions(self, params: Params, x: Tensor) -> list[ImageFunction]:
        """Return for each image a function of all stages in its own order."""
        functions = self._functions_of_each(params, x)
        ordered: list[ImageFunction] = []
        for i, indices in enumerate(params["order"].tolist()):
            steps = [functions[index][i] for index in indices]
            ordered.append(partial(in_order, functions=steps))
        return ordered

    def on_canvas(self, canvas: Canvas, params: Params) -> Canvas:
        """Apply the stages in rounds, each stage to the images whose next one it is.

        A round runs all K stages by rising index, so each image takes at least one of its stages in
        it, and more while its own order rises. After K - 1 rounds only an image in falling order
        has one left, the first stage.
        """
        stages = list(self._stages().items())
        # An image that is done has -1 as its next stage, which is none.
        order = functional.pad(params["order"], (0, 1), value=-1)
        place = torch.zeros_like(order[:, :1])  # of each image's next stage in its order
        rounds = list(range(len(stages))) * (len(stages) - 1)
        for index in [*rounds, 0]:
            name, stage = stages[index]
            is_next = order.gather(1, place) == index
            output = stage.run_on_canvas(canvas, params[name])
            canvas = select(is_next[:, 0], output, canvas)
            place = place + is_next
        return canvas


def _unchanged(image: Tensor) -> Tensor:
    """Return the image as it is, in place of a stage that is not applied to it."""
    return image


def items_of(modules: nn.ModuleDict) -> list[Any]:
    """Return the names and modules of a dictionary, which forgets their types."""
    return list(modules.items())


def name_stages(stages: Stages) -> dict[str, Stage]:
    """Return stages by the names of their random streams.

    A stage in a list is named by its class, with a number from the second of that class on
    (`GaussianNoise`, `GaussianNoise#2`).
    """
    if isinstance(stages, dict):
        return stages
    by_name: dict[str, Stage] = {}
    counts: Counter[str] = Counter()
    for stage in stages:
        class_name = type(stage).__name__
        counts[class_name] += 1
        count = counts[class_name]
        name = class_name if count == 1 else f"{class_name}#{count}"
        by_name[name] = stage
    return by_name


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
        ValueError: There are no recipes, or the weights do not fit.
    """

    def __init__(
        self,
        scale: float,
        recipes: Recipes,
        weights: list[NonNegativeFloat] | None = None,
    ) -> None:
        super().__init__(scale)
        if not isinstance(recipes, dict):
            recipes = {str(index): recipe for index, recipe in enumerate(recipes)}
        self.recipes = nn.ModuleDict()
        for name, make_recipe in recipes.items():
            recipe = make_recipe(self.scale)
            recipe.compile_canvas = False
            self.recipes[name] = recipe
        if weights is None:
            weights = [1.0] * len(recipes)
        total = sum(weights) or 1.0
        shares = [weight / total for weight in weights]
        self.p = check_probabilities(shares, len(recipes), "weights")

    def draw(self, draws: Draws, shape: torch.Size) -> Params:
        """Draw `which` (B,), the index of the recipe, and the parameters of all by their names."""
        indices = np.arange(len(self.recipes))
        params: Params = {"which": draws.choice(indices, self.p)}
        for name, recipe in items_of(self.recipes):
            params[name] = recipe.draw(draws.fold(name), shape)
        return params

    def draw_ahead(self, seeds: Seeds, shape: torch.Size) -> Any:
        """Draw as `params_of`: the recipes' images are chosen on the host."""
        return self.params_of(seeds, shape)

    def replay(self, hr: Tensor, params: Any) -> Tensor:
        """Degrade by given parameters as `Degradation.replay`."""
        which = np.asarray(params["which"])
        groups = []
        for index in range(len(self.recipes)):
            groups.append(np.flatnonzero(which == index))
        # One transfer; the host does not wait.
        order = {"images": np.concatenate(groups)}
        places = to_device(order, len(hr), hr.device)["images"]
        group_places = places.split([len(group) for group in groups])
        parts = []
        recipes = items_of(self.recipes)
        for (name, recipe), group, images in zip(recipes, groups, group_places, strict=True):
            if len(group):
                group_params = _select_images(params[name], group)
                group_hr = hr.index_select(0, images)
                parts.append(recipe.replay(group_hr, group_params))
        lr = torch.cat(parts)  # by recipe; back to the order of the batch
        return torch.empty_like(lr).index_copy_(0, places, lr)

    def degrade(self, hr: Tensor, params: Params) -> Tensor:
        """As `replay`: each recipe has its own images."""
        return self.replay(hr, params)


def _select_images(params: Params, images: Integers) -> Params:
    """Select the parameters of some images; shared parameters stay."""
    selected: Params = {}
    for name, value in params.items():
        if isinstance(value, dict):
            selected[name] = _select_images(value, images)
        elif isinstance(value, np.ndarray):
            selected[name] = value[images]
        else:
            selected[name] = value
    return selected
