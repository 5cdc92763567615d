"""Image and video codecs, on the CPU for images on any device."""

from __future__ import annotations

import io
from abc import abstractmethod
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from torch import Tensor

from degradations.base import Canvas, Stage, each_on_host
from degradations.draws import Draws, Params, split_params
from degradations.images import Bytes, from_bytes, to_bytes
from degradations.stages.jpeg import (
    SUBSAMPLINGS,
    check_quality,
    check_subsampling,
    draw_subsampling,
)
from files.video import load_av


class _Codec(Stage):
    """A codec for 8-bit images, applied image by image; the host waits for the device."""

    waits = True

    @abstractmethod
    def encode_decode(self, pixels: Bytes, params: dict[str, int]) -> Bytes:
        """Save and load (H, W, 3) uint8."""

    def forward(self, x: Tensor, params: Params) -> Tensor:
        """Code (B, 3, H, W) of any values; the output holds multiples of 1/255."""
        images = [
            from_bytes(self.encode_decode(to_bytes(image), {k: int(v) for k, v in own.items()}), x)
            for image, own in zip(x, split_params(params, len(x)), strict=True)
        ]
        return torch.cat(images)

    def on_canvas(self, canvas: Canvas, params: Params) -> Canvas:
        """Cut out each image on the CPU: one copy from the device and one back."""
        return each_on_host(canvas, params, self)


class PillowJPEG(_Codec):
    """Save as JPEG by Pillow and load again; on the CPU, also for images on a GPU.

    The pixels equal those of `degradations.JPEG`, which is faster everywhere. This stage is
    its reference, and the choice if a future Pillow changes its codec.

    Args:
        quality: Range of the quality, integers from 1 to 100, both ends included.
        subsampling: Probabilities of ``"4:4:4"``, ``"4:2:2"`` and ``"4:2:0"``, by name; quoted in
            YAML, which reads 4:2:0 as a number.

    Raises:
        ValueError: ``quality`` or ``subsampling`` is invalid.
    """

    def __init__(
        self,
        quality: tuple[int, int] = (30, 95),
        subsampling: dict[str, float] = {"4:2:0": 1.0},  # noqa: B006  (never changed)
    ) -> None:
        super().__init__()
        self.quality = check_quality(quality, 1, 100)
        self.subsampling = check_subsampling(subsampling)
        _check_pillow("jpg", "JPEG")

    def draw(self, draws: Draws, shape: torch.Size) -> Params:
        """Draw `quality` and `subsampling` (index of `jpeg.SUBSAMPLINGS`), (B,) int each."""
        return {
            "quality": _drawn(draws, self.quality),
            "subsampling": draw_subsampling(draws, self.subsampling),
        }

    def encode_decode(self, pixels: Bytes, params: dict[str, int]) -> Bytes:
        """Save to a file in memory and load it."""
        subsampling = SUBSAMPLINGS[params["subsampling"]]
        return _by_pillow(pixels, "JPEG", quality=params["quality"], subsampling=subsampling)


class WebP(_Codec):
    """Save as lossy WebP by Pillow and load again; on the CPU, also for images on a GPU.

    Its chroma is always 4:2:0.

    Args:
        quality: Range of the quality, integers from 0 to 100, both ends included.
        method: Effort of the encoder, from 0 to 6; Pillow's default is 4.

    Raises:
        ValueError: An argument is out of range, or the installed Pillow lacks WebP.
    """

    def __init__(self, quality: tuple[int, int] = (30, 95), method: int = 4) -> None:
        super().__init__()
        self.quality = check_quality(quality, 0, 100)
        self.method = _check_effort(method, "method", 6)
        _check_pillow("webp", "WebP")

    def draw(self, draws: Draws, shape: torch.Size) -> Params:
        """Draw `quality`, (B,) int."""
        return {"quality": _drawn(draws, self.quality)}

    def encode_decode(self, pixels: Bytes, params: dict[str, int]) -> Bytes:
        """Save to a file in memory and load it."""
        return _by_pillow(pixels, "WEBP", quality=params["quality"], method=self.method)


class AVIF(_Codec):
    """Save as AVIF by Pillow and load again; on the CPU, also for images on a GPU.

    Args:
        quality: Range of the quality, integers from 0 to 100, both ends included.
        subsampling: Probabilities of ``"4:4:4"``, ``"4:2:2"`` and ``"4:2:0"``, by name; quoted in
            YAML, which reads 4:2:0 as a number.
        speed: Speed of the encoder, from 0 (slow) to 10; Pillow's default is 6.

    Raises:
        ValueError: An argument is out of range, or the installed Pillow lacks AVIF.
    """

    def __init__(
        self,
        quality: tuple[int, int] = (30, 95),
        subsampling: dict[str, float] = {"4:2:0": 1.0},  # noqa: B006  (never changed)
        speed: int = 6,
    ) -> None:
        super().__init__()
        self.quality = check_quality(quality, 0, 100)
        self.subsampling = check_subsampling(subsampling)
        self.speed = _check_effort(speed, "speed", 10)
        _check_pillow("avif", "AVIF")

    def draw(self, draws: Draws, shape: torch.Size) -> Params:
        """Draw `quality` and `subsampling` (index of `jpeg.SUBSAMPLINGS`), (B,) int each."""
        return {
            "quality": _drawn(draws, self.quality),
            "subsampling": draw_subsampling(draws, self.subsampling),
        }

    def encode_decode(self, pixels: Bytes, params: dict[str, int]) -> Bytes:
        """Save to a file in memory and load it; the result depends on the number of threads: 1."""
        return _by_pillow(
            pixels,
            "AVIF",
            quality=params["quality"],
            subsampling=SUBSAMPLINGS[params["subsampling"]],
            speed=self.speed,
            max_threads=1,
        )


class H264(_Codec):
    """Code as one intra frame of an H.264 video and decode again; always on the CPU.

    Uses x264 and FFmpeg, which PyAV brings (the extra ``video``). Colours are BT.601 of limited
    range and 4:2:0. The last line of an image with an odd side is repeated for coding. OpenCV
    converts back to RGB: FFmpeg's defaults darken images by 1 level or more.

    Args:
        crf: Range of x264's constant rate factor, integers from 0 (nearly lossless) to 51, both
            ends included.
        preset: Effort of the encoder, from ``ultrafast`` to ``veryslow``.

    Raises:
        ValueError: ``crf`` is invalid, ``preset`` is unknown, or PyAV is not installed.
    """

    def __init__(self, crf: tuple[int, int] = (18, 36), preset: str = "veryfast") -> None:
        super().__init__()
        self.crf = check_quality(crf, 0, 51, "crf")
        if preset not in _PRESETS:
            raise ValueError(f"preset is {preset!r}; expected one of {', '.join(_PRESETS)}")
        self.preset = preset
        load_av("H264")

    def draw(self, draws: Draws, shape: torch.Size) -> Params:
        """Draw `crf`, (B,) int."""
        return {"crf": _drawn(draws, self.crf)}

    def encode_decode(self, pixels: Bytes, params: dict[str, int]) -> Bytes:
        """Code to packets in memory and decode them."""
        import cv2

        av = load_av("H264")
        H, W = pixels.shape[:2]
        even = np.pad(pixels, ((0, H % 2), (0, W % 2), (0, 0)), mode="edge")
        encoder = av.CodecContext.create("libx264", "w")
        encoder.height, encoder.width = even.shape[:2]
        encoder.pix_fmt, encoder.time_base, encoder.thread_count = "yuv420p", Fraction(1, 25), 1
        encoder.options = {"crf": str(params["crf"]), "preset": self.preset}
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(even), format="rgb24")
        packets = [*encoder.encode(frame.reformat(format="yuv420p")), *encoder.encode(None)]
        decoder = av.CodecContext.create("h264", "r")
        decoder.thread_count = 1
        decoded = [frame for packet in [*packets, None] for frame in decoder.decode(packet)]
        planes = decoded[0].to_ndarray(format="yuv420p")
        rgb: Bytes = cv2.cvtColor(planes, cv2.COLOR_YUV2RGB_I420)
        return np.ascontiguousarray(rgb[:H, :W])


_PRESETS = (
    *("ultrafast", "superfast", "veryfast", "faster", "fast"),
    *("medium", "slow", "slower", "veryslow"),
)


def _drawn(draws: Draws, limits: tuple[int, int]) -> Any:
    return draws.integers(limits[0], limits[1] + 1)


def _by_pillow(pixels: Bytes, kind: str, **settings: Any) -> Bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **settings)
    with Image.open(file) as image:
        return np.array(image.convert("RGB"))


def _check_pillow(feature: str, name: str) -> None:
    import PIL
    from PIL import features

    if not features.check(feature):
        raise ValueError(
            f"the installed Pillow {PIL.__version__} was built without {name}; expected one with "
            "it, such as the wheels of Pillow 11.3 and later"
        )


def _check_effort(value: int, name: str, high: int) -> int:
    if not 0 <= value <= high:
        raise ValueError(f"{name} is {value}; expected an integer from 0 to {high}")
    return value
