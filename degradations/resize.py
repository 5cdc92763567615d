"""The stage that resizes: each image by its own factor and with its own kernel."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from degradations.base import Stage, check_range
from degradations.canvas import Canvas
from degradations.compose import check_probabilities
from degradations.draws import Draws
from degradations.params import Params, of_each_image
from degradations.resample import MODES, Mode, resample, resample_canvas

_ALIGNMENT = 16  # of a canvas's sides: few kernels are compiled, and matrix products like it


class Resize(Stage):
    """Enlarge or shrink by a random factor, each image by its own and with its own kernel.

    The sides become floor(side / ``divisor`` * factor) of the HR's, whatever size the image has
    when it comes here, and at least 1.

    Picture by picture on a CPU it stands in for `F.interpolate`, being 1.1 to 2.7 times as quick
    where it shrinks and 1.6 to 4.9 times where it enlarges (16 images of 256 px on one core, every
    size met for the first time), nearer to the exact result (3e-7 off at most, against 4e-5 by
    float positions), and right for antialiased results one pixel wide, which torch's are not.

    Args:
        up: Range of the factor of images that are enlarged, at least 1.
        down: Range of the factor of images that are shrunk, at most 1.
        p: Probabilities that an image is enlarged, shrunk, or gets factor 1.
        modes: Kernels to choose from, equally likely, or each with its probability: ``area``
            (the mean of the pixels that a new pixel touches), ``bilinear``, ``bicubic``,
            ``nearest``, ``lanczos`` (three lobes).
        antialias: Widen ``bilinear`` and ``bicubic`` by the factor where an image shrinks, as
            Pillow does; a number is the probability, for each image, that they are. ``lanczos``
            always is, ``area`` and ``nearest`` never.
        divisor: What the HR's sides are divided by before the factor counts: the scale, for an
            image that is about as small as the LR.

    Raises:
        ValueError: a range is reversed or crosses 1, a mode is unknown, or probabilities do not
            fit.

    Source: Real-ESRGAN (Wang et al., 2021; arXiv 2107.10833), the first resize of its released x4
    options. Its code gives the factor itself to `F.interpolate` there, which then samples at steps
    of 1 / factor and leaves less than one new pixel at the right and lower edge out; here, as in
    its second resize, the steps are those of the two sizes.
    """

    resizes = True

    def __init__(
        self,
        up: tuple[float, float] = (1.0, 1.5),
        down: tuple[float, float] = (0.15, 1.0),
        p: tuple[float, float, float] = (0.2, 0.7, 0.1),
        modes: tuple[str, ...] | dict[str, float] = ("area", "bilinear", "bicubic"),
        antialias: bool | float = False,
        divisor: float = 1.0,
    ) -> None:
        super().__init__()
        self.up = check_range(up, "up", low=1.0)
        self.down = check_range(down, "down", low=0.0, high=1.0)
        self.p = check_probabilities(p, 3)
        self.modes, self.mode_p = _checked_modes(modes)
        if not 0.0 <= antialias <= 1.0:
            raise ValueError(
                f"antialias is {antialias}; expected true, false or a probability in [0, 1]"
            )
        if not (math.isfinite(divisor) and divisor > 0.0):
            raise ValueError(f"divisor is {divisor}; expected a positive number, e.g. the scale")
        self.antialias, self.divisor = float(antialias), float(divisor)

    def draw(self, draws: Draws, shape: torch.Size) -> Params:
        """`height`, `width`, `factor`, `mode` (a number of `MODES`) and `antialias`, (B,) each."""
        kind = draws.choice([0, 1, 2], self.p)
        factor = np.choose(kind, [draws.uniform(*self.up), draws.uniform(*self.down), 1.0])
        H, W = shape[-2:]
        return {
            "height": self._side(H, factor).astype(np.int64),
            "width": self._side(W, factor).astype(np.int64),
            "factor": factor,
            "mode": draws.choice([MODES.index(mode) for mode in self.modes], self.mode_p),
            "antialias": draws.bernoulli(self.antialias),
        }

    def forward(self, x: Tensor, params: Params) -> Tensor:
        """(B, C, height, width); images of one batch must agree in these.

        Raises:
            ValueError: they do not.
        """
        if len(x) > 1:
            own = of_each_image(params, len(x))
            images = [self(image, part) for image, part in zip(torch.split(x, 1), own, strict=True)]
            if len({image.shape for image in images}) > 1:
                sizes = [tuple(image.shape[-2:]) for image in images]
                raise ValueError(f"one batch cannot hold pictures of the sizes {sizes}")
            return torch.cat(images)
        size = int(params["height"]), int(params["width"])
        return resample(x, size, MODES[int(params["mode"])], bool(params["antialias"]))

    def on_canvas(self, canvas: Canvas, params: Params) -> Canvas:
        """All pictures, on a canvas that holds the largest that can be drawn."""
        antialias = params["antialias"] if 0.0 < self.antialias < 1.0 else self.antialias > 0.0
        extent = self.extent(canvas.hr_size)
        size = params["height"], params["width"]
        return resample_canvas(canvas, *size, params["mode"], antialias, extent, self.modes)

    def extent(self, hr_size: tuple[int, int]) -> tuple[int, int]:
        """(H, W) of a canvas that holds every result for HR of this size.

        Also one of the HR's size divided by `divisor` and rounded, up or down.
        """
        largest = max(self.up[1] if self.p[0] else 1.0, 1.0)
        height, width = (
            _aligned(max(int(self._side(n, largest)), math.ceil(n / self.divisor))) for n in hr_size
        )
        return height, width

    def _side(self, n: int, factor: Any) -> Any:
        return np.maximum(np.floor(n / self.divisor * factor), 1)


def _aligned(n: int) -> int:
    return -(-n // _ALIGNMENT) * _ALIGNMENT


def _checked_modes(
    modes: Sequence[str] | Mapping[str, float],
) -> tuple[tuple[Mode, ...], tuple[float, ...]]:
    known: dict[str, Mode] = {mode: mode for mode in MODES}
    unknown = [mode for mode in modes if mode not in known]
    if unknown or not modes or isinstance(modes, str):
        raise ValueError(f"modes is {modes!r}; expected some of {', '.join(MODES)}")
    p = list(modes.values()) if isinstance(modes, Mapping) else [1 / len(modes)] * len(modes)
    return tuple(known[mode] for mode in modes), check_probabilities(p, len(p), "modes")
