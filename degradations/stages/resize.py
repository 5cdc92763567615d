"""The Resize stage, and resampling as OpenCV, Pillow and MATLAB do it.

The kernels are applied in two ways: for one image on a CPU, torch's `embedding_bag` sums a few
weighted pixels per output pixel; for all images of a canvas, each image has a matrix. OpenCV
computes bilinear and bicubic without antialiasing for small images on a CPU, in 0.6 of the time.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from degradations.base import Canvas, Stage, alike, check_range, each_image, rounded_up
from degradations.draws import Draws, Params, check_probabilities
from files.numbers import PositiveFloat, UnitInterval

Mode: TypeAlias = Literal["area", "bilinear", "bicubic", "nearest", "lanczos"]

#: Modes by the numbers in recorded parameters, independent of the modes of a stage.
MODES: tuple[Mode, ...] = get_args(Mode)
Modes: TypeAlias = tuple[Mode, ...] | dict[Mode, float]
Bags: TypeAlias = tuple[Tensor, Tensor, Tensor]
Matrices: TypeAlias = tuple[Tensor, Tensor]  # for rows and for columns


def resample(x: Tensor, size: Sequence[int], mode: Mode, antialias: bool = False) -> Tensor:
    """Resample images of one size to another size.

    ``area``: the mean of the pixels [floor(i n / m), ceil((i + 1) n / m)), as in
    `F.adaptive_avg_pool2d`. ``nearest``: the pixel below the centre of the new one ("nearest-exact"
    of `F.interpolate`; "nearest" shifts the image by up to half a pixel relative to other modes).
    ``bilinear``, ``bicubic``: as `F.interpolate` with align_corners=False; bicubic has a = -3/4,
    and with `antialias` a = -1/2 as in Pillow. ``lanczos``: as in Pillow.

    Args:
        x: (B, C, H, W) floating. Bicubic and lanczos overshoot; nothing is clamped.
        size: (h, w) of the result, at least 1 each.
        mode: One of `MODES`.
        antialias: Widen bilinear and bicubic kernels if a side shrinks.

    Returns:
        (B, C, h, w); `x` itself if it has that size.

    """
    h, w = size
    H, W = x.shape[-2:]
    if (h, w) == (H, W):
        return x
    if x.device.type != "cpu":
        canvas, sizes = Canvas.of(x), alike((h, w), len(x), x.device)
        return resample_canvas(canvas, sizes, mode, antialias, (h, w)).pixels
    planes = x.reshape(-1, H, W)
    small = max(H, W, h, w) <= _OPENCV_SIDE
    if small and mode in _OPENCV and not (antialias or x.requires_grad) and x.dtype == _OPENCV_TYPE:
        return _by_opencv(planes, (h, w), mode).view(*x.shape[:2], h, w)
    if h < H:  # rows first, so that less is transposed
        planes = _resampled_rows(planes, h, mode, antialias)
    if w != W:
        planes = _resampled_columns(planes, w, mode, antialias)
    if h > H:
        planes = _resampled_rows(planes, h, mode, antialias)
    return planes.view(*x.shape[:2], h, w)


def resample_canvas(
    canvas: Canvas,
    sizes: Tensor,
    modes: Tensor | Mode,
    antialias: Tensor | bool,
    extent: tuple[int, int],
) -> Canvas:
    """Resample each image to its own size by its own kernel, by two matrix products.

    Args:
        canvas: The images.
        sizes: (B, 2) int64 on the images' device, at most the extent.
        modes: (B,) indices of `MODES`, or one mode for all.
        antialias: (B,) bool, or one for all.
        extent: (H, W) of the new canvas.

    Returns:
        The images and their new sizes; edge pixels are repeated outside an image.
    """
    matrices = _matrices(canvas, sizes, extent, modes, antialias)
    return _resampled_by(matrices, canvas, sizes)


def shrink_canvas(canvas: Canvas, size: tuple[int, int]) -> Tensor:
    """Resize images of differing sizes to one size as `bicubic.resize`, clamped after each pass.

    Args:
        canvas: The images, in [0, 1].
        size: (h, w) of the result.

    Returns:
        (B, C, h, w) in [0, 1].
    """
    sizes = alike(size, len(canvas.pixels), canvas.pixels.device)
    rows, columns = _matrices(canvas, sizes, size, "bicubic", True)
    narrow = _by_columns(canvas.pixels, columns).clamp(0.0, 1.0)
    return _by_rows(rows, narrow).clamp(0.0, 1.0)


# Kernels are functions of the distance in pixels (new pixels if antialiased), 0 beyond their
# radius, for NumPy arrays and torch tensors.
def _box(d: Any) -> Any:
    return 1.0 * (d > -0.5) * (d <= 0.5)


def _triangle(d: Any) -> Any:
    return (1 - abs(d)).clip(0, None)


def _cubic(a: float, d: Any) -> Any:
    near, far = _triangle(d), (2 - abs(d)).clip(0, None)
    return a * far * far * (1 - far) + near * near * (4 * a + 3 - 2 * near)


def _lanczos(d: Any) -> Any:
    sinc: Callable[[Any], Any] = torch.sinc if isinstance(d, Tensor) else np.sinc
    return sinc(d) * sinc(d / 3) * (abs(d) < 3)


_PLAIN: dict[Mode, tuple[Callable[[Any], Any], int]] = {
    "bilinear": (_triangle, 1),
    "bicubic": (functools.partial(_cubic, -0.75), 2),
    "nearest": (_box, 1),
}
_ANTIALIASED: dict[Mode, tuple[Callable[[Any], Any], int]] = {
    "bilinear": (_triangle, 1),
    "bicubic": (functools.partial(_cubic, -0.5), 2),
    "lanczos": (_lanczos, 3),
}


def _widened(mode: str, antialias: bool) -> bool:
    return mode == "lanczos" or (antialias and mode in _ANTIALIASED)


# On the CPU: OpenCV for equal results (its area differs from torch's by up to half of white).
_OPENCV = {"bilinear": "INTER_LINEAR", "bicubic": "INTER_CUBIC"}
_OPENCV_SIDE = 512  # its coordinates are too coarse for 1e-5 beyond
_OPENCV_TYPE = torch.float32


def _by_opencv(planes: Tensor, size: tuple[int, int], mode: Mode) -> Tensor:
    import cv2

    h, w = size
    y = planes.new_empty(len(planes), h, w)
    for plane, target in zip(planes.contiguous().numpy(), y.numpy(), strict=True):
        cv2.resize(plane, (w, h), dst=target, interpolation=getattr(cv2, _OPENCV[mode]))
    return y


# Otherwise T weighted pixels for each new one.
def _taps(
    n: int, m: int, mode: Mode, antialias: bool
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Return (m, T) indices of the n pixels of which each of m new ones consists, and weights."""
    i = np.arange(m)[:, None]
    if mode == "nearest":
        return (2 * i + 1) * n // (2 * m), np.ones((m, 1))
    if mode == "area":
        low, high = i * n // m, -((i + 1) * -n // m)
        index = low + np.arange((high - low).max())
        return np.minimum(index, n - 1), (index < high) / (high - low)
    if _widened(mode, antialias):
        kernel, radius = _ANTIALIASED[mode]
        wide = max(n / m, 1.0)
        centre = (i + 0.5) * (n / m)
        low = np.floor(centre - radius * wide + 0.5)
        index = low + np.arange(math.ceil(2 * radius * wide) + 1)
        weight = kernel((index + 0.5 - centre) / wide) * ((index >= 0) & (index < n))
        weight /= weight.sum(1, keepdims=True)
    else:
        kernel, radius = _PLAIN[mode]
        first, rest = np.divmod((2 * i + 1) * n - m, 2 * m)
        step = np.arange(1 - radius, 1 + radius)
        index, weight = first + step, kernel(step - rest / (2 * m))
    return np.clip(index, 0, n - 1).astype(np.int64), weight


@functools.lru_cache(maxsize=1024)  # 10 kB each for crops, some hundred for whole images
def _bags(n: int, m: int, mode: Mode, antialias: bool, planes: int) -> Bags:
    """Return `_taps` of `planes` stacked images in the form of `embedding_bag`."""
    index, weight = _taps(n, m, mode, antialias)
    stacked = (index + n * np.arange(planes)[:, None, None]).reshape(-1)
    starts = np.arange(planes * m + 1) * index.shape[1]
    weights = np.tile(weight.astype(np.float32).reshape(-1), planes)
    return torch.from_numpy(stacked), torch.from_numpy(starts), torch.from_numpy(weights)


def _sum_bags(rows: Tensor, n: int, m: int, mode: Mode, antialias: bool) -> Tensor:
    index, starts, weights = _bags(n, m, mode, antialias, len(rows) // n)
    # As `functional.embedding_bag` (mode 0 sums) without its checks, which take as long.
    weights = weights if rows.dtype == torch.float32 else weights.to(rows.dtype)
    return torch.embedding_bag(rows, index, starts, False, 0, False, weights, True)[0]


def _resampled_rows(planes: Tensor, m: int, mode: Mode, antialias: bool) -> Tensor:
    """Resample (P, H, W) to (P, m, W)."""
    P, H, W = planes.shape
    return _sum_bags(planes.reshape(P * H, W), H, m, mode, antialias).view(P, m, W)


def _resampled_columns(planes: Tensor, m: int, mode: Mode, antialias: bool) -> Tensor:
    """Resample (P, H, W) to (P, H, m)."""
    P, H, W = planes.shape
    columns = _transposed(planes.reshape(P * H, W))
    return _transposed(_sum_bags(columns, W, m, mode, antialias)).view(P, H, m)


def _transposed(matrix: Tensor) -> Tensor:
    if matrix.requires_grad:
        return matrix.t().contiguous()
    import cv2  # twice as fast

    result = matrix.new_empty(matrix.shape[::-1])
    cv2.transpose(matrix.numpy(), dst=result.numpy())
    return result


# On a canvas each image has a matrix. Positions are integers and remainders, to be exact for sides
# beyond 4096, where float32 would be 2e-4 pixels off.
# Channels lie between rows and columns there: both products are then without a copy of a matrix
# for each channel.
def _by_columns(pixels: Tensor, matrices: Tensor) -> Tensor:
    """Multiply (B, C, H, N) by (B, M, N) to (B, H, C, M)."""
    B, C, H, N = pixels.shape
    lines = pixels.transpose(1, 2).reshape(B, H * C, N)
    return (lines @ matrices.transpose(1, 2)).view(B, H, C, -1)


def _by_rows(matrices: Tensor, pixels: Tensor) -> Tensor:
    """Multiply (B, M, N) by (B, N, C, W) to (B, C, M, W)."""
    B, N, C, W = pixels.shape
    return (matrices @ pixels.view(B, N, C * W)).view(B, -1, C, W).transpose(1, 2)


def _resampled_by(matrices: Matrices, canvas: Canvas, sizes: Tensor) -> Canvas:
    rows, columns = matrices
    pixels = _by_rows(rows, _by_columns(canvas.pixels, columns))
    return Canvas(pixels, sizes, canvas.hr_size)


def _matrices(
    canvas: Canvas,
    sizes: Tensor,
    extent: tuple[int, int],
    modes: Tensor | Mode,
    antialias: Tensor | bool,
    possible: Sequence[Mode] = MODES,
) -> Matrices:
    """Return (B, M, N) float32 for rows and for columns, which map the images to other sizes.

    Rows of a matrix beyond the size of the result repeat the last.
    """
    mode: Any = modes
    if isinstance(modes, str):
        mode, possible = MODES.index(modes), [modes]
    # Of both axes together: half of the launches.
    n, m = (part.t().reshape(-1, 1, 1) for part in (canvas.sizes, sizes))
    mode, widen = (
        x.repeat(2).view(-1, 1, 1) if isinstance(x, Tensor) else x for x in (mode, antialias)
    )
    device, (H, W) = sizes.device, canvas.pixels.shape[-2:]
    i = torch.minimum(torch.arange(max(extent), device=device).view(-1, 1), m - 1)
    j = torch.arange(max(H, W), device=device)
    whole, rest = _divmod((2 * i + 1) * n - m, 2 * m)  # (2B, M, 1): the centre of a new pixel

    plain = {
        name: kernel
        for name, (kernel, _) in _PLAIN.items()
        if name in possible and not (antialias is True and name in _ANTIALIASED)
    }
    wide = {
        name: kernel
        for name, (kernel, _) in _ANTIALIASED.items()
        if name in possible and (antialias is not False or name == "lanczos")
    }

    def is_mode(name: Mode) -> Tensor:
        return mode == MODES.index(name)

    def weights(d: Tensor, kernels: dict[Mode, Callable[[Any], Any]]) -> Tensor:
        (_, kernel), *others = kernels.items()
        result: Tensor = kernel(d)
        for name, kernel in others:
            result = torch.where(is_mode(name), kernel(d), result)
        return result

    matrix = torch.zeros((), device=device)
    if plain:
        steps = torch.arange(-1, 3, device=device)
        pixels = torch.minimum((whole + steps).clamp_min(0), n - 1)  # beyond an edge: its pixel
        taps = weights(steps - rest, plain)
        for pixel, tap in zip(pixels.chunk(4, 2), taps.chunk(4, 2), strict=True):
            matrix = torch.where(j == pixel, matrix + tap, matrix)
    if wide:
        weight = weights(((j - whole) - rest) / (n / m).clamp_min(1.0), wide) * (j < n)
        weight = weight / weight.sum(2, keepdim=True)
        chosen = is_mode("lanczos") | (widen & (is_mode("bilinear") | is_mode("bicubic")))
        matrix = torch.where(chosen, weight, matrix) if plain or "area" in possible else weight
    if "area" in possible:
        low, high = i * n // m, (i * n + (n + m - 1)) // m
        mean = ((j >= low) & (j < high)) / (high - low)
        matrix = torch.where(is_mode("area"), mean, matrix) if plain or wide else mean
    rows, columns = matrix.chunk(2)
    return rows[:, : extent[0], :H], columns[:, : extent[1], :W]


def _divmod(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Return the integer part of a / b, int64, and the rest, float32 in [0, 1)."""
    whole = a.div(b, rounding_mode="floor")
    return whole, (a - whole * b) / b


_ALIGNMENT = 16  # of canvas sides, so that few kernels are compiled; suits matrix products


class Resize(Stage):
    """Enlarge or shrink by a random factor, each image by its own and with its own kernel.

    The sides become floor(HR side / ``divisor`` * factor), at least 1, whatever the size of the
    image before this stage.

    Image by image on a CPU it replaces `F.interpolate`: it is 1.1 to 2.7 times as fast for
    shrinking and 1.6 to 4.9 times for enlarging (16 images of 256 px on one core, every size for
    the first time), closer to the exact result (3e-7 off at most, 4e-5 by float positions), and
    correct for antialiased results one pixel wide, unlike torch's.

    Args:
        up: Range of the factor of images that are enlarged, at least 1.
        down: Range of the factor of images that are shrunk, at most 1.
        p: Probabilities that an image is enlarged, shrunk, or gets factor 1.
        modes: Kernels to choose from, equally likely, or each with its probability: ``area``
            (the mean of the pixels below a new pixel), ``bilinear``, ``bicubic``,
            ``nearest``, ``lanczos`` (three lobes).
        antialias: Widen ``bilinear`` and ``bicubic`` by the factor if an image shrinks, as in
            Pillow; a number is the probability per image. ``lanczos`` is always widened, ``area``
            and ``nearest`` never.
        divisor: Divisor of the HR sides, to which the factor is relative: the scale, for an image
            of about the LR size.

    Raises:
        ValueError: A range is reversed or crosses 1, or probabilities do not have sum 1.

    Source: Real-ESRGAN (Wang et al., 2021; arXiv 2107.10833), the first resize of its released x4
    options. Its code passes the factor itself to `F.interpolate` there, which then samples at steps
    of 1 / factor and omits less than one new pixel at the right and lower edge; here, as in its
    second resize, the steps follow from the two sizes.
    """

    resizes = True

    def __init__(
        self,
        up: tuple[float, float] = (1.0, 1.5),
        down: tuple[float, float] = (0.15, 1.0),
        p: tuple[float, float, float] = (0.2, 0.7, 0.1),
        modes: Modes = ("area", "bilinear", "bicubic"),
        antialias: bool | UnitInterval = False,
        divisor: PositiveFloat = 1.0,
    ) -> None:
        super().__init__()
        self.up = check_range(up, "up", low=1.0)
        self.down = check_range(down, "down", low=0.0, high=1.0)
        self.p = check_probabilities(p, 3)
        self.modes = tuple(modes)
        shares = modes.values() if isinstance(modes, dict) else [1 / len(modes)] * len(modes)
        self.mode_p = check_probabilities([*shares], len(modes), "modes")
        self.antialias, self.divisor = float(antialias), float(divisor)

    def draw(self, draws: Draws, shape: torch.Size) -> Params:
        """Draw `factor`, `mode` (index of `MODES`), `antialias`, (B,) each; `size` (B, 2)."""
        kind = draws.choice([0, 1, 2], self.p)
        factor = np.choose(kind, [draws.uniform(*self.up), draws.uniform(*self.down), 1.0])
        return {
            "size": self._side(np.array(shape[-2:]), factor[:, None]).astype(np.int64),
            "factor": factor,
            "mode": draws.choice([MODES.index(mode) for mode in self.modes], self.mode_p),
            "antialias": draws.bernoulli(self.antialias),
        }

    def forward(self, x: Tensor, params: Params) -> Tensor:
        """Resize to (B, C, *size), equal for all images of the batch."""
        if len(x) > 1:
            return each_image(self, x, params)
        mode, antialias = MODES[int(params["mode"])], bool(params["antialias"])
        return resample(x, params["size"][0].tolist(), mode, antialias)

    def on_canvas(self, canvas: Canvas, params: Params) -> Canvas:
        """Resize all images, on a canvas for the largest size that can be drawn."""
        return self.resampler(canvas, params)(canvas)

    def resampler(self, canvas: Canvas, params: Params) -> Callable[[Canvas], Canvas]:
        """Return `on_canvas` for any canvas with the sizes of this one."""
        antialias = params["antialias"] if 0.0 < self.antialias < 1.0 else self.antialias > 0.0
        sizes, extent = params["size"], self.extent(canvas.hr_size)
        matrices = _matrices(canvas, sizes, extent, params["mode"], antialias, self.modes)
        return lambda other: _resampled_by(matrices, other, sizes)

    def extent(self, hr_size: tuple[int, int]) -> tuple[int, int]:
        """Return (H, W) of a canvas for every result for HR of this size.

        It also fits the HR size divided by `divisor` and rounded, up or down.
        """
        largest = max(self.up[1] if self.p[0] else 1.0, 1.0)
        height, width = (
            rounded_up(max(int(self._side(n, largest)), math.ceil(n / self.divisor)), _ALIGNMENT)
            for n in hr_size
        )
        return height, width

    def _side(self, n: Any, factor: Any) -> Any:
        return np.maximum(np.floor(n / self.divisor * factor), 1)
