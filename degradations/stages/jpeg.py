"""The JPEG stage, and libjpeg's arithmetic in torch.

The lossless part of the format (entropy coding) is omitted. All arithmetic is exact: integers below
2**24 in float32, and around the transform float64 or, compiled, 32-bit integers: products in
float32 would round (and more so in TF32).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Literal, TypeAlias, cast, get_args

import numpy as np
import torch
from torch import Tensor

from degradations.base import Canvas, Stage, check_range
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
    *((99,) * 8,) * 4,
)


def jpeg(
    canvas: Canvas,
    quality: Tensor,
    subsampling: Tensor,
    halved: tuple[bool, bool] = (False, False),
) -> Tensor:
    """Return the images after JPEG; the host does not wait for the device.

    Bit-equal to Pillow at every quality, subsampling and size.

    Args:
        canvas: The images, (B, 3, H, W); clamped to [0, 1] and rounded to 8 bits first.
        quality: (B,) int64, 1 to 100.
        subsampling: (B,) int64: 0 is 4:4:4, 1 is 4:2:2, 2 is 4:2:0.
        halved: Whether the chroma of *every* image has half the rows, and half the columns. This
            saves work; wrong values give wrong pixels.

    Returns:
        (B, 3, H, W) float32, multiples of 1/255.
    """
    H, W = canvas.pixels.shape[-2:]
    planes = _to_y_cb_cr((canvas.pixels.clamp(0.0, 1.0) * 255.0).round())

    chroma = _Chroma(canvas.sizes, subsampling)
    height, width = canvas.sizes.chunk(2, 1)
    row, column = _axes(_round_up_to_8(H), _round_up_to_8(W), planes.device)
    luma = _gather(planes[:, :1], torch.minimum(row, height - 1), torch.minimum(column, width - 1))
    h, w = (-(-n // 2) if half else n for n, half in zip((H, W), halved, strict=True))
    cb_cr = chroma.downsample(planes[:, 1:], _round_up_to_8(h), _round_up_to_8(w))

    lumas = luma[0].numel() // 64
    blocks = torch.cat([_to_blocks(luma), _to_blocks(cb_cr)], 1)
    is_luma = torch.arange(blocks.shape[1], device=blocks.device) < lumas
    of_luma, of_chroma = _quantisation_steps(quality).chunk(2, 1)
    blocks = _quantise_blocks(blocks, torch.where(is_luma.view(-1, 1, 1), of_luma, of_chroma))

    luma = _from_blocks(blocks[:, :lumas], luma.shape)[..., :H, :W]
    cb_cr = chroma.upsample(_from_blocks(blocks[:, lumas:], cb_cr.shape), H, W)
    return _to_rgb(luma, cb_cr - 128.0).clamp(0.0, 255.0) / 255.0


class _Chroma:
    """Chroma subsampling and upsampling of each image.

    One formula covers all subsamplings: along an axis that is not halved, a sample is the mean of
    two equal pixels, and a pixel the mean of two equal samples.
    """

    def __init__(self, sizes: Tensor, subsampling: Tensor) -> None:
        # All (B, 1): size of the image, pixels per sample, number of samples.
        self.height, self.width = sizes.chunk(2, 1)
        self.tall = 1 + (subsampling > 1).long().unsqueeze(1)
        self.wide = 1 + (subsampling > 0).long().unsqueeze(1)
        self.rows = (self.height + self.tall - 1) // self.tall
        self.columns = (self.width + self.wide - 1) // self.wide

    def downsample(self, planes: Tensor, h: int, w: int) -> Tensor:
        """Average (B, 2, H, W) pixels to (B, 2, h, w) samples, extended by repeated edges.

        As in libjpeg, pixels are repeated to the right, but samples downwards.
        """
        row, column = _axes(h, w, planes.device)
        above = self.tall * torch.minimum(row, self.rows - 1)
        left = self.wide * column
        rows = torch.stack([above, above + self.tall - 1], 2).flatten(1)
        columns = torch.stack([left, left + self.wide - 1], 2).flatten(1)
        four = _gather(
            planes, torch.minimum(rows, self.height - 1), torch.minimum(columns, self.width - 1)
        )
        total = four.view(len(four), 2, h, 2, w, 2).sum((3, 5))
        # The alternating bias rounds halves up and down equally often.
        bias = torch.where(column % 2 == 0, self.tall - 1, 2).view(-1, 1, 1, w)
        return torch.floor((total + bias) / 4.0)

    def upsample(self, samples: Tensor, H: int, W: int) -> Tensor:
        """Upsample (B, 2, h, w) to (B, 2, H, W): 9, 3, 3 and 1 sixteenths of the nearest samples.

        This is libjpeg's "fancy" upsampling; chroma of at most two samples in width is repeated.
        """
        row, column = _axes(H, W, samples.device)
        smooth = (self.columns > 2).long()
        # Within the samples even if `halved` is wrong: a GPU fails on indices out of range.
        h, w = samples.shape[-2:]
        y, other_y = _nearest_two(row, self.tall, self.rows.clamp_max(h), smooth)
        x, other_x = _nearest_two(column, self.wide, self.columns.clamp_max(w), smooth)
        lines = 3.0 * _gather_rows(samples, y) + _gather_rows(samples, other_y)
        total = 3.0 * _gather_columns(lines, x) + _gather_columns(lines, other_x)
        # Alternating again; 4:2:2 rounds quarters, with the opposite bias.
        bias = torch.where(column % 2 == 0, 4 * self.tall, 9 - self.tall).view(-1, 1, 1, W)
        return torch.floor((total + bias) / 16.0)


def _nearest_two(
    pixel: Tensor, step: Tensor, count: Tensor, smooth: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the (B, n) indices of the nearest and second nearest sample of each pixel."""
    near = torch.minimum(pixel // step, count - 1)
    far = near + (2 * (pixel % 2) - 1) * (step - 1) * smooth
    return near, torch.minimum(far.clamp_min(0), count - 1)


def _quantise_blocks(blocks: Tensor, steps: Tensor) -> Tensor:
    """Transform, quantise and invert (B, N, 8, 8) float32, integers in [0, 255].

    Args:
        blocks: [row, column].
        steps: (B, N, 8, 8) or (1, N, 8, 8) quantisation, [horizontal, vertical frequency].
    """
    dct = _dct(blocks.device)
    # Each pass works along the last axis, so blocks are transposed between passes.
    rows = _transformed(blocks - 128.0, dct.T, 11)
    coefficients = _transformed(rows.transpose(-1, -2), dct.T, 15)
    sign = torch.where(coefficients < 0, -1, 1).to(coefficients.dtype)
    steps = steps.to(coefficients.dtype)
    quantised = (sign * coefficients + 4 * steps).div(8 * steps, rounding_mode="floor")
    columns = _transformed(sign * quantised * steps, dct, 11)
    decoded = _transformed(columns.transpose(-1, -2), dct, 18)
    return (decoded + 128).clamp(0, 255).float()


def _transformed(x: Tensor, matrix: Tensor, bits: int) -> Tensor:
    """Multiply the last axis of integers by (8, 8) integers, divide by 2**bits and round.

    Compiled, sums of 32-bit integers are one kernel with what surrounds them; float64, whose matrix
    products are the fastest exact ones otherwise, has twice the bytes. All sums are below 2**28.
    """
    if torch.compiler.is_compiling():
        products = x.int().unsqueeze(-1) * matrix.int()
        return (products.sum(-2, dtype=torch.int32) + (1 << (bits - 1))) >> bits
    return torch.floor(x.double() @ (matrix * 2.0**-bits) + 0.5)


def _quantisation_steps(quality: Tensor) -> Tensor:
    """Return the (B, 2, 8, 8) int64 quantisation of luma and chroma, transposed."""
    percent = torch.where(quality < 50, 5000 // quality, 200 - 2 * quality)
    base = _base_steps(quality.device)
    # In integers: an inexact float32 division could round to another step.
    scaled = (base * percent.view(-1, 1, 1, 1) + 50) // 100
    return scaled.clamp(1, 255)


def _to_y_cb_cr(levels: Tensor) -> Tensor:
    """Convert RGB (B, 3, H, W) to YCbCr in libjpeg's 16-bit fixed point; integers in [0, 255]."""
    r, g, b = levels.chunk(3, 1)
    y = 19595.0 * r + 38470.0 * g + 7471.0 * b + 32768.0
    cb = 8421375.0 - 11059.0 * r - 21709.0 * g + 32768.0 * b
    cr = 8421375.0 + 32768.0 * r - 27439.0 * g - 5329.0 * b
    return torch.floor(torch.cat([y, cb, cr], 1) * 2.0**-16)


def _to_rgb(y: Tensor, cb_cr: Tensor) -> Tensor:
    """Convert (B, 1, H, W) and (B, 2, H, W), chroma about 0, to RGB without clamping."""
    cb, cr = cb_cr.chunk(2, 1)
    differences = torch.cat([91881.0 * cr, -22554.0 * cb - 46802.0 * cr, 116130.0 * cb], 1)
    return y + torch.floor((differences + 32768.0) * 2.0**-16)


@constant
def _dct() -> Tensor:
    """Return the DCT matrix (8, 8) float64."""
    left = torch.tensor(_DCT, dtype=torch.float64)
    signs = 1.0 - 2.0 * (torch.arange(8) % 2).double().unsqueeze(1)
    return torch.cat([left, signs * left.flip(1)], 1)


@constant
def _base_steps() -> Tensor:
    """Return the quantisation at quality 50, (2, 8, 8) int64, transposed."""
    return torch.tensor([_LUMA, _CHROMA]).transpose(-1, -2).contiguous()


def _to_blocks(planes: Tensor) -> Tensor:
    """Cut (B, C, H, W), multiples of 8, into (B, N, 8, 8)."""
    B, C, H, W = planes.shape
    return planes.reshape(B, C, H // 8, 8, W // 8, 8).transpose(3, 4).reshape(B, -1, 8, 8)


def _from_blocks(blocks: Tensor, shape: torch.Size) -> Tensor:
    """Join (B, N, 8, 8) to (B, C, H, W)."""
    B, C, H, W = shape
    return blocks.reshape(B, C, H // 8, W // 8, 8, 8).transpose(3, 4).reshape(shape)


def _gather(planes: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Gather (B, C, h, w) by (B, h) row and (B, w) column numbers."""
    return _gather_columns(_gather_rows(planes, rows), columns)


def _gather_rows(planes: Tensor, rows: Tensor) -> Tensor:
    B, C, _, W = planes.shape
    return planes.gather(2, rows.view(-1, 1, rows.shape[1], 1).expand(B, C, -1, W))


def _gather_columns(planes: Tensor, columns: Tensor) -> Tensor:
    B, C, H, _ = planes.shape
    return planes.gather(3, columns.view(-1, 1, 1, columns.shape[1]).expand(B, C, H, -1))


def _axes(h: int, w: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return row numbers (1, h) and column numbers (1, w)."""
    return torch.arange(h, device=device).unsqueeze(0), torch.arange(w, device=device).unsqueeze(0)


def _round_up_to_8(n: int) -> int:
    """Round `n` up to a multiple of 8."""
    return -(-n // 8) * 8


class JPEG(Stage):
    """Save as baseline JPEG and load again, with quality and chroma subsampling per image.

    The image is clamped and rounded to 8 bits. All paths give the pixels of Pillow, bit for bit. On
    a CPU a real codec is used: OpenCV's encoder and the decoder of simplejpeg (16 photographs of
    256 pixels: 7.8 ms of one core; 8.2 with OpenCV's decoder, which is used if simplejpeg is
    missing, 11.0 by Pillow). On a GPU libjpeg's arithmetic runs in torch;
    kornia's `jpeg_codec_differentiable` takes as long as that on a CPU
    (196 ms; ours 165) and is on average 1.0 (quality 95) to 2.0 levels (quality 10) off Pillow's
    4:2:0 on Kodak's photographs.

    Args:
        quality: Range of the quality as in Pillow, OpenCV and libjpeg, integers from 1 to 100, both
            ends included.
        subsampling: Probabilities of ``"4:4:4"``, ``"4:2:2"`` and ``"4:2:0"``, by name; quoted in
            YAML, which reads 4:2:0 as a number.

    Raises:
        ValueError: ``quality`` or ``subsampling`` is invalid.

    Source: ITU-T T.81; Real-ESRGAN (Wang et al., 2021; arXiv 2107.10833) for the range of qualities
    and 4:2:0.
    """

    def __init__(
        self,
        quality: tuple[int, int] = (30, 95),
        subsampling: dict[Subsampling, float] = {"4:2:0": 1.0},  # noqa: B006  (never changed)
    ) -> None:
        super().__init__()
        self.quality = check_range(quality, "quality", 1, 100)
        shares = [subsampling.get(name, 0.0) for name in SUBSAMPLINGS]
        self.subsampling = check_probabilities(shares, len(SUBSAMPLINGS), "subsampling")

    def draw(self, draws: Draws, shape: torch.Size) -> Params:
        """Draw `quality` and `subsampling` (index of `SUBSAMPLINGS`), (B,) int each."""
        low, high = self.quality
        return {
            "quality": draws.integers(low, high + 1),
            "subsampling": draws.choice(np.arange(len(SUBSAMPLINGS)), self.subsampling),
        }

    def forward(self, x: Tensor, params: Params) -> Tensor:
        """Code (B, 3, H, W) of any values; the output holds multiples of 1/255."""
        if x.device.type != "cpu":
            return self.on_canvas(Canvas.of(x), params).pixels
        qualities, subsamplings = params["quality"].tolist(), params["subsampling"].tolist()
        images = [
            from_bytes(encode_decode(to_bytes(image), quality, SUBSAMPLINGS[subsampling]), x)
            for image, quality, subsampling in zip(x, qualities, subsamplings, strict=True)
        ]
        return images[0] if len(images) == 1 else torch.cat(images)

    def on_canvas(self, canvas: Canvas, params: Params) -> Canvas:
        """Code all images at once in torch, with subsamplings that this stage can draw."""
        possible = [name for name, p in zip(SUBSAMPLINGS, self.subsampling, strict=True) if p > 0]
        halved = (all(name == "4:2:0" for name in possible), "4:4:4" not in possible)
        return canvas.with_pixels(jpeg(canvas, params["quality"], params["subsampling"], halved))


def encode_decode(pixels: Bytes, quality: int, subsampling: str) -> Bytes:
    """Save (H, W, 3) uint8 as JPEG and load it by the fastest exact codec.

    OpenCV's encoder and simplejpeg's decoder are bit-equal to Pillow. simplejpeg's encoder is not:
    up to quality 95 it always uses libjpeg-turbo's inexact transform.
    """
    import cv2

    settings = [
        cv2.IMWRITE_JPEG_QUALITY,
        quality,
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR,
        getattr(cv2, f"IMWRITE_JPEG_SAMPLING_FACTOR_{subsampling.replace(':', '')}"),
    ]
    written, file = cv2.imencode(".jpg", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), settings)
    if not written:
        raise RuntimeError(f"OpenCV could not write a JPEG of {pixels.shape}")
    return _decoder()(file)


@functools.cache
def _decoder() -> Callable[[Bytes], Bytes]:
    try:
        import simplejpeg
    except ImportError:
        import cv2

        def decode(file: Bytes) -> Bytes:
            image: Any = cv2.imdecode(file, cv2.IMREAD_COLOR)
            return cast(Bytes, cv2.cvtColor(image, cv2.COLOR_BGR2RGB))

        return decode
    return cast(Callable[[Bytes], Bytes], simplejpeg.decode_jpeg)
