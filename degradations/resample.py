"""Resampling by any factor: five kernels, every image with its own factor and kernel.

One definition of the kernels stands behind two ways to apply them: a few weighted pixels an output
pixel, summed by torch's `embedding_bag`, for one picture on a CPU; a matrix a picture, for all
pictures of a canvas at once. OpenCV does the two that it has alike, bilinear and bicubic without
antialiasing, for small pictures on a CPU in 0.6 of the time.
"""

from __future__ import annotations

import functools
import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from degradations.canvas import Canvas

Mode: TypeAlias = Literal["area", "bilinear", "bicubic", "nearest", "lanczos"]
#: What the numbers in recorded parameters mean, whatever the modes of a stage.
MODES: tuple[Mode, ...] = get_args(Mode)
Bags: TypeAlias = tuple[Tensor, Tensor, Tensor]


def resample(x: Tensor, size: Sequence[int], mode: Mode, antialias: bool = False) -> Tensor:
    """Pictures of one size, resampled to another.

    ``area``: the mean of the pixels [floor(i n / m), ceil((i + 1) n / m)), as
    `F.adaptive_avg_pool2d`. ``nearest``: the pixel under the new one's centre ("nearest-exact" of
    `F.interpolate`: "nearest" moves the picture by up to half a pixel against the other modes).
    ``bilinear``, ``bicubic``: as `F.interpolate` with align_corners=False, where bicubic has
    a = -3/4, and with `antialias` a = -1/2 as Pillow. ``lanczos``: as Pillow.

    Args:
        x: (B, C, H, W) floating. Results overshoot by bicubic and lanczos: nothing is clamped.
        size: (h, w) of the result, at least 1 each.
        mode: One of `MODES`.
        antialias: Widen bilinear and bicubic where a side shrinks.

    Returns:
        (B, C, h, w); `x` itself where that is its size.

    Raises:
        ValueError: the mode is unknown, or less than a pixel is asked for.
    """
    h, w = size
    if mode not in MODES or min(h, w) < 1:
        raise ValueError(
            f"resample to {h}x{w} by {mode!r}; expected at least 1x1 and one of {', '.join(MODES)}"
        )
    H, W = x.shape[-2:]
    if (h, w) == (H, W):
        return x
    if x.device.type != "cpu":
        heights, widths = (torch.full((len(x),), n, device=x.device) for n in (h, w))
        return resample_canvas(Canvas.of(x), heights, widths, mode, antialias, (h, w)).pixels
    planes = x.reshape(-1, H, W)
    small = max(H, W, h, w) <= _OPENCV_SIDE
    if small and mode in _OPENCV and not (antialias or x.requires_grad) and x.dtype == _OPENCV_TYPE:
        return _by_opencv(planes, (h, w), mode).view(*x.shape[:2], h, w)
    if h < H:  # rows first: then the fewer are transposed
        planes = _resampled_rows(planes, h, mode, antialias)
    if w != W:
        planes = _resampled_columns(planes, w, mode, antialias)
    if h > H:
        planes = _resampled_rows(planes, h, mode, antialias)
    return planes.view(*x.shape[:2], h, w)


def resample_canvas(
    canvas: Canvas,
    heights: Tensor,
    widths: Tensor,
    modes: Tensor | Mode,
    antialias: Tensor | bool,
    extent: tuple[int, int],
    possible: Sequence[Mode] = MODES,
) -> Canvas:
    """`resample` of each picture to its own size by its own kernel, as two matrix products.

    Args:
        canvas: The pictures.
        heights: (B,) int64 on the pictures' device, at most extent[0].
        widths: (B,), at most extent[1].
        modes: (B,) numbers of `MODES`, or one mode for all.
        antialias: (B,) bool, or one for all.
        extent: (H, W) of the new canvas.
        possible: Those that `modes` may hold; what is not in it costs nothing.

    Returns:
        The pictures and their new sizes; beyond a picture its last pixels are repeated.
    """
    rows, columns = (
        _matrices(n, m, N, M, modes, antialias, possible)
        for n, m, N, M in zip(
            canvas.sizes.unbind(1), (heights, widths), canvas.pixels.shape[-2:], extent, strict=True
        )
    )
    pixels = rows.unsqueeze(1) @ _by_columns(canvas.pixels, columns)
    return Canvas(pixels, torch.stack((heights, widths), 1), canvas.hr_size)


def shrink_canvas(canvas: Canvas, size: tuple[int, int]) -> Tensor:
    """`bicubic.resize` of pictures of differing sizes to one: antialiased, clamped after each pass.

    Args:
        canvas: The pictures, in [0, 1].
        size: (h, w) of the result.

    Returns:
        (B, C, h, w) in [0, 1].
    """
    rows, columns = (
        _matrices(n, torch.full_like(n, m), N, m, "bicubic", True)
        for n, N, m in zip(canvas.sizes.unbind(1), canvas.pixels.shape[-2:], size, strict=True)
    )
    narrow = _by_columns(canvas.pixels, columns).clamp(0.0, 1.0)
    return (rows.unsqueeze(1) @ narrow).clamp(0.0, 1.0)


# The kernels: functions of the distance in (new, where antialiased) pixels, 0 beyond their radius.
# NumPy's arrays and torch's tensors both pass through them.


def _triangle(d: Any) -> Any:
    return (1 - abs(d)) * (abs(d) < 1)


def _cubic(a: float, d: Any) -> Any:
    d = abs(d)
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
    return near * (d <= 1) + far * ((d > 1) & (d < 2))


def _lanczos(d: Any) -> Any:
    sinc: Callable[[Any], Any] = torch.sinc if isinstance(d, Tensor) else np.sinc
    return sinc(d) * sinc(d / 3) * (abs(d) < 3)


_PLAIN: dict[str, tuple[Callable[[Any], Any], int]] = {
    "bilinear": (_triangle, 1),
    "bicubic": (functools.partial(_cubic, -0.75), 2),
}
_ANTIALIASED: dict[str, tuple[Callable[[Any], Any], int]] = {
    "bilinear": (_triangle, 1),
    "bicubic": (functools.partial(_cubic, -0.5), 2),
    "lanczos": (_lanczos, 3),
}


def _widened(mode: str, antialias: bool) -> bool:
    return mode == "lanczos" or (antialias and mode in _ANTIALIASED)


# On the CPU: by OpenCV what it does alike (its area differs from torch's by up to half of white).

_OPENCV = {"bilinear": "INTER_LINEAR", "bicubic": "INTER_CUBIC"}
_OPENCV_SIDE = 512  # beyond, its coordinates are too coarse for 1e-5
_OPENCV_TYPE = torch.float32


def _by_opencv(planes: Tensor, size: tuple[int, int], mode: Mode) -> Tensor:
    import cv2

    h, w = size
    y = planes.new_empty(len(planes), h, w)
    for plane, target in zip(planes.contiguous().numpy(), y.numpy(), strict=True):
        cv2.resize(plane, (w, h), dst=target, interpolation=getattr(cv2, _OPENCV[mode]))
    return y


# Else T weighted pixels for each new one.


def _taps(
    n: int, m: int, mode: Mode, antialias: bool
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """(m, T) numbers of the n pixels that each of m new ones is made of, and their weights."""
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


def _new_bags(n: int, m: int, mode: Mode, antialias: bool, planes: int) -> Bags:
    """`_taps` for `planes` pictures one below the other, as `embedding_bag` takes them."""
    index, weight = _taps(n, m, mode, antialias)
    stacked = (index + n * np.arange(planes)[:, None, None]).reshape(-1)
    starts = np.arange(planes * m + 1) * index.shape[1]
    weights = np.tile(weight.astype(np.float32).reshape(-1), planes)
    return torch.from_numpy(stacked), torch.from_numpy(starts), torch.from_numpy(weights)


class _Kept:
    """What was asked for last, up to so many bytes.

    `functools.lru_cache` counts, but a whole picture takes some hundred kB where a crop takes ten.

    Args:
        make: Gives what stands for some arguments.
        room: Bytes that all of it may take.
    """

    def __init__(self, make: Callable[..., Bags], room: int) -> None:
        self.make, self.room = make, room
        self.found: OrderedDict[tuple[int | str, ...], Bags] = OrderedDict()
        self.taken = 0
        self._lock = threading.Lock()

    def __call__(self, *key: int | str) -> Bags:
        with self._lock:
            found = self.found.get(key)
            if found is not None:
                self.found.move_to_end(key)
                return found
        made = self.make(*key)
        with self._lock:
            if key not in self.found:
                self.found[key] = made
                self.taken += _bytes(made)
            while self.taken > self.room:
                self.taken -= _bytes(self.found.popitem(last=False)[1])
        return made


def _bytes(bags: Bags) -> int:
    return sum(part.nbytes for part in bags)


_bags = _Kept(_new_bags, 128 << 20)  # of 2,000 crops: of one size they meet the same factors again


def _summed(rows: Tensor, n: int, m: int, mode: Mode, antialias: bool) -> Tensor:
    index, starts, weights = _bags(n, m, mode, antialias, len(rows) // n)
    # What `functional.embedding_bag` calls (mode 0 sums), without its checks, which take as long.
    weights = weights if rows.dtype == torch.float32 else weights.to(rows.dtype)
    bags: Tensor = torch.embedding_bag(rows, index, starts, False, 0, False, weights, True)[0]
    return bags


def _resampled_rows(planes: Tensor, m: int, mode: Mode, antialias: bool) -> Tensor:
    """(P, H, W) to (P, m, W)."""
    P, H, W = planes.shape
    return _summed(planes.reshape(P * H, W), H, m, mode, antialias).view(P, m, W)


def _resampled_columns(planes: Tensor, m: int, mode: Mode, antialias: bool) -> Tensor:
    """(P, H, W) to (P, H, m)."""
    P, H, W = planes.shape
    columns = _transposed(planes.reshape(P * H, W))
    return _transposed(_summed(columns, W, m, mode, antialias)).view(P, H, m)


def _transposed(matrix: Tensor) -> Tensor:
    if matrix.requires_grad:
        return matrix.t().contiguous()
    import cv2  # twice as quick

    result = matrix.new_empty(matrix.shape[::-1])
    cv2.transpose(matrix.numpy(), dst=result.numpy())
    return result


# On a canvas: a matrix a picture. Positions are whole numbers and remainders of them, so that they
# are exact for sides beyond 4096, where float32 would be 2e-4 pixels off.


def _by_columns(pixels: Tensor, matrices: Tensor) -> Tensor:
    """(B, C, H, N) times (B, M, N): (B, C, H, M)."""
    B, C, H, N = pixels.shape
    return (pixels.reshape(B, C * H, N) @ matrices.transpose(1, 2)).view(B, C, H, -1)


def _matrices(
    n: Tensor,
    m: Tensor,
    N: int,
    M: int,
    modes: Tensor | Mode,
    antialias: Tensor | bool,
    possible: Sequence[Mode] = MODES,
) -> Tensor:
    """(B, M, N) float32 that make m of the first n pixels; rows beyond m repeat the last."""
    n, m = n.view(-1, 1, 1), m.view(-1, 1, 1)
    i = torch.minimum(torch.arange(M, device=n.device).view(-1, 1), m - 1)
    j = torch.arange(N, device=n.device)
    if isinstance(modes, str):
        return _matrix(modes, antialias, n, m, i, j)
    result = _matrix(possible[0], antialias, n, m, i, j)
    for mode in possible[1:]:
        chosen = (modes == MODES.index(mode)).view(-1, 1, 1)
        result = torch.where(chosen, _matrix(mode, antialias, n, m, i, j), result)
    return result


def _matrix(
    mode: Mode, antialias: Tensor | bool, n: Tensor, m: Tensor, i: Tensor, j: Tensor
) -> Tensor:
    """One mode for all; i (B, M, 1) numbers the new pixels, j (N,) the old ones."""
    if isinstance(antialias, Tensor):
        if mode not in _PLAIN:
            return _matrix(mode, False, n, m, i, j)
        plain, widened = (_matrix(mode, widen, n, m, i, j) for widen in (False, True))
        return torch.where(antialias.view(-1, 1, 1), widened, plain)
    if mode == "nearest":
        return (j == (2 * i + 1) * n // (2 * m)).float()
    if mode == "area":
        low, high = i * n // m, -((i + 1) * -n // m)
        return ((j >= low) & (j < high)) / (high - low)
    if _widened(mode, antialias):
        kernel, _ = _ANTIALIASED[mode]
        whole, rest = _divmod((2 * i + 1) * n, 2 * m)
        weight = kernel(((j - whole) + (0.5 - rest)) / (n / m).clamp_min(1.0)) * (j < n)
        return weight / weight.sum(2, keepdim=True)
    kernel, radius = _PLAIN[mode]
    first, rest = _divmod((2 * i + 1) * n - m, 2 * m)
    result = torch.zeros((), device=n.device)
    for step in range(1 - radius, 1 + radius):  # beyond an edge counts for the edge's pixel
        place = torch.minimum((first + step).clamp_min(0), n - 1)
        result = result + (j == place) * kernel(step - rest)
    return result


def _divmod(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """The whole part of a / b, int64, and what is left of it, float32 in [0, 1)."""
    whole = a.div(b, rounding_mode="floor")
    return whole, (a - whole * b) / b
