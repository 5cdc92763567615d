"""The last step of second-order recipes: the LR size, a sinc filter, and one more JPEG."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from degradations.base import Stage, check_probability
from degradations.blur import Sinc
from degradations.canvas import Canvas, select
from degradations.compose import Sometimes
from degradations.draws import Draws
from degradations.jpeg import JPEG
from degradations.params import Params
from degradations.resize import Resize


class ToLR(Resize):
    """Resize to exactly the LR size, each image with its own kernel.

    Args:
        divisor: The scale: the sides become those of the HR divided by it, rounded.
        modes: Kernels to choose from, as in `Resize`.
        antialias: As in `Resize`.

    Source: Real-ESRGAN (Wang et al., 2021; arXiv 2107.10833), the "resize back" of its released
    code.
    """

    unites = True

    def __init__(
        self,
        divisor: float = 1.0,
        modes: tuple[str, ...] | dict[str, float] = ("area", "bilinear", "bicubic"),
        antialias: bool | float = False,
    ) -> None:
        super().__init__(p=(0.0, 0.0, 1.0), modes=modes, antialias=antialias, divisor=divisor)

    def draw(self, draws: Draws, shape: torch.Size) -> Params:
        """Draw as `Resize.draw`, with the sides of the LR."""
        params = super().draw(draws, shape)
        params["height"][:], params["width"][:] = self.extent((shape[-2], shape[-1]))
        return params

    def extent(self, hr_size: tuple[int, int]) -> tuple[int, int]:
        """Return (h, w) of the LR, which every image fills."""
        h, w = (max(round(n / self.divisor), 1) for n in hr_size)
        return h, w


class SincAndJPEG(Stage):
    """Resize to the LR size, filter by a sinc and compress, or compress first.

    On a canvas JPEG, the most expensive part, runs once for both orders, on the smaller canvas.

    Args:
        divisor: The scale, as in `ToLR`.
        modes: Kernels of the resize, as in `Resize`.
        sinc: Probability of the sinc filter, which follows the resize.
        kernel_size: Range of the size of that filter; odd sizes are drawn.
        cutoff: Range of its cut-off frequency in radians per pixel.
        quality: Range of the JPEG quality.
        jpeg_last: Probability that JPEG comes last, not first.

    Source: Real-ESRGAN (Wang et al., 2021; arXiv 2107.10833), section 3.4, and its released code.
    """

    resizes = unites = True

    def __init__(
        self,
        divisor: float = 1.0,
        modes: tuple[str, ...] | dict[str, float] = ("area", "bilinear", "bicubic"),
        sinc: float = 0.8,
        kernel_size: tuple[int, int] = (7, 21),
        cutoff: tuple[float, float] = (math.pi / 3, math.pi),
        quality: tuple[int, int] = (30, 95),
        jpeg_last: float = 0.5,
    ) -> None:
        super().__init__()
        self.resize = ToLR(divisor, modes)
        self.sinc = Sometimes(Sinc(kernel_size, cutoff), sinc)
        self.jpeg = JPEG(quality)
        self.jpeg_last = check_probability(jpeg_last, "jpeg_last")

    def draw(self, draws: Draws, shape: torch.Size) -> Params:
        """Draw `jpeg_last` (B,) bool, and the parameters of `resize`, `sinc` and `jpeg`."""
        return {
            "jpeg_last": draws.bernoulli(self.jpeg_last),
            "resize": self.resize.draw(draws.fold("resize"), shape),
            "sinc": self.sinc.draw(draws.fold("sinc"), shape),
            "jpeg": self.jpeg.draw(draws.fold("jpeg"), shape),
        }

    def prepare(self, params: Params) -> Params:
        """Prepare the parameters of the parts."""
        parts = {"resize": self.resize, "sinc": self.sinc, "jpeg": self.jpeg}
        return {**params, **{name: part.prepare(params[name]) for name, part in parts.items()}}

    def forward(self, x: Tensor, params: Params) -> Tensor:
        """Return (B, C, h, w) of the LR size, each image in its own order."""
        if len(x) > 1:
            last = params["jpeg_last"].view(-1, 1, 1, 1)
            orders = (self._jpeg_last(x, params), self._jpeg_first(x, params))
            return torch.where(last, *orders)
        return (self._jpeg_last if params["jpeg_last"].item() else self._jpeg_first)(x, params)

    def _jpeg_last(self, x: Tensor, params: Params) -> Tensor:
        small = self.sinc(self.resize(x, params["resize"]), params["sinc"])
        return self.jpeg(small, params["jpeg"])

    def _jpeg_first(self, x: Tensor, params: Params) -> Tensor:
        small = self.resize(self.jpeg(x, params["jpeg"]), params["resize"])
        return self.sinc(small, params["sinc"])

    def on_canvas(self, canvas: Canvas, params: Params) -> Canvas:
        """Apply both orders around one JPEG, and select one for each image."""
        last = params["jpeg_last"]
        compressed = self.jpeg.on_canvas(
            select(last, self._small(canvas, params), canvas), params["jpeg"]
        )
        small = self._small(compressed, params)
        h, w = small.pixels.shape[-2:]
        pixels = torch.where(last.view(-1, 1, 1, 1), compressed.pixels[..., :h, :w], small.pixels)
        return small.with_pixels(pixels)

    def _small(self, canvas: Canvas, params: Params) -> Canvas:
        return self.sinc.on_canvas(self.resize.on_canvas(canvas, params["resize"]), params["sinc"])
