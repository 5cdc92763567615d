"""The JPEG stage, and libjpeg's arithmetic in torch.

The lossless part of the format (entropy coding) is omitted. All arithmetic is exact: integers below
2**24 in float32, and around the transform float64 or, compiled, 32-bit integers: products in
float32 would round (and more so in TF32).
"""

from __future__ import annotations

from functools import partial
from typing import Any, Literal, TypeAlias, cast, get_args

import numpy as np
import torch
from torch import Tensor

from degradations.base import (
    Canvas,
    DeviceStage,
    ImageFunction,
    IntegerRange,
    Size,
    check_range,
    rounded_up,
)
from degradations.device import constant
from degradations.draws import Draws, Params, check_probabilities
from degradations.images import Bytes, from_bytes, to_bytes

Subsampling: TypeAlias = Literal["4:4:4", "4:2:2", "4:2:0"]

#: Values of the parameter `subsampling`, by index.
SUBSAMPLINGS: tuple[Subsampling, ...] = get_args(Subsampling)

# One pass of libjpeg's "slow integer" transform (jfdctint.c, jidctint.c; Loeffler, Ligtenberg and
# Moschytz, 1989) is an integer matrix and one rounding. The matrix is 2**13 sqrt(2) times the
# orthonormal DCT, up to the rounding of its constants. This is its left half: the right half
# mirrors it, with the opposite sign in odd rows. The inverse uses the transposed matrix.
_DCT = (
    (8192, 8192, 8192, 8192),
    (11363, 9633, 6437, 2260),
    (10703, 4433, -4433, -10703),
    (9633, -2259, -11362, -6436),
    (8192, -8192, -8192, 8192),
    (6437, -11362, 2261, 9633),
    (4433, -10704, 10704, -4433),
    (2260, -6436, 9633, -11363),
)
# libjpeg's names: fractional bits of the matrix, and of what the first pass leaves to the second.
_CONST_BITS = 13
_PASS1_BITS = 2

# Quantisation of luma and chroma at quality 50 (ITU-T T.81, tables K.1 and K.2).
_LUMA = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
_CHROMA = (
    (17, 18, 24, 47, 99, 99, 99, 99),
    (18, 21, 26, 66, 99, 99, 99, 99),
    (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99),
    (99, 99, 99, 99, 99, 99, 99, 99),
    (99, 99, 99, 99, 99, 99, 99, 99),
    (99, 99, 99, 99, 99, 99, 99, 99),
    (99, 99, 99, 99, 99, 99, 99, 99),
)

# Colours in libjpeg's 16-bit fixed point, all three about 0; the last column is added.
_TO_Y_CB_CR = (
    (19595, 38470, 7471, 32768 - (128 << 16)),
    (-11059, -21709, 32768, 32767),
    (32768, -27439, -5329, 32767),
)
_TO_RGB = (
    (0, 91881, 32768),
    (-22554, -46802, 32768),
    (116130, 0, 32768),
)


def jpeg(
    canvas: Canvas,
    quality: Tensor,
    subsampling: Tensor,
    halved: tuple[bool, bool] = (False, False),
    smooth_chroma: bool = True,
) -> Tensor:
    """Return the images after JPEG; the host does not wait for the device.

    Bit-equal to Pillow at every quality, subsampling and size.

    Args:
        canvas: The images, (B, 3, H, W); clamped to [0, 1] and rounded to 8 bits first.
        quality: (B,) int64, 1 to 100.
        subsampling: (B,) int64: 0 is 4:4:4, 1 is 4:2:2, 2 is 4:2:0.
        halved: Whether the chroma of *every* image has half the rows, and half the columns. This
            saves work; wrong values give wrong pixels.
        smooth_chroma: As in `JPEG`.

    Returns:
        (B, 3, H, W) float32, multiples of 1/255.
    """
    H, W = canvas.pixels.shape[-2:]
    clamped = canvas.pixels.clamp(0.0, 1.0)
    levels = (clamped * 255.0).round()
    y_cb_cr = _converted(levels, _to_y_cb_cr(levels.device))

    luma_extent = (rounded_up(H, 8), rounded_up(W, 8))
    luma_canvas = canvas.with_pixels(y_cb_cr[:, :1])
    luma = luma_canvas.edges_repeated(luma_extent)

    halved_rows, halved_columns = halved
    chroma_height = rounded_up(_divided_up(H, 1 + halved_rows), 8)
    chroma_width = rounded_up(_divided_up(W, 1 + halved_columns), 8)
    chroma = _Chroma(canvas, subsampling, (chroma_height, chroma_width), smooth_chroma)
    cb_cr = chroma.downsample(y_cb_cr[:, 1:])

    # All blocks go through the transform together, which halves the launches.
    luma_blocks = _to_blocks(luma)
    luma_count = luma_blocks.shape[1]
    blocks = torch.cat([luma_blocks, _to_blocks(cb_cr)], 1)
    number = torch.arange(blocks.shape[1], device=blocks.device)
    is_luma = number < luma_count
    luma_steps, chroma_steps = _quantisation_steps(quality).chunk(2, 1)
    steps = torch.where(is_luma.view(-1, 1, 1), luma_steps, chroma_steps)
    blocks = _jpeg_round_trip(blocks, steps)

    luma = _from_blocks(blocks[:, :luma_count], luma.shape)
    cb_cr = _from_blocks(blocks[:, luma_count:], cb_cr.shape)
    cb_cr = chroma.upsample(cb_cr)
    colour = _converted(cb_cr, _to_rgb(luma.device))
    rgb = luma[..., :H, :W] + colour
    return (rgb.clamp(-128.0, 127.0) + 128.0) / 255.0


class _Chroma:
    """Chroma subsampling and upsampling of each image.

    One formula covers all subsamplings: along an axis that is not halved, a sample is the mean of
    two equal pixels, and a pixel the mean of two equal samples.

    Args:
        canvas: The images.
        subsampling: As in `jpeg`.
        extent: (h, w) of all samples.
        smooth: Whether to interpolate between samples.
    """

    def __init__(
        self,
        canvas: Canvas,
        subsampling: Tensor,
        extent: Size,
        smooth: bool,
    ) -> None:
        self.canvas = canvas
        self.extent = extent
        self.smooth = smooth
        # Of shape (B, 2, 1) or (2, 1): for rows, then for columns.
        axis = torch.arange(2, device=subsampling.device).view(2, 1)
        self.is_width = axis > 0
        # Pixels per sample: rows are halved by 4:2:0 (2), columns by 4:2:2 (1), too.
        is_halved = subsampling.view(-1, 1, 1) + axis > 1
        self.step = 1 + is_halved.long()
        self.count = _divided_up(canvas.sizes.unsqueeze(2), self.step)
        self.row_step = self.step[:, :1].unsqueeze(1)

    def downsample(self, planes: Tensor) -> Tensor:
        """Average (B, 2, H, W) pixels to (B, 2, h, w) samples, extended by repeated edges.

        As in libjpeg, pixels are repeated to the right, but samples downwards.
        """
        _, w = self.extent
        index = torch.arange(max(self.extent), device=planes.device)
        repeated_rows = torch.minimum(index, self.count - 1)
        sample = torch.where(self.is_width, index, repeated_rows)
        first = self.step * sample
        last = first + self.step - 1
        pixels = torch.stack((first, last), 3)
        last_pixel = self.canvas.sizes.view(-1, 2, 1, 1) - 1
        pixels = torch.minimum(pixels, last_pixel)
        four = _gather_2x2(self.canvas.with_pixels(planes), pixels, self.extent)
        # The alternating bias rounds halves up and down equally often.
        is_even = index[:w] % 2 == 0
        bias = torch.where(is_even, self.row_step - 1, 2)
        total = four.sum((3, 5))
        return torch.floor((total + bias) / 4.0)

    def upsample(self, samples: Tensor) -> Tensor:
        """Upsample (B, 2, h, w) to (B, 2, H, W): 9, 3, 3 and 1 sixteenths of the nearest samples.

        This is libjpeg's "fancy" upsampling; chroma of at most two samples in width is repeated,
        and all chroma without `smooth`.
        """
        H, W = self.canvas.pixels.shape[-2:]
        h, w = self.extent
        index = torch.arange(max(H, W), device=samples.device)
        # Within the samples even if `halved` is wrong: a GPU fails on indices out of range.
        limit = torch.where(self.is_width, w, h)
        last = torch.minimum(self.count, limit) - 1
        nearest = torch.minimum(index // self.step, last)
        second = nearest
        if self.smooth:
            has_neighbours = self.count[:, 1:] > 2
            side = 2 * (index % 2) - 1  # an even pixel lies before its sample, an odd one after
            second = nearest + side * ((self.step - 1) * has_neighbours)
            second = torch.minimum(second.clamp_min(0), last)
        places = torch.stack((nearest, second), 3)
        four = _gather_2x2(self.canvas.with_pixels(samples), places, (H, W))
        weighted = four * _sixteenths(four.device)
        total = weighted.sum((3, 5))
        # Alternating again; 4:2:2 rounds quarters, with the opposite bias.
        is_even = index[:W] % 2 == 0
        bias = torch.where(is_even, 4 * self.row_step, 9 - self.row_step)
        return torch.floor((total + bias) / 16.0)


def _gather_2x2(canvas: Canvas, places: Tensor, extent: Size) -> Tensor:
    """Gather (B, C, h, 2, w, 2) from two rows and two columns each, (B, 2, n, 2)."""
    h, w = extent
    four = canvas.gather(places.flatten(2), (2 * h, 2 * w))
    B, C = four.shape[:2]
    return four.view(B, C, h, 2, w, 2)


def _divided_up(n: Any, divisor: Any) -> Any:
    """Divide integers or tensors of them, rounding up."""
    return (n + divisor - 1) // divisor


def _jpeg_round_trip(blocks: Tensor, steps: Tensor) -> Tensor:
    """Transform, quantise and invert (B, N, 8, 8) float32, integers in [-128, 127].

    Args:
        blocks: [row, column].
        steps: (B, N, 8, 8) or (1, N, 8, 8) quantisation, [horizontal, vertical frequency].
    """
    dct = _dct(blocks.device)
    # Each pass works along the last axis, so blocks are transposed between passes.
    rows = _transformed(blocks, dct.T, _CONST_BITS - _PASS1_BITS)
    columns = rows.transpose(-1, -2)
    coefficients = _transformed(columns, dct.T, _CONST_BITS + _PASS1_BITS)

    # The transform has 8 times the scale of the steps.
    steps = steps.to(coefficients.dtype)
    half_steps = coefficients.sign() * (4 * steps)  # away from 0
    quantised = (coefficients + half_steps).div(8 * steps, rounding_mode="trunc")

    columns = _transformed(quantised * steps, dct, _CONST_BITS - _PASS1_BITS)
    rows = columns.transpose(-1, -2)
    pixels = _transformed(rows, dct, _CONST_BITS + _PASS1_BITS + 3)
    return pixels.clamp(-128, 127).float()


def _transformed(x: Tensor, matrix: Tensor, bits: int) -> Tensor:
    """Multiply the last axis of integers by (8, 8) integers, divide by 2**bits and round.

    Compiled, sums of 32-bit integers are one kernel with what surrounds them; float64, whose matrix
    products are the fastest exact ones otherwise, has twice the bytes. All sums are below 2**28.
    """
    if torch.compiler.is_compiling():
        products = x.int().unsqueeze(-1) * matrix.int()
        sums = products.sum(-2, dtype=torch.int32)
        half = 1 << (bits - 1)
        return (sums + half) >> bits
    scaled = matrix * 2.0**-bits
    return torch.floor(x.double() @ scaled + 0.5)


def _converted(planes: Tensor, matrix: Tensor) -> Tensor:
    """Multiply the channels (B, K, H, W) by (C, K + 1), add the last column and round down."""
    matrix = matrix.view(*matrix.shape, 1, 1)
    factors = matrix[:, :-1]
    offsets = matrix[:, -1]
    products = planes.unsqueeze(1) * factors
    return torch.floor(products.sum(2) + offsets)


def _quantisation_steps(quality: Tensor) -> Tensor:
    """Return the (B, 2, 8, 8) int64 quantisation of luma and chroma, transposed."""
    # libjpeg's scaling of the tables for quality 50.
    percent = torch.where(quality < 50, 5000 // quality, 200 - 2 * quality)
    percent = percent.view(-1, 1, 1, 1)
    # In integers: an inexact float32 division could round to another step.
    scaled = (_base_steps(quality.device) * percent + 50) // 100
    return scaled.clamp(1, 255)


@constant
def _to_y_cb_cr() -> Tensor:
    """Return the matrix from RGB to YCbCr, (3, 4)."""
    return torch.tensor(_TO_Y_CB_CR) / 65536


@constant
def _to_rgb() -> Tensor:
    """Return the matrix from CbCr to what RGB adds to the luma, (3, 3)."""
    return torch.tensor(_TO_RGB) / 65536


@constant
def _sixteenths() -> Tensor:
    """Return the weights of the nearest and second samples, rows by columns."""
    return torch.tensor([[[9.0, 3.0]], [[3.0, 1.0]]])


@constant
def _dct() -> Tensor:
    """Return the DCT matrix (8, 8) float64."""
    left = torch.tensor(_DCT, dtype=torch.float64)
    is_odd = torch.arange(8) % 2
    signs = 1.0 - 2.0 * is_odd.double().unsqueeze(1)
    right = signs * left.flip(1)
    return torch.cat([left, right], 1)


@constant
def _base_steps() -> Tensor:
    """Return the quantisation at quality 50, (2, 8, 8) int64, transposed for `_jpeg_round_trip`."""
    steps = torch.tensor([_LUMA, _CHROMA])
    return steps.transpose(-1, -2).contiguous()


def _to_blocks(planes: Tensor) -> Tensor:
    """Cut (B, C, H, W), multiples of 8, into (B, N, 8, 8)."""
    B, C, H, W = planes.shape
    split = planes.reshape(B, C, H // 8, 8, W // 8, 8)
    return split.transpose(3, 4).reshape(B, -1, 8, 8)


def _from_blocks(blocks: Tensor, shape: torch.Size) -> Tensor:
    """Join (B, N, 8, 8) to (B, C, H, W)."""
    B, C, H, W = shape
    grid = blocks.reshape(B, C, H // 8, W // 8, 8, 8)
    return grid.transpose(3, 4).reshape(shape)


class JPEG(DeviceStage):
    """Save as baseline JPEG and load again, with quality and chroma subsampling per image.

    The image is clamped and rounded to 8 bits. All paths give the pixels of Pillow, bit for bit. On
    a CPU a real codec is used: OpenCV's encoder and the decoder of simplejpeg (16 photographs of
    256 pixels: 7.8 ms of one core, 11.0 by Pillow). On a GPU libjpeg's arithmetic runs in torch;
    kornia's `jpeg_codec_differentiable` takes as long as that on a CPU
    (196 ms; ours 165) and is on average 1.0 (quality 95) to 2.0 levels (quality 10) off Pillow's
    4:2:0 on Kodak's photographs.

    Args:
        quality: Range of the quality as in Pillow, OpenCV and libjpeg, integers from 1 to 100, both
            ends included.
        subsampling: Probabilities of ``"4:4:4"``, ``"4:2:2"`` and ``"4:2:0"``, by name; quoted in
            YAML, which reads 4:2:0 as a number.
        smooth_chroma: Interpolate subsampled chroma, as libjpeg and what uses it does; False
            repeats it, as the differentiable JPEG of Real-ESRGAN's code does.
        transposed_tables: Swap horizontal and vertical frequencies in the quantisation, as that
            code does: it stores the standard tables transposed. Images are coded transposed, which
            is the same; 4:2:2 then halves the rows of chroma.

    Raises:
        ValueError: ``quality`` or ``subsampling`` is invalid.

    Source: ITU-T T.81; Real-ESRGAN (Wang et al., 2021; arXiv 2107.10833) for the range of qualities
    and 4:2:0.
    """

    def __init__(
        self,
        quality: IntegerRange = (30, 95),
        subsampling: dict[Subsampling, float] = {"4:2:0": 1.0},  # noqa: B006  (never changed)
        smooth_chroma: bool = True,
        transposed_tables: bool = False,
    ) -> None:
        super().__init__()
        self.smooth_chroma = smooth_chroma
        self.transposed_tables = transposed_tables
        self.quality = check_range(quality, "quality", 1, 100)
        shares = [subsampling.get(name, 0.0) for name in SUBSAMPLINGS]
        self.subsampling = check_probabilities(shares, len(SUBSAMPLINGS), "subsampling")

    def draw(self, draws: Draws, shape: torch.Size) -> Params:
        """Draw `quality` and `subsampling` (index of `SUBSAMPLINGS`), (B,) int each."""
        lowest, highest = self.quality
        indices = np.arange(len(SUBSAMPLINGS))
        return {
            "quality": draws.integers(lowest, highest + 1),
            "subsampling": draws.choice(indices, self.subsampling),
        }

    def cpu_functions(self, params: Params, x: Tensor) -> list[ImageFunction]:
        """Return for each image the codec, whose outputs hold multiples of 1/255."""
        functions: list[ImageFunction] = []
        qualities = params["quality"].tolist()
        indices = params["subsampling"].tolist()
        for quality, index in zip(qualities, indices, strict=True):
            subsampling = SUBSAMPLINGS[index]
            functions.append(partial(self._coded, quality=quality, subsampling=subsampling))
        return functions

    def _coded(self, image: Tensor, quality: int, subsampling: Subsampling) -> Tensor:
        """Save an image (1, 3, H, W) as JPEG and load it, by a real codec on the CPU."""
        # The codec has no transposed tables. Coding the transposed image by the standard ones, and
        # transposing the result, is the same.
        if self.transposed_tables:
            image = image.mT
        bgr = to_bytes(image[0], bgr=True)
        pixels = encode_decode(bgr, quality, subsampling, self.smooth_chroma)
        coded = from_bytes(pixels, image)
        return coded.mT.contiguous() if self.transposed_tables else coded

    def on_canvas(self, canvas: Canvas, params: Params) -> Canvas:
        """Code all images at once in torch, with subsamplings that this stage can draw."""
        probabilities = dict(zip(SUBSAMPLINGS, self.subsampling, strict=True))
        # Chroma is smaller only if that holds for all images that can be drawn.
        halved_rows = probabilities["4:4:4"] == probabilities["4:2:2"] == 0.0
        halved_columns = probabilities["4:4:4"] == 0.0
        # As in `_coded`: transposed images instead of transposed tables.
        coded = canvas.transposed() if self.transposed_tables else canvas
        pixels = jpeg(
            coded,
            params["quality"],
            params["subsampling"],
            (halved_rows, halved_columns),
            self.smooth_chroma,
        )
        return canvas.with_pixels(pixels.mT.contiguous() if self.transposed_tables else pixels)


def encode_decode(
    bgr: Bytes,
    quality: int,
    subsampling: str,
    smooth_chroma: bool = True,
) -> Bytes:
    """Save (H, W, 3) uint8 in OpenCV's order as JPEG; load it as RGB by the fastest exact codec.

    OpenCV's encoder and simplejpeg's decoder are bit-equal to Pillow. simplejpeg's encoder is not:
    up to quality 95 it always uses libjpeg-turbo's inexact transform.
    """
    import cv2
    import simplejpeg

    digits = subsampling.replace(":", "")
    settings = [
        cv2.IMWRITE_JPEG_QUALITY,
        quality,
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR,
        getattr(cv2, f"IMWRITE_JPEG_SAMPLING_FACTOR_{digits}"),
    ]
    _, file = cv2.imencode(".jpg", bgr, settings)
    decoded = simplejpeg.decode_jpeg(file, fastupsample=not smooth_chroma)
    return cast(Bytes, decoded)
