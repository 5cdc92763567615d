"""Mixture: degrade each image by one of several recipes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from degradations.base import Degradation, check_images
from degradations.draws import Draws, Integers
from degradations.params import Params, to_device
from degradations.record import Record, Replay

RecipeCallable = Callable[[float], Degradation]
Recipes = list[RecipeCallable] | dict[str, RecipeCallable]


class Mixture(Degradation):
    """Degrade each image by one of several recipes of the same scale.

    Each recipe runs once, on its own images only. If any of them is compiled (for one batch size),
    all run on the whole batch instead, and each image is selected from its recipe.

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
                    "degradations.bicubic.Bicubic (degradation.init_args.recipes)"
                )
            if isinstance(recipe, Record | Replay):
                kind = type(recipe).__name__
                raise ValueError(
                    f"recipes[{name}] is a {kind}, which has no effect in a mixture: make the "
                    f"mixture the recipe of the {kind}"
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
        self.compiled = any(getattr(recipe, "compile_canvas", False) for recipe in made.values())

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
