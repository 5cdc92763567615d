"""Several methods in a row: each enlarges the output of the one before.

So a method goes beyond the scale it was trained for, such as x4 by a diffusion method and then x2.5
by an arbitrary-scale one, or noise is removed at x1 before a method that knows none.

Between two methods images stay float32 in [0, 1], unrounded. Each part has its own noise, tiles and
colour correction, and its output is what it would make of that image alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from degradations.draws import seed_of
from lightning_modules.base import NothingToTrain, SuperResolver
from lightning_modules.noise import Noise, with_noise_seeds

if TYPE_CHECKING:
    from files.batch import Batch


class Chain(NothingToTrain, SuperResolver):
    """Frozen methods that enlarge one after the other. Nothing is trained.

    Args:
        scale: Product of the scales of all parts; set by ``data.init_args.scale``.
        parts: The methods in their order, each with its own ``scale`` and ``weights``.

    Raises:
        ValueError: If there are no parts, or their scales do not make up ``scale``.
    """

    instead = "use test or predict, and train each of its parts alone"

    def __init__(self, scale: float, parts: list[SuperResolver]) -> None:
        super().__init__(scale)
        if not parts:
            raise ValueError("model.parts is empty: name the methods, in their order")
        scales = [part.scale for part in parts]
        if not math.isclose(math.prod(scales), self.scale, rel_tol=1e-6):
            product = " x ".join(f"{each:g}" for each in scales)
            raise ValueError(
                f"data.scale is {self.scale:g}, and the parts enlarge by {product} = "
                f"{math.prod(scales):g}: set it to that, or change the scale of a part"
            )
        self.parts = nn.ModuleList(parts).requires_grad_(False)
        self.train(False)

    @property
    def _methods(self) -> list[SuperResolver]:
        return cast("list[SuperResolver]", list(self.parts))

    @torch.no_grad()
    def enlarge(self, batch: Batch, tiled: bool = False) -> dict[str, Tensor]:
        """Enlarge by all parts, each as alone.

        Args:
            batch: Batch as for ``restore``.
            tiled: Whether large images go through tiles, part by part.

        Returns:
            ``{"sr": (B, 3, H, W) float32 in [0, 1]}``.

        Raises:
            ValueError: As in ``SuperResolver.enlarge``, of a part.
        """
        return {"sr": self._through(with_noise_seeds(batch, self.noise_seed), tiled)}

    def restore(self, batch: Batch, noise: Noise) -> Tensor:
        """Enlarge by all parts, without tiles."""
        seeds = torch.tensor(noise.seeds, dtype=torch.int64)
        return self._through(cast("Batch", {**batch, "seed": seeds}), tiled=False)

    def _through(self, batch: Batch, tiled: bool) -> Tensor:
        image, (h, w), factor = batch["lr"], batch["lr"].shape[-2:], 1.0
        for number, part in enumerate(self._methods):
            factor *= part.scale
            last = number == len(self.parts) - 1
            size = batch["size"] if last else (round(h * factor), round(w * factor))
            seeds = [seed_of(int(seed), "chain", number) for seed in batch["seed"]]
            given = {**batch, "size": size, "seed": torch.tensor(seeds)}
            given["lr"] = image.to(batch["lr"].dtype)
            part.set_tiling(self.tiling)
            image = part.enlarge(cast("Batch", given), tiled)["sr"]
            self._drew_noise |= part.drew_noise
        self._tile_count = max(part.tile_count or 1 for part in self._methods)
        return image

    @property
    def half_outputs(self) -> bool:  # type: ignore[override]
        """Whether all parts compute outputs with weights in half precision."""
        return all(part.half_outputs for part in self._methods)

    @property
    def needs_weights(self) -> bool:
        """Whether a part has random weights."""
        return any(part.needs_weights for part in self._methods)

    @property
    def output_settings(self) -> dict[str, str | int | float]:
        """The parts, their weights and their own settings; they label results."""
        found: dict[str, str | int | float] = {}
        for number, part in enumerate(self._methods):
            name = f"{type(part).__name__} x{part.scale:g}"
            found[f"part{number}"] = " ".join(filter(None, (name, part.weights_source)))
            found |= {f"part{number}.{key}": value for key, value in part.output_settings.items()}
        return super().output_settings | found

    def load_parts(self, find: Callable[[str, str], Path]) -> None:
        """Load the frozen parts and the weights of each method."""
        super().load_parts(find)
        for number, part in enumerate(self._methods):
            place = f"parts[{number}].init_args"
            part.load_parts(partial(_find_below, find, place))
            if part.initial_weights is not None:
                name = part.initial_weights.replace("{scale}", f"{part.scale:g}")
                part.load_weights(find(f"{place}.weights", name))

    def setup(self, stage: str) -> None:
        """Set up the parts, and refuse ``fit``.

        Raises:
            ValueError: If the stage is ``fit``, or a part has random weights.
        """
        super().setup(stage)
        if stage == "fit":
            self.training_step(cast("Batch", {}), 0)
        for number, part in enumerate(self._methods):
            part.setup(stage)
            if part.needs_weights:
                raise ValueError(
                    f"model.parts[{number}], {type(part).__name__}, has random weights: set its "
                    "weights to the run that trained it, to a file or to a published name"
                )

    def train(self, mode: bool = True) -> Chain:
        """Stay in evaluation mode: nothing is trained."""
        return super().train(False)


def _find_below(find: Callable[[str, str], Path], place: str, key: str, name: str) -> Path:
    return find(f"{place}.{key}", name)
