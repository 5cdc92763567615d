"""The Resize stage, and resampling as OpenCV, Pillow and MATLAB do it.

The kernels are applied in two ways: for one image on a CPU, torch's `embedding_bag` sums a few
weighted pixels per output pixel; for all images of a canvas, each image has a matrix. OpenCV
computes bilinear and bicubic without antialiasing for small images on a CPU, in 0.6 of the time.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from degradations.base import (
    Canvas,
    ImageFunction,
    Range,
    Size,
    Stage,
    by_images,
    check_range,
    repeated_size,
    rounded_up,
)
from degradations.draws import Draws, Params, check_probabilities
from files.numbers import PositiveFloat, UnitInterval

Mode: TypeAlias = Literal["area", "bilinear", "bicubic", "nearest"]

#: Modes by the numbers in recorded parameters, independent of the modes of a stage.
MODES: tuple[Mode, ...] = get_args(Mode)
Modes: TypeAlias = tuple[Mode, ...]
Taps: TypeAlias = tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]
Bags: TypeAlias = tuple[Tensor, Tensor, Tensor]
Kernel: TypeAlias = Callable[[Any], Any]  # of distances
Kernels: TypeAlias = dict[Mode, Kernel]
Matrices: TypeAlias = tuple[Tensor, Tensor]  # for rows and for columns

# Modes for which OpenCV's results equal ours (its area differs by up to half of white).
_OPENCV = {"bilinear": "INTER_LINEAR", "bicubic": "INTER_CUBIC"}
_OPENCV_SIDE = 512  # its coordinates are too coarse for 1e-5 beyond
_ALIGNMENT = 16  # of canvas sides, so that few kernels are compiled; suits matrix products


def resample(
    x: Tensor,
    size: Sequence[int],
    mode: Mode,
    antialias: bool = False,
) -> Tensor:
    """Resample images of one size to another size.

    ``area``: the mean of the pixels [floor(i n / m), ceil((i + 1) n / m)), as in
    `F.adaptive_avg_pool2d`. ``nearest``: the pixel below the centre of the new one ("nearest-exact"
    of `F.interpolate`; "nearest" shifts the image by up to half a pixel relative to other modes).
    ``bilinear``, ``bicubic``: as `F.interpolate` with align_corners=False; bicubic has a = -3/4,
    and with `antialias` a = -1/2 as in Pillow.

    Args:
        x: (B, C, H, W) floating. Bicubic overshoots; nothing is clamped.
        size: (h, w) of the result, at least 1 each.
        mode: One of `MODES`.
        antialias: Widen bilinear and bicubic kernels if a side shrinks.

    Returns:
        (B, C, h, w); `x` itself if it has that size.

    """
    h, w = size
    B, C, H, W = x.shape
    if (h, w) == (H, W):
        return x
    if x.device.type != "cpu":
        sizes = repeated_size((h, w), B, x.device)
        canvas = resample_canvas(Canvas.of(x), sizes, mode, antialias, (h, w))
        return canvas.pixels
    planes = x.reshape(-1, H, W)
    is_small = max(H, W, h, w) <= _OPENCV_SIDE
    is_plain = mode in _OPENCV and not antialias
    if is_small and is_plain and x.dtype == torch.float32:
        resized = _by_opencv(planes, (h, w), mode)
        return resized.view(B, C, h, w)
    # Resampling columns transposes the image: do it while there are fewest rows.
    if h < H:
        planes = _resampled_rows(planes, h, mode, antialias)
    if w != W:
        planes = _resampled_columns(planes, w, mode, antialias)
    if h > H:
        planes = _resampled_rows(planes, h, mode, antialias)
    return planes.view(B, C, h, w)


def resample_canvas(
    canvas: Canvas,
    sizes: Tensor,
    modes: Tensor | Mode,
    antialias: Tensor | bool,
    extent: Size,
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


def shrink_canvas(canvas: Canvas, size: Size) -> Tensor:
    """Resize images of differing sizes to one size as `bicubic.resize`, clamped after each pass.

    Args:
        canvas: The images, in [0, 1].
        size: (h, w) of the result.

    Returns:
        (B, C, h, w) in [0, 1].
    """
    sizes = repeated_size(size, len(canvas.pixels), canvas.pixels.device)
    row_matrices, column_matrices = _matrices(canvas, sizes, size, "bicubic", True)
    narrow = _by_columns(canvas.pixels, column_matrices).clamp(0.0, 1.0)
    return _by_rows(row_matrices, narrow).clamp(0.0, 1.0)


# Kernels are functions of the distance in pixels (new pixels if antialiased), 0 beyond their
# radius, for NumPy arrays and torch tensors.
def _box(d: Any) -> Any:
    """Return the kernel of ``nearest``."""
    return 1.0 * (d > -0.5) * (d <= 0.5)


def _triangle(d: Any) -> Any:
    """Return the kernel of ``bilinear``."""
    return (1 - abs(d)).clip(0, None)


def _cubic(a: float, d: Any) -> Any:
    """Return the kernel of ``bicubic`` with parameter a."""
    near = _triangle(d)
    far = (2 - abs(d)).clip(0, None)
    centre = near * near * (4 * a + 3 - 2 * near)
    return a * far * far * (1 - far) + centre


_PLAIN: Kernels = {
    "bilinear": _triangle,
    "bicubic": functools.partial(_cubic, -0.75),
    "nearest": _box,
}
_ANTIALIASED: Kernels = {
    "bilinear": _triangle,
    "bicubic": functools.partial(_cubic, -0.5),
}
_RADII: dict[Mode, int] = {
    "bilinear": 1,
    "bicubic": 2,
}


def _by_opencv(planes: Tensor, size: Size, mode: Mode) -> Tensor:
    """Resize planes (P, H, W) by OpenCV."""
    import cv2

    h, w = size
    interpolation = getattr(cv2, _OPENCV[mode])
    sources = planes.contiguous().numpy()
    y = planes.new_empty(len(planes), h, w)
    for plane, target in zip(sources, y.numpy(), strict=True):
        cv2.resize(plane, (w, h), dst=target, interpolation=interpolation)
    return y


def _taps(inputs: int, outputs: int, mode: Mode, antialias: bool) -> Taps:
    """Return the T source pixels of each target pixel along a side: indices and weights.

    Args:
        inputs: Source pixels of the side.
        outputs: Target pixels of the side.
        mode: One of `MODES`.
        antialias: As in `resample`.

    Returns:
        (outputs, T) each.
    """
    if mode == "nearest":
        return _nearest_taps(inputs, outputs)
    if mode == "area":
        return _area_taps(inputs, outputs)
    if antialias:
        return _antialiased_taps(inputs, outputs, mode)
    return _plain_taps(inputs, outputs, mode)


def _nearest_taps(inputs: int, outputs: int) -> Taps:
    """As `_taps`: one pixel, below the centre of the new one."""
    i = np.arange(outputs)[:, None]
    index = (2 * i + 1) * inputs // (2 * outputs)  # the pixel's centre, in integers
    return index, np.ones((outputs, 1))


def _area_taps(inputs: int, outputs: int) -> Taps:
    """As `_taps`: the pixels that the new one touches, with equal weights."""
    i = np.arange(outputs)[:, None]
    start = i * inputs // outputs
    stop = -((i + 1) * -inputs // outputs)  # rounded up
    count = stop - start
    index = start + np.arange(count.max())
    weight = (index < stop) / count
    return np.minimum(index, inputs - 1), weight


def _antialiased_taps(inputs: int, outputs: int, mode: Mode) -> Taps:
    """As `_taps`; when shrinking, the kernel is stretched by the factor."""
    kernel = _ANTIALIASED[mode]
    radius = _RADII[mode]
    width = max(inputs / outputs, 1.0)
    i = np.arange(outputs)[:, None]
    centre = (i + 0.5) * (inputs / outputs)
    first = np.floor(centre - radius * width + 0.5)
    count = math.ceil(2 * radius * width) + 1
    index = first + np.arange(count)
    inside = (index >= 0) & (index < inputs)
    distance = (index + 0.5 - centre) / width
    weight = kernel(distance) * inside
    weight /= weight.sum(1, keepdims=True)
    index = np.clip(index, 0, inputs - 1)
    return index.astype(np.int64), weight


def _plain_taps(inputs: int, outputs: int, mode: Mode) -> Taps:
    """As `_taps`, for a kernel that is not widened."""
    kernel = _PLAIN[mode]
    radius = _RADII[mode]
    i = np.arange(outputs)[:, None]
    # The centre in source pixels, (i + 1/2) inputs / outputs - 1/2, as a fraction of integers.
    numerator = (2 * i + 1) * inputs - outputs
    below, rest = np.divmod(numerator, 2 * outputs)
    step = np.arange(1 - radius, 1 + radius)
    weight = kernel(step - rest / (2 * outputs))
    index = np.clip(below + step, 0, inputs - 1)
    return index.astype(np.int64), weight


@functools.lru_cache(maxsize=1024)  # 10 kB each for crops, some hundred for whole images
def _bags(inputs: int, outputs: int, mode: Mode, antialias: bool, planes: int) -> Bags:
    """Return `_taps` of `planes` stacked images in the form of `embedding_bag`.

    That function sums weighted rows of a table: the rows of pixels of all planes. A bag holds the
    source rows of one target row.

    Returns:
        Numbers of the source rows, bag after bag; where each bag starts; and their weights.
    """
    index, weight = _taps(inputs, outputs, mode, antialias)
    first_rows = inputs * np.arange(planes)[:, None, None]
    indices = (index + first_rows).reshape(-1)
    starts = np.arange(planes * outputs + 1) * index.shape[1]
    weight = weight.astype(np.float32)
    weights = np.tile(weight.reshape(-1), planes)
    return torch.from_numpy(indices), torch.from_numpy(starts), torch.from_numpy(weights)


def _sum_bags(
    rows: Tensor,
    inputs: int,
    outputs: int,
    mode: Mode,
    antialias: bool,
) -> Tensor:
    """Resample the rows of stacked planes, (P inputs, W) to (P outputs, W)."""
    planes = len(rows) // inputs
    indices, starts, weights = _bags(inputs, outputs, mode, antialias, planes)
    if rows.dtype != torch.float32:
        weights = weights.to(rows.dtype)
    # As `functional.embedding_bag` (mode 0 sums) without its checks, which take as long.
    sums, *_ = torch.embedding_bag(rows, indices, starts, False, 0, False, weights, True)
    return sums


def _resampled_rows(
    planes: Tensor,
    outputs: int,
    mode: Mode,
    antialias: bool,
) -> Tensor:
    """Resample (P, H, W) to (P, outputs, W)."""
    P, H, W = planes.shape
    rows = planes.reshape(P * H, W)
    resampled = _sum_bags(rows, H, outputs, mode, antialias)
    return resampled.view(P, outputs, W)


def _resampled_columns(
    planes: Tensor,
    outputs: int,
    mode: Mode,
    antialias: bool,
) -> Tensor:
    """Resample (P, H, W) to (P, H, outputs)."""
    # Bags are of rows, so the planes are transposed before and after.
    P, H, W = planes.shape
    columns = _transposed(planes.reshape(P * H, W))
    resampled = _sum_bags(columns, W, outputs, mode, antialias)
    return _transposed(resampled).view(P, H, outputs)


def _transposed(matrix: Tensor) -> Tensor:
    """Transpose (H, W) to a contiguous (W, H) on the CPU."""
    import cv2  # twice as fast

    result = matrix.new_empty(matrix.shape[::-1])
    cv2.transpose(matrix.numpy(), dst=result.numpy())
    return result


# On a canvas, each image is resampled by its own matrices. Positions are integers with remainders,
# because float32 would be 2e-4 pixels off for sides beyond 4096. Between the two products channels
# lie between rows and columns, which spares a copy of the matrix for each channel.
def _by_columns(pixels: Tensor, matrices: Tensor) -> Tensor:
    """Multiply (B, C, H, N) by (B, M, N) to (B, H, C, M)."""
    B, C, H, N = pixels.shape
    lines = pixels.transpose(1, 2).reshape(B, H * C, N)
    products = lines @ matrices.transpose(1, 2)
    return products.view(B, H, C, -1)


def _by_rows(matrices: Tensor, pixels: Tensor) -> Tensor:
    """Multiply (B, M, N) by (B, N, C, W) to (B, C, M, W)."""
    B, N, C, W = pixels.shape
    lines = pixels.view(B, N, C * W)
    products = matrices @ lines
    return products.view(B, -1, C, W).transpose(1, 2)


def _resampled_by(matrices: Matrices, canvas: Canvas, sizes: Tensor) -> Canvas:
    """Resample the images of a canvas by their matrices."""
    row_matrices, column_matrices = matrices
    narrow = _by_columns(canvas.pixels, column_matrices)
    return Canvas(_by_rows(row_matrices, narrow), sizes, canvas.hr_size)


class _Grid(NamedTuple):
    """Positions of pixels along both axes, rows and columns stacked as a batch of 2B.

    source_side: (2B, 1, 1), sides of the images.
    target_side: (2B, 1, 1), sides of the results.
    source: (N,), indices of the images' pixels.
    target: (2B, M, 1), indices of the results' pixels; the last one is repeated.
    below: (2B, M, 1), the target's centres in source pixels, rounded down.
    rest: (2B, M, 1) float32, what was rounded off.
    """

    source_side: Tensor
    target_side: Tensor
    source: Tensor
    target: Tensor
    below: Tensor
    rest: Tensor

    @classmethod
    def of(
        cls,
        canvas: Canvas,
        sizes: Tensor,
        extent: Size,
    ) -> _Grid:
        """Return the grid of a canvas and of results of these sizes on another one."""
        H, W = canvas.pixels.shape[-2:]
        source_side = canvas.sizes.t().reshape(-1, 1, 1)
        target_side = sizes.t().reshape(-1, 1, 1)
        source = torch.arange(max(H, W), device=sizes.device)
        index = torch.arange(max(extent), device=sizes.device)
        target = torch.minimum(index.view(-1, 1), target_side - 1)
        numerator = (2 * target + 1) * source_side - target_side
        below, rest = _divmod(numerator, 2 * target_side)
        return cls(source_side, target_side, source, target, below, rest)


def _matrices(
    canvas: Canvas,
    sizes: Tensor,
    extent: Size,
    modes: Tensor | Mode,
    antialias: Tensor | bool,
    possible: Sequence[Mode] = MODES,
) -> Matrices:
    """Return (B, M, N) float32 for rows and for columns, which map the images to other sizes.

    Rows of a matrix beyond the size of the result repeat the last.

    Args:
        canvas: The images.
        sizes: (B, 2), the sizes of the results.
        extent: (H, W) of the results' canvas.
        modes: (B,) indices of `MODES`, or one mode for all.
        antialias: (B,) bool, or one for all.
        possible: Modes that occur in `modes`; the fewer, the less work.
    """
    mode: Any
    if isinstance(modes, str):
        mode = MODES.index(modes)
        possible = [modes]
    else:
        mode = _for_both_axes(modes)
    if isinstance(antialias, Tensor):
        antialias = _for_both_axes(antialias)
    # Both axes together: half of the launches.
    grid = _Grid.of(canvas, sizes, extent)

    plain: Kernels = {}
    for name, kernel in _PLAIN.items():
        always_antialiased = antialias is True and name in _ANTIALIASED
        if name in possible and not always_antialiased:
            plain[name] = kernel
    antialiased: Kernels = {}
    for name, kernel in _ANTIALIASED.items():
        if name in possible and antialias is not False:
            antialiased[name] = kernel

    # Masks of images, and weights of pixels for them; later ones override earlier ones.
    weights: list[tuple[Any, Tensor]] = []
    if plain:
        weights.append((True, _plain_matrix(grid, mode, plain)))
    if antialiased:
        can_widen = _is_mode(mode, "bilinear") | _is_mode(mode, "bicubic")
        weights.append((antialias & can_widen, _antialiased_matrix(grid, mode, antialiased)))
    if "area" in possible:
        weights.append((_is_mode(mode, "area"), _area_matrix(grid)))
    (_, matrix), *others = weights
    for mask, other in others:
        matrix = torch.where(mask, other, matrix)

    H, W = canvas.pixels.shape[-2:]
    h, w = extent
    row_matrices, column_matrices = matrix.chunk(2)
    return row_matrices[:, :h, :H], column_matrices[:, :w, :W]


def _for_both_axes(values: Tensor) -> Tensor:
    """Repeat (B,) values for rows and for columns, (2B, 1, 1)."""
    return values.repeat(2).view(-1, 1, 1)


def _is_mode(mode: Any, name: Mode) -> Any:
    """Return whether an index, or each of a tensor of indices, is that of a mode."""
    return mode == MODES.index(name)


def _weights(d: Tensor, mode: Any, kernels: Kernels) -> Tensor:
    """Return the kernel of each image's mode at the distances.

    An image of a mode without a kernel here gets any: the caller overrides its weights.
    """
    (_, kernel), *others = kernels.items()
    weights: Tensor = kernel(d)
    for name, kernel in others:
        weights = torch.where(_is_mode(mode, name), kernel(d), weights)
    return weights


def _plain_matrix(grid: _Grid, mode: Any, kernels: Kernels) -> Tensor:
    """Return (2B, M, N), the weights of kernels of at most four pixels."""
    steps = torch.arange(-1, 3, device=grid.source.device)
    # Beyond an edge lies a copy of its pixel.
    pixels = (grid.below + steps).clamp_min(0)
    pixels = torch.minimum(pixels, grid.source_side - 1)
    weights = _weights(steps - grid.rest, mode, kernels)
    taps = zip(pixels.chunk(4, 2), weights.chunk(4, 2), strict=True)
    matrix = torch.zeros((), device=grid.source.device)
    # Added one by one, since at an edge several taps are the same pixel.
    for pixel, weight in taps:
        is_pixel = grid.source == pixel
        matrix = torch.where(is_pixel, matrix + weight, matrix)
    return matrix


def _antialiased_matrix(grid: _Grid, mode: Any, kernels: Kernels) -> Tensor:
    """Return (2B, M, N), the weights of kernels that are widened by the factor."""
    width = (grid.source_side / grid.target_side).clamp_min(1.0)
    distance = (grid.source - grid.below) - grid.rest
    inside = grid.source < grid.source_side
    weights = _weights(distance / width, mode, kernels) * inside
    return weights / weights.sum(2, keepdim=True)


def _area_matrix(grid: _Grid) -> Tensor:
    """Return (2B, M, N), the weights of the mean over the pixels that a new one touches."""
    scaled = grid.target * grid.source_side
    start = scaled // grid.target_side
    rounding_up = grid.source_side + grid.target_side - 1
    stop = (scaled + rounding_up) // grid.target_side
    inside = (grid.source >= start) & (grid.source < stop)
    return inside / (stop - start)


def _divmod(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Return the integer part of a / b, int64, and the rest, float32 in [0, 1)."""
    quotient = a.div(b, rounding_mode="floor")
    remainder = a - quotient * b
    return quotient, remainder / b


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
        modes: Kernels to choose from, equally likely: ``area`` (the mean of the pixels below a
            new pixel), ``bilinear``, ``bicubic``, ``nearest``.
        antialias: Widen ``bilinear`` and ``bicubic`` by the factor if an image shrinks, as in
            Pillow; a number is the probability per image. ``area`` and ``nearest`` are never
            widened.
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
        up: Range = (1.0, 1.5),
        down: Range = (0.15, 1.0),
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
        self.mode_p = [1 / len(modes)] * len(modes)
        self.antialias = float(antialias)
        self.divisor = float(divisor)

    def draw(self, draws: Draws, shape: torch.Size) -> Params:
        """Draw `factor`, `mode` (index of `MODES`), `antialias`, (B,) each; `size` (B, 2)."""
        direction = draws.choice([0, 1, 2], self.p)
        enlarging = draws.uniform(*self.up)
        shrinking = draws.uniform(*self.down)
        factor = np.choose(direction, [enlarging, shrinking, 1.0])
        hr_size = np.array(shape[-2:])
        size = self._side(hr_size, factor[:, None])
        indices = [MODES.index(mode) for mode in self.modes]
        return {
            "size": size.astype(np.int64),
            "factor": factor,
            "mode": draws.choice(indices, self.mode_p),
            "antialias": draws.bernoulli(self.antialias),
        }

    def forward(self, x: Tensor, params: Params) -> Tensor:
        """Resize to (B, C, *size), equal for all images of the batch."""
        return by_images(self, x, params)

    def image_functions(self, params: Params, x: Tensor) -> list[ImageFunction]:
        """Return for each image the resize to its own size."""
        functions: list[ImageFunction] = []
        sizes = params["size"].tolist()
        modes = params["mode"].tolist()
        antialias = params["antialias"].tolist()
        for size, index, is_antialiased in zip(sizes, modes, antialias, strict=True):
            function = functools.partial(
                resample, size=size, mode=MODES[index], antialias=is_antialiased
            )
            functions.append(function)
        return functions

    def on_canvas(self, canvas: Canvas, params: Params) -> Canvas:
        """Resize all images, on a canvas for the largest size that can be drawn."""
        resampled = self.resampler(canvas, params)
        return resampled(canvas)

    def resampler(self, canvas: Canvas, params: Params) -> Callable[[Canvas], Canvas]:
        """Return `on_canvas` for any canvas with the sizes of this one.

        The two orders of `SincAndJPEG` then share the matrices.
        """
        sizes = params["size"]
        antialias = params["antialias"]
        if self.antialias in {0.0, 1.0}:  # the same for all: no other kernels are computed
            antialias = self.antialias == 1.0
        extent = self.extent(canvas.hr_size)
        matrices = _matrices(canvas, sizes, extent, params["mode"], antialias, self.modes)

        def resampled(other: Canvas) -> Canvas:
            return _resampled_by(matrices, other, sizes)

        return resampled

    def extent(self, hr_size: Size) -> Size:
        """Return (H, W) of a canvas for every result for HR of this size.

        It also fits the HR size divided by `divisor` and rounded, up or down.
        """
        H, W = hr_size
        return self._largest_side(H), self._largest_side(W)

    def _largest_side(self, n: int) -> int:
        """Return the side of a canvas that fits every drawn size, for an HR side of ``n``."""
        enlarges = self.p[0] > 0
        largest_factor = self.up[1] if enlarges else 1.0
        resized = int(self._side(n, largest_factor))
        lr = math.ceil(n / self.divisor)
        return rounded_up(max(resized, lr), _ALIGNMENT)

    def _side(self, n: Any, factor: Any) -> Any:
        """Return the side that a factor gives for an HR side of ``n``: floor, at least 1."""
        side = np.floor(n / self.divisor * factor)
        return np.maximum(side, 1)
