"""Web and Photograph: images from the web and from phones."""

from __future__ import annotations

import math
from typing import Any

import torch

from degradations.base import Stage, check_range, check_scale
from degradations.compose import OneOf, Sometimes
from degradations.draws import Draws, Params, check_probabilities
from degradations.pipeline import Pipeline
from degradations.recipes.second_order import ToLR
from degradations.stages.blur import Blur, DefocusBlur, MotionBlur
from degradations.stages.camera import Camera
from degradations.stages.codec import WebP
from degradations.stages.jpeg import JPEG, Subsampling
from degradations.stages.resize import Modes, Resize
from degradations.stages.sharpen import USM
from files.numbers import NonNegativeFloat, UnitInterval

_UPLOADS = 3


class Web(Pipeline):
    """One to three uploads; each resizes and compresses the image.

    The image is a JPEG first. Each upload resizes it to about the LR size, the last one to exactly
    that size, and saves it as JPEG or WebP. As for images from the web, the last step is a codec.
    Ranges are ours.

    The streams are named `saved`, `resize1`, `codec1`, `resize2`, `codec2`, `to_lr`, `codec` and
    `uploads`.

    WebP is coded on the CPU: unless ``webp`` is 0, the host waits for images on a GPU, and the
    recipe cannot be compiled.

    Args:
        scale: How many times smaller the LR is; any positive number. Linked to
            data.init_args.scale.
        uploads: Probabilities of one, two and three uploads.
        saved_quality: Range of the JPEG quality of the original file.
        sizes: Range of the size between two uploads, relative to the LR.
        resize_p: Probabilities that this size is larger than the LR, smaller, or the same.
        modes: Kernels of all resizes, equally likely; they are antialiased.
        quality: Range of the quality of the uploads' codecs.
        webp: Probability of WebP for each upload; JPEG otherwise.
        chroma: Probability that a JPEG has chroma of half the resolution (4:2:0).

    Raises:
        ValueError: A range is invalid, or the probabilities do not have sum 1.
    """

    def __init__(
        self,
        scale: float,
        uploads: tuple[float, float, float] = (0.4, 0.4, 0.2),
        saved_quality: tuple[int, int] = (75, 98),
        sizes: tuple[float, float] = (0.7, 2.0),
        resize_p: tuple[float, float, float] = (0.6, 0.2, 0.2),
        modes: Modes = ("area", "bilinear", "bicubic", "lanczos"),
        quality: tuple[int, int] = (40, 92),
        webp: UnitInterval = 0.25,
        chroma: UnitInterval = 0.85,
        **kwargs: Any,
    ) -> None:
        s = check_scale(scale)
        low, high = check_range(sizes, "sizes", low=0.0)
        if not low <= 1.0 <= high:
            raise ValueError(f"sizes is {[low, high]}; expected a range around 1, the LR size")
        probabilities = check_probabilities(uploads, _UPLOADS, "uploads")
        subsampling: dict[Subsampling, float] = {"4:2:0": chroma, "4:4:4": 1.0 - chroma}

        def codec() -> Stage:
            jpeg = JPEG(quality, subsampling)
            if webp == 0.0:
                return jpeg
            return OneOf({"jpeg": jpeg, "webp": WebP(quality)}, (1.0 - webp, webp))

        stages: dict[str, Stage] = {"saved": JPEG(saved_quality, subsampling)}
        for number in range(1, _UPLOADS):
            p = sum(probabilities[number:])
            if p > 0.0:
                resize = Resize((1.0, high), (low, 1.0), resize_p, modes, True, s)
                stages[f"resize{number}"] = Sometimes(resize, p)
                stages[f"codec{number}"] = Sometimes(codec(), p)
        stages["to_lr"], stages["codec"] = ToLR(s, modes, antialias=True), codec()
        super().__init__(scale, stages, **kwargs)
        self.uploads = probabilities

    def draw(self, draws: Draws, shape: torch.Size) -> Params:
        """Draw one entry per stage; resizes and codecs share the number of uploads."""
        params = super().draw(draws, shape)
        count = draws.fold("uploads").choice([1, 2, 3], self.uploads)
        for number in range(1, _UPLOADS):
            for name in (f"resize{number}", f"codec{number}"):
                if name in params:
                    params[name]["applied"] = count > number
        return params


class Photograph(Pipeline):
    """Lens blur, camera shake, a sensor with colour filter and noise, sharpening, JPEG.

    The streams are named `lens`, `defocus`, `motion`, `to_lr`, `camera`, `usm` and `jpeg`. Unlike
    in second-order recipes, noise and demosaicing are applied at the LR size, as in a sensor. All
    lengths are in LR pixels, so they do not depend on the scale. Ranges are ours, except those of
    `Camera`.

    Args:
        scale: How many times smaller the LR is; any positive number. Linked to
            data.init_args.scale.
        lens: Range of the standard deviation of the lens blur.
        elongated: Probability that the lens blur is anisotropic, as near the corners of an image.
        defocus: Range of the radius of the defocus disk.
        defocus_p: Probability of defocus.
        motion: Range of the length of the motion blur.
        motion_p: Probability of motion blur.
        iso: Range of the sensor's ISO speed, which determines its noise; as in `Camera`.
        sharpening: Weight of the unsharp mask of 5x5 pixels.
        sharpening_p: Probability of sharpening.
        quality: Range of the JPEG quality.
        chroma: Probability that the JPEG has chroma of half the resolution (4:2:0).

    Raises:
        ValueError: A range is invalid.

    Source: Brooks et al., "Unprocessing Images for Learned Raw Denoising" (CVPR 2019; arXiv
    1811.11127), for the sensor and what follows it.
    """

    def __init__(
        self,
        scale: float,
        lens: tuple[float, float] = (0.2, 0.8),
        elongated: UnitInterval = 0.3,
        defocus: tuple[float, float] = (0.5, 1.5),
        defocus_p: UnitInterval = 0.2,
        motion: tuple[float, float] = (0.5, 4.0),
        motion_p: UnitInterval = 0.2,
        iso: tuple[float, float] = (100.0, 12000.0),
        sharpening: NonNegativeFloat = 0.5,
        sharpening_p: UnitInterval = 0.5,
        quality: tuple[int, int] = (70, 98),
        chroma: UnitInterval = 0.7,
        **kwargs: Any,
    ) -> None:
        s = check_scale(scale)
        sigma = _times(s, check_range(lens, "lens", low=0.01))
        radius = _times(s, check_range(defocus, "defocus", low=0.01))
        length = _times(s, check_range(motion, "motion", low=0.0))
        widest = 2 * math.ceil(3.0 * sigma[1]) + 1
        stages: dict[str, Stage] = {
            "lens": Blur(
                kernel_size=(widest, widest),
                families=(1.0 - elongated, elongated, 0.0, 0.0, 0.0, 0.0),
                sigma=sigma,
                sinc=0.0,
            ),
            "defocus": Sometimes(DefocusBlur(radius), defocus_p),
            "motion": Sometimes(MotionBlur(length), motion_p),
            "to_lr": ToLR(s, ("area",)),
            "camera": Camera(iso),
            "usm": Sometimes(USM(weight=sharpening, radius=5, threshold=1.0), sharpening_p),
            "jpeg": JPEG(quality, {"4:2:0": chroma, "4:4:4": 1.0 - chroma}),
        }
        super().__init__(scale, stages, **kwargs)


def _times(scale: float, values: tuple[float, float]) -> tuple[float, float]:
    return values[0] * scale, values[1] * scale
