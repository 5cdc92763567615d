"""Photograph: the LR as the output of a camera with as many pixels."""

from __future__ import annotations

import math

from degradations.base import Stage, check_probability, check_range, check_scale
from degradations.blur import Blur, DefocusBlur, MotionBlur
from degradations.camera import Camera
from degradations.compose import Sometimes
from degradations.final import ToLR
from degradations.jpeg import JPEG
from degradations.pipeline import Executor, Pipeline
from degradations.sharpen import USM


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
        quantize: Round the LR to 8 bits, like an 8-bit file.
        executor: As in `Pipeline`.
        compile: As in `Pipeline`.

    Raises:
        ValueError: A range or probability is invalid.

    Source: Brooks et al., "Unprocessing Images for Learned Raw Denoising" (CVPR 2019; arXiv
    1811.11127), for the sensor and what follows it.
    """

    def __init__(
        self,
        scale: float,
        lens: tuple[float, float] = (0.2, 0.8),
        elongated: float = 0.3,
        defocus: tuple[float, float] = (0.5, 1.5),
        defocus_p: float = 0.2,
        motion: tuple[float, float] = (0.5, 4.0),
        motion_p: float = 0.2,
        iso: tuple[float, float] = (100.0, 12000.0),
        sharpening: float = 0.5,
        sharpening_p: float = 0.5,
        quality: tuple[int, int] = (70, 98),
        chroma: float = 0.7,
        quantize: bool = True,
        executor: Executor = "auto",
        compile: bool = False,
    ) -> None:
        s = check_scale(scale)
        sigma = _times(s, check_range(lens, "lens", low=0.01))
        radius = _times(s, check_range(defocus, "defocus", low=0.01))
        length = _times(s, check_range(motion, "motion", low=0.0))
        for name, p in (
            *(("elongated", elongated), ("defocus_p", defocus_p), ("motion_p", motion_p)),
            *(("sharpening_p", sharpening_p), ("chroma", chroma)),
        ):
            check_probability(p, name)
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
        super().__init__(scale, stages, quantize=quantize, executor=executor, compile=compile)


def _times(scale: float, values: tuple[float, float]) -> tuple[float, float]:
    return values[0] * scale, values[1] * scale
