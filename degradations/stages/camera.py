"""Camera: a sensor with colour filters and noise, and the development of its raw image."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from degradations.base import Canvas, Range, Stage, check_range
from degradations.draws import Draws, Floats, Params, per_image
from degradations.stages.noise import seeded_randn_like

# CIE XYZ to camera colours: matrices of four cameras from Adobe's DNG files, as mixed by Brooks et
# al.; sRGB to XYZ under D65 (IEC 61966-2-1).
_XYZ_TO_CAMERA = np.array(
    [
        [
            [1.0234, -0.2969, -0.2266],
            [-0.5625, 1.6328, -0.0469],
            [-0.0703, 0.2188, 0.6406],
        ],
        [
            [0.4913, -0.0541, -0.0202],
            [-0.6130, 1.3513, 0.2906],
            [-0.1564, 0.2151, 0.7183],
        ],
        [
            [0.8380, -0.2630, -0.0639],
            [-0.2887, 1.0725, 0.2496],
            [-0.0627, 0.1427, 0.5438],
        ],
        [
            [0.6596, -0.2079, -0.0562],
            [-0.4782, 1.3016, 0.1933],
            [-0.0970, 0.1581, 0.5181],
        ],
    ]
)
_RGB_TO_XYZ = np.array(
    [
        [0.4124564, 0.3575761, 0.1804375],
        [0.2126729, 0.7151522, 0.0721750],
        [0.0193339, 0.1191920, 0.9503041],
    ]
)
_SHOT_PER_ISO = 1e-6  # ISO 100 to 12,000 are the 1e-4 to 0.012 of Brooks et al.
_GAMMA = 2.2


class Camera(Stage):
    """Capture the image again with a noisy sensor behind a Bayer filter.

    The image is inverted to raw (inverse tone curve, camera colours, inverse white balance), gets
    shot and read noise by ISO speed, one colour per pixel and integer values, and is developed
    again: bilinear demosaicing, white balance, colour matrix and tone curve. Colours, gains, ISO
    and filter position are drawn per image.

    Differs from the source: the position of the Bayer filter is drawn, the exposure never exceeds
    1, and raw values are integers. Demosaicing equals `kornia.color.raw_to_rgb` to 1e-6 except at
    the lower and right edges, where kornia repeats pixels and this stage mirrors them. kornia's
    function takes one filter position per batch, refuses odd sides, and took 3.5 ms for 512x512 px
    on one core, this one 1.8 ms.

    Args:
        iso: Range of the sensor's speed; its logarithm is uniform. The variance of the noise is
            shot * signal + read, with shot = 1e-6 * ISO and
            log(read) = 2.18 log(shot) + 1.20 + N(0, 0.26).

    Raises:
        ValueError: The range is reversed or invalid.

    Source: Brooks et al., "Unprocessing Images for Learned Raw Denoising" (CVPR 2019; arXiv
    1811.11127), sections 3.1 to 3.6 and the ranges of its released code.
    """

    def __init__(self, iso: Range = (100.0, 12000.0)) -> None:
        super().__init__()
        self.iso = check_range(iso, "iso", low=1.0, high=1e6)

    def draw(self, draws: Draws, shape: torch.Size) -> Params:
        """Draw (B,) each: `iso`, variances `shot` and `read`, gains, `pattern`, `bits`, seeds.

        `to_camera` and `to_rgb` are (B, 3, 3) matrices of linear colours. `pattern` is the place of
        red in the filter's 2x2 cell: 2 * row + column.
        """
        slowest, fastest = self.iso
        log_iso = draws.uniform(math.log(slowest), math.log(fastest))
        iso = np.exp(log_iso)
        shot = iso * _SHOT_PER_ISO
        log_read = 2.18 * np.log(shot) + 1.20 + draws.normal(0.0, 0.26)
        exposure = draws.normal(0.8, 0.1)  # at 1, white saturates the sensor
        red_gain = draws.uniform(1.9, 2.4)  # relative to green
        blue_gain = draws.uniform(1.5, 1.9)
        weights = [draws.uniform(1e-3, 1.0) for _ in _XYZ_TO_CAMERA]
        to_camera = _mixed_cameras(np.stack(weights, axis=1))
        return {
            "iso": iso,
            "shot": shot,
            "read": np.exp(log_read),
            "exposure": np.clip(exposure, 0.2, 1.0),
            "red_gain": red_gain,
            "blue_gain": blue_gain,
            "to_camera": to_camera,
            "to_rgb": np.linalg.inv(to_camera),
            "pattern": draws.integers(0, 4),
            "bits": draws.integers(12, 15),
            "field_seeds": draws.seeds(),
        }

    def forward(self, x: Tensor, params: Params) -> Tensor:
        """Clamp, invert, capture and develop (B, 3, H, W); the output is in [0, 1]."""
        return _capture(x, params, _mirrored)

    def on_canvas(self, canvas: Canvas, params: Params) -> Canvas:
        """Apply as `forward`, each image mirrored at its own edges."""

        def mirrored(planes: Tensor) -> Tensor:
            return canvas.with_pixels(planes).reflected(1)

        developed = _capture(canvas.pixels, params, mirrored)
        return canvas.with_pixels(developed)


def unprocess(x: Tensor, to_camera: Tensor, gains: Tensor) -> Tensor:
    """Convert sRGB to the linear raw colours of a camera.

    Args:
        x: (B, 3, H, W) in [0, 1].
        to_camera: (B, 3, 3), linear sRGB to camera colours.
        gains: (B, 3, 1, 1), the factors of raw colours in `develop`.

    Returns:
        (B, 3, H, W) in [0, 1]. White stays saturated: the gains are not divided out there, which
        would tint highlights.
    """
    # The inverse of smoothstep, the tone curve of `develop`.
    display = 0.5 - ((1.0 - 2.0 * x).asin() / 3.0).sin()
    linear = display.clamp_min(1e-8) ** _GAMMA
    colours = _multiply(to_camera, linear)
    factors = _inverse_gains(colours, gains)
    return (colours * factors).clamp(0.0, 1.0)


def _inverse_gains(colours: Tensor, gains: Tensor) -> Tensor:
    """Return the factors of raw colours: 1 / gains, fading to 1 from grey level 0.9 to white."""
    inverse = 1.0 / gains
    grey = colours.mean(1, keepdim=True)
    near_white = ((grey - 0.9).clamp_min(0.0) / 0.1).square()
    faded = near_white + (1.0 - near_white) * inverse
    return torch.maximum(faded, inverse)


def develop(raw: Tensor, to_rgb: Tensor, gains: Tensor) -> Tensor:
    """Convert linear raw colours to sRGB: white balance, colour matrix, gamma, tone curve.

    Args:
        raw: (B, 3, H, W), all colours of each pixel.
        to_rgb: (B, 3, 3), camera colours to linear sRGB.
        gains: (B, 3, 1, 1).

    Returns:
        (B, 3, H, W) in [0, 1].
    """
    balanced = (raw * gains).clamp(0.0, 1.0)
    linear = _multiply(to_rgb, balanced).clamp(1e-8, 1.0)
    y = linear ** (1.0 / _GAMMA)
    return y * y * (3.0 - 2.0 * y)  # smoothstep, the tone curve of the source


def bayer_masks(x: Tensor, pattern: Tensor) -> Tensor:
    """Return (B, 3, H, W), 1 where a pixel measures that colour.

    Args:
        x: (B, C, H, W), for size and dtype.
        pattern: (B,), the place of red in the cell of 2x2 pixels: 2 * row + column; blue is
            diagonally opposite.
    """
    H, W = x.shape[-2:]
    top = (pattern // 2).view(-1, 1, 1)
    left = (pattern % 2).view(-1, 1, 1)
    row = torch.arange(H, device=x.device).view(-1, 1)
    column = torch.arange(W, device=x.device)
    row_parity = (row + top) % 2  # 0 in rows with red
    column_parity = (column + left) % 2  # 0 in columns with red
    red = (row_parity + column_parity) == 0
    blue = (row_parity * column_parity) == 1
    green = ~(red | blue)
    masks = torch.stack([red, green, blue], dim=1)
    return masks.to(x.dtype)


def demosaic(
    mosaic: Tensor,
    masks: Tensor,
    mirrored: Callable[[Tensor], Tensor],
) -> Tensor:
    """Interpolate each colour by the mean of its two or four nearest pixels.

    Args:
        mosaic: (B, 1, H, W), one value per pixel, at least 2x2 pixels.
        masks: (B, 3, H, W), the colour of each pixel.
        mirrored: Function that adds a mirrored margin of one pixel, which continues the pattern of
            the filter beyond the edges.

    Returns:
        (B, 3, H, W).
    """
    # Shifted sums take a third of the time of a grouped convolution on a CPU; compiled, one kernel.
    planes = mirrored(mosaic * masks)
    # Red and blue: the products of the weights 1/2, 1, 1/2 of rows and columns.
    red_blue = _with_neighbours(_with_neighbours(planes, 2), 3)
    green = _mean_of_four(planes[:, 1:2])
    red = red_blue[:, :1]
    blue = red_blue[:, 2:]
    return torch.cat([red, green, blue], dim=1)


def _with_neighbours(planes: Tensor, dim: int) -> Tensor:
    """Add half of both neighbours along an axis, which loses its margin of one pixel."""
    n = planes.shape[dim] - 2
    previous = planes.narrow(dim, 0, n)
    following = planes.narrow(dim, 2, n)
    return planes.narrow(dim, 1, n) + 0.5 * (previous + following)


def _mean_of_four(green: Tensor) -> Tensor:
    """Fill the gaps of green by the mean of their four neighbours; the margin is lost."""
    middle_rows = green[..., 1:-1, :]
    middle_columns = green[..., 1:-1]
    across = middle_rows[..., :-2] + middle_rows[..., 2:]
    along = middle_columns[..., :-2, :] + middle_columns[..., 2:, :]
    return middle_rows[..., 1:-1] + 0.25 * (across + along)


def _capture(
    x: Tensor,
    params: Params,
    mirrored: Callable[[Tensor], Tensor],
) -> Tensor:
    """Unprocess, expose, add noise, quantise and develop."""
    red_gain = params["red_gain"]
    green_gain = torch.ones_like(red_gain)
    white_balance = torch.stack([red_gain, green_gain, params["blue_gain"]], dim=1)
    exposure = params["exposure"].view(-1, 1)
    gains = (white_balance / exposure).view(-1, 3, 1, 1)

    masks = bayer_masks(x, params["pattern"])
    raw = unprocess(x.clamp(0.0, 1.0), params["to_camera"], gains)
    signal = (raw * masks).sum(1, keepdim=True)
    mosaic = _quantised(_noisy(signal, params), params)
    colours = demosaic(mosaic, masks, mirrored)
    return develop(colours, params["to_rgb"], gains)


def _noisy(signal: Tensor, params: Params) -> Tensor:
    """Add shot and read noise to (B, 1, H, W)."""
    shot = per_image(params["shot"], signal)
    read = per_image(params["read"], signal)
    variance = signal * shot + read
    field = seeded_randn_like(signal, params["field_seeds"])
    return signal + variance.sqrt() * field


def _quantised(signal: Tensor, params: Params) -> Tensor:
    """Round (B, 1, H, W) to raw values."""
    bits = per_image(params["bits"], signal)
    white = torch.exp2(bits).round() - 1.0
    # Noise below black stays, as sensors have an offset for it; white saturates.
    saturated = signal.clamp_max(1.0)
    return (saturated * white).round() / white


def _mixed_cameras(weights: Floats) -> Floats:
    """Mix (B, 4) weights of cameras to (B, 3, 3), linear sRGB to camera; rows have sum 1."""
    shares = weights / weights.sum(1, keepdims=True)
    xyz_to_camera = np.einsum("bk,kij->bij", shares, _XYZ_TO_CAMERA)
    rgb_to_camera = xyz_to_camera @ _RGB_TO_XYZ
    row_sums = rgb_to_camera.sum(axis=2, keepdims=True)
    return np.asarray(rgb_to_camera / row_sums, np.float64)


def _mirrored(planes: Tensor) -> Tensor:
    if min(planes.shape[-2:]) < 2:  # torch refuses these
        return Canvas.of(planes).reflected(1)
    return functional.pad(planes, (1, 1, 1, 1), mode="reflect")


def _multiply(matrices: Tensor, x: Tensor) -> Tensor:
    products = torch.matmul(matrices, x.flatten(2))
    return products.view(x.shape)
