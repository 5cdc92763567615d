"""JPEG: a real codec on the CPU, and the same arithmetic in torch elsewhere."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from degradations.arrays import Bytes, from_bytes, to_bytes
from degradations.base import Stage, check_range
from degradations.canvas import Canvas
from degradations.compose import check_probabilities
from degradations.draws import Draws, Integers
from degradations.libjpeg import jpeg
from degradations.params import Params

#: Values of the parameter `subsampling`, by index.
SUBSAMPLINGS = ("4:4:4", "4:2:2", "4:2:0")


class JPEG(Stage):
    """Save as baseline JPEG and load again, with quality and chroma subsampling per image.

    The image is clamped and rounded to 8 bits. All paths give the pixels of Pillow, bit for bit. On
    a CPU a real codec is used: OpenCV's encoder and the decoder of simplejpeg (16 photographs of
    256 pixels: 7.8 ms of one core; 8.2 with OpenCV's decoder, which is used if simplejpeg is
    missing, 11.0 by Pillow). On a GPU, and for gradients, libjpeg's arithmetic runs in torch
    (`degradations.libjpeg`). kornia's `jpeg_codec_differentiable` takes as long as that on a CPU
    (196 ms; ours 165) and is on average 1.0 (quality 95) to 2.0 levels (quality 10) off Pillow's
    4:2:0 on Kodak's photographs.

    Args:
        quality: Range of the quality as in Pillow, OpenCV and libjpeg, integers from 1 to 100, both
            ends included.
        subsampling: Probabilities of ``"4:4:4"``, ``"4:2:2"`` and ``"4:2:0"``, by name; quoted in
            YAML, which reads 4:2:0 as a number.
        differentiable: Pass gradients (straight through rounding; clipping stops them). The pixels
            are the same; takes 20 times as long on a CPU.

    Raises:
        ValueError: ``quality`` or ``subsampling`` is invalid.

    Source: ITU-T T.81; Real-ESRGAN (Wang et al., 2021; arXiv 2107.10833) for the range of qualities
    and 4:2:0.
    """

    def __init__(
        self,
        quality: tuple[int, int] = (30, 95),
        subsampling: dict[str, float] = {"4:2:0": 1.0},  # noqa: B006  (never changed)
        differentiable: bool = False,
    ) -> None:
        super().__init__()
        self.quality = check_quality(quality, 1, 100)
        self.subsampling = check_subsampling(subsampling)
        self.differentiable = differentiable

    def draw(self, draws: Draws, shape: torch.Size) -> Params:
        """Draw `quality` and `subsampling` (index of `SUBSAMPLINGS`), (B,) int each."""
        low, high = self.quality
        return {
            "quality": draws.integers(low, high + 1),
            "subsampling": draw_subsampling(draws, self.subsampling),
        }

    def forward(self, x: Tensor, params: Params) -> Tensor:
        """Code (B, 3, H, W) of any values; the output holds multiples of 1/255."""
        if self.differentiable or x.device.type != "cpu":
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
        quality, subsampling = params["quality"], params["subsampling"]
        return canvas.with_pixels(jpeg(canvas, quality, subsampling, halved, self.differentiable))


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


def check_quality(
    values: tuple[int, int], low: int, high: int, name: str = "quality"
) -> tuple[int, int]:
    """Check and return a range of integers.

    Raises:
        ValueError: It is reversed, leaves [low, high], or does not consist of integers.
    """
    lower, upper = check_range(values, name, low=low, high=high)
    if lower % 1 or upper % 1:
        raise ValueError(f"{name} is {[lower, upper]}; expected integers")
    return int(lower), int(upper)


def check_subsampling(probabilities: dict[str, float]) -> tuple[float, ...]:
    """Return the probability of each of `SUBSAMPLINGS`.

    Raises:
        ValueError: Another key is given, or they are not probabilities with sum 1.
    """
    for name in probabilities:
        if name not in SUBSAMPLINGS:
            raise ValueError(
                f"subsampling has the key {name!r}; expected {', '.join(SUBSAMPLINGS)} (quoted in "
                'YAML, "4:2:0", which reads 4:2:0 as a number)'
            )
    check_probabilities(list(probabilities.values()), len(probabilities), "subsampling")
    return tuple(probabilities.get(name, 0.0) for name in SUBSAMPLINGS)


def draw_subsampling(draws: Draws, probabilities: tuple[float, ...]) -> Integers:
    """Draw (B,) indices of `SUBSAMPLINGS`."""
    return draws.choice(np.arange(len(SUBSAMPLINGS)), probabilities).astype(np.int64)
