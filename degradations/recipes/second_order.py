"""SecondOrder and the Real-ESRGAN recipes made of it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from degradations.base import (
    Canvas,
    ImageFunction,
    IntegerRange,
    Range,
    Size,
    Stage,
    by_images,
    check_scale,
    in_order,
    select,
)
from degradations.compose import OneOf, Sometimes
from degradations.draws import Draws, Params
from degradations.pipeline import Pipeline
from degradations.stages.blur import Blur, Families, Sinc
from degradations.stages.jpeg import JPEG
from degradations.stages.noise import GaussianNoise, PoissonNoise
from degradations.stages.resize import Modes, Resize
from degradations.stages.sharpen import USM
from files.numbers import UnitInterval


class ToLR(Resize):
    """Resize to exactly the LR size, each image with its own kernel.

    Args:
        divisor: The scale: the sides become those of the HR divided by it, rounded.
        modes: Kernels to choose from, as in `Resize`.
        antialias: As in `Resize`.

    Source: Real-ESRGAN (Wang et al., 2021; arXiv 2107.10833), the "resize back" of its released
    code.
    """

    unites = True

    def __init__(
        self,
        divisor: float = 1.0,
        modes: Modes = ("area", "bilinear", "bicubic"),
        antialias: bool = False,
    ) -> None:
        factor_is_one = (0.0, 0.0, 1.0)
        super().__init__(p=factor_is_one, modes=modes, antialias=antialias, divisor=divisor)

    def draw(self, draws: Draws, shape: torch.Size) -> Params:
        """Draw as `Resize.draw`, with the sides of the LR."""
        params = super().draw(draws, shape)
        H, W = shape[-2:]
        params["size"][:] = self.extent((H, W))
        return params

    def extent(self, hr_size: Size) -> Size:
        """Return (h, w) of the LR, which every image fills."""
        H, W = hr_size
        h = max(round(H / self.divisor), 1)
        w = max(round(W / self.divisor), 1)
        return h, w


class SincAndJPEG(Stage):
    """Resize to the LR size, filter by a sinc and compress; for half of the images compress first.

    On a canvas JPEG, the most expensive part, runs once for both orders, on the smaller canvas.

    Args:
        divisor: The scale, as in `ToLR`.
        modes: Kernels of the resize, as in `Resize`.
        sinc: Probability of the sinc filter, which follows the resize.
        kernel_size: Range of the size of that filter; odd sizes are drawn.
        quality: Range of the JPEG quality.
        smooth_chroma: As in `JPEG`.
        transposed_tables: As in `JPEG`.

    Source: Real-ESRGAN (Wang et al., 2021; arXiv 2107.10833), section 3.4, and its released code.
    """

    resizes = True
    unites = True

    def __init__(
        self,
        divisor: float = 1.0,
        modes: Modes = ("area", "bilinear", "bicubic"),
        sinc: UnitInterval = 0.8,
        kernel_size: IntegerRange = (7, 21),
        quality: IntegerRange = (30, 95),
        smooth_chroma: bool = True,
        transposed_tables: bool = False,
    ) -> None:
        super().__init__()
        self.resize = ToLR(divisor, modes)
        self.sinc = Sometimes(Sinc(kernel_size), sinc)
        self.jpeg = JPEG(quality, smooth_chroma=smooth_chroma, transposed_tables=transposed_tables)

    def draw(self, draws: Draws, shape: torch.Size) -> Params:
        """Draw `jpeg_last` (B,) bool, and the parameters of `resize`, `sinc` and `jpeg`."""
        return {
            "jpeg_last": draws.bernoulli(0.5),
            "resize": self.resize.draw(draws.fold("resize"), shape),
            "sinc": self.sinc.draw(draws.fold("sinc"), shape),
            "jpeg": self.jpeg.draw(draws.fold("jpeg"), shape),
        }

    def prepare(self, params: Params) -> Params:
        """Prepare the parameters of the parts."""
        return {
            **params,
            "resize": self.resize.prepare(params["resize"]),
            "sinc": self.sinc.prepare(params["sinc"]),
            "jpeg": self.jpeg.prepare(params["jpeg"]),
        }

    def forward(self, x: Tensor, params: Params) -> Tensor:
        """Return (B, C, h, w) of the LR size, each image in its own order."""
        return by_images(self, x, params)

    def image_functions(self, params: Params, x: Tensor) -> list[ImageFunction]:
        """Return for each image a function of all steps in its own order."""
        resizes = self.resize.image_functions(params["resize"], x)
        sincs = self.sinc.image_functions(params["sinc"], x)
        jpegs = self.jpeg.image_functions(params["jpeg"], x)
        functions: list[ImageFunction] = []
        for i, jpeg_last in enumerate(params["jpeg_last"].tolist()):
            if jpeg_last:
                steps = [resizes[i], sincs[i], jpegs[i]]
            else:
                steps = [jpegs[i], resizes[i], sincs[i]]
            functions.append(partial(in_order, functions=steps))
        return functions

    def on_canvas(self, canvas: Canvas, params: Params) -> Canvas:
        """Apply both orders around one JPEG, and select one for each image."""
        jpeg_last = params["jpeg_last"]
        sinc_params = params["sinc"]
        resized = self.resize.resampler(canvas, params["resize"])
        filtered = self.sinc.on_canvas(resized(canvas), sinc_params)
        before_jpeg = select(jpeg_last, filtered, canvas)
        compressed = self.jpeg.on_canvas(before_jpeg, params["jpeg"])
        # Where JPEG comes first, its output is still of the size before the resize.
        jpeg_first = self.sinc.on_canvas(resized(compressed), sinc_params)
        h, w = jpeg_first.pixels.shape[-2:]
        jpeg_last_pixels = compressed.pixels[..., :h, :w]
        mask = jpeg_last.view(-1, 1, 1, 1)
        pixels = torch.where(mask, jpeg_last_pixels, jpeg_first.pixels)
        return jpeg_first.with_pixels(pixels)


@dataclass(frozen=True)
class Order:
    """One order of the degradation: blur, resize, noise.

    Args:
        blur: Probability that an image is blurred.
        kernel_size: Range of the size of the blur kernel; odd sizes are drawn, ends included.
        families: Probabilities of the kernel family: Gaussian (isotropic, anisotropic),
            generalised Gaussian (isotropic, anisotropic), plateau (isotropic, anisotropic).
        sigma: Range of the standard deviations of the kernel in pixels.
        beta_generalized: Range of the exponent of generalised Gaussian kernels.
        beta_plateau: Range of the exponent of plateau kernels.
        sinc: Probability of a sinc kernel instead of these.
        resize: Range of the factor: from 1 to its end for enlarged images, from its start to 1 for
            shrunk ones. Relative to the HR in the first order, to the LR in the second.
        resize_p: Probabilities that an image is enlarged, shrunk, or kept.
        gaussian: Probability of Gaussian noise; Poisson noise otherwise.
        gaussian_sigma: Range of the standard deviation of Gaussian noise in 8-bit levels.
        poisson_strength: Range of the strength of Poisson noise.
        grey: Probability that the noise is the same in all three channels.
    """

    blur: UnitInterval = 1.0
    kernel_size: IntegerRange = (7, 21)
    families: Families = (0.45, 0.25, 0.12, 0.03, 0.12, 0.03)
    sigma: Range = (0.2, 3.0)
    beta_generalized: Range = (0.5, 4.0)
    beta_plateau: Range = (1.0, 2.0)
    sinc: UnitInterval = 0.1
    resize: Range = (0.15, 1.5)
    resize_p: tuple[float, float, float] = (0.2, 0.7, 0.1)
    gaussian: UnitInterval = 0.5
    gaussian_sigma: Range = (1.0, 30.0)
    poisson_strength: Range = (0.05, 3.0)
    grey: UnitInterval = 0.4

    def stages(
        self,
        modes: Modes,
        divisor: float = 1.0,
    ) -> tuple[Sometimes, Resize, OneOf]:
        """Make the stages blur, resize and noise.

        Args:
            modes: Kernels of the resize.
            divisor: Divisor of the HR sides, to which the factor is relative.

        Raises:
            ValueError: A range or probability is invalid; the message names it.
        """
        low, high = self.resize
        if not low <= 1.0 <= high:
            raise ValueError(f"resize is {[low, high]}; expected a range around 1")
        blur = Blur(
            kernel_size=self.kernel_size,
            families=self.families,
            sigma=self.sigma,
            beta_generalized=self.beta_generalized,
            beta_plateau=self.beta_plateau,
            sinc=self.sinc,
        )
        resize = Resize(
            up=(1.0, high),
            down=(low, 1.0),
            p=self.resize_p,
            modes=modes,
            divisor=divisor,
        )
        noises: dict[str, Stage] = {
            "gaussian": GaussianNoise(self.gaussian_sigma, grey=self.grey),
            "poisson": PoissonNoise(self.poisson_strength, grey=self.grey),
        }
        noise = OneOf(noises, (self.gaussian, 1.0 - self.gaussian))
        return Sometimes(blur, self.blur), resize, noise


#: The second order of Real-ESRGAN's released options.
SECOND = Order(
    blur=0.8,
    sigma=(0.2, 1.5),
    resize=(0.3, 1.2),
    resize_p=(0.3, 0.4, 0.3),
    gaussian_sigma=(1.0, 25.0),
    poisson_strength=(0.05, 2.5),
)

# Draws that the released code shares in a batch; kernels, levels, grey and quality are per image.
_SHARED_DRAWS = (
    "resize",
    "noise.which",
    "blur2.applied",
    "resize2.stage",
    "noise2.stage.which",
    "final.jpeg_last",
    "final.resize",
)


class SecondOrder(Pipeline):
    """Blur, resize, noise and JPEG, twice, with a sinc filter around the last JPEG.

    The streams are named `usm`, `blur`, `resize`, `noise`, `jpeg`, `blur2`, `resize2`, `noise2` and
    `final`; omitting one does not change the draws of the others.

    Differs from the source: every choice is drawn per image, and the chroma of a JPEG is smoothed
    (but see ``faithful``); JPEG qualities are integers, and JPEG rounds to 8 bits like the codec,
    while the released code computes it in float with real qualities; resizing, see `Resize`; the
    crop itself is degraded, not a 400 px image that is cropped afterwards.

    Args:
        scale: How many times smaller the LR is; any positive number. Linked to
            data.init_args.scale.
        usm: Make the LR from a sharpened HR, as the released code does. The HR target of the
            network is not sharpened: that is up to the model.
        first: The first order.
        second: The second order.
        second_p: Probability of the second order.
        modes: Kernels of all resizes, equally likely.
        jpeg_quality: Range of the quality of the first JPEG; null for no first JPEG.
        final_jpeg_quality: Range of the quality of the last JPEG.
        final_sinc: Probability of the last sinc filter.
        final_kernel_size: Range of the size of that filter; odd sizes are drawn.
        faithful: Share within a batch the draws that the released code shares: factors and kernels
            of the resizes, the noise family, whether there is a second order and a second blur,
            the order of the last steps. The LR of an image then depends on its batch. Grey noise
            is drawn per image, as in the released code. As there, a JPEG repeats its chroma and
            has transposed quantisation tables.

    Raises:
        ValueError: A range or probability is invalid; the message names it.

    Source: Real-ESRGAN (Wang et al., 2021; arXiv 2107.10833), with the released x4 options as
    defaults.
    """

    def __init__(
        self,
        scale: float,
        usm: bool = True,
        first: Order = Order(),
        second: Order = SECOND,
        second_p: UnitInterval = 1.0,
        modes: Modes = ("area", "bilinear", "bicubic"),
        jpeg_quality: IntegerRange | None = (30, 95),
        final_jpeg_quality: IntegerRange = (30, 95),
        final_sinc: UnitInterval = 0.8,
        final_kernel_size: IntegerRange = (7, 21),
        faithful: bool = False,
        **kwargs: Any,
    ) -> None:
        divisor = check_scale(scale)
        stages: dict[str, Stage] = {}
        if usm:
            stages["usm"] = USM()
        blur, resize, noise = first.stages(modes)
        stages["blur"] = blur
        stages["resize"] = resize
        stages["noise"] = noise
        if jpeg_quality is not None:
            stages["jpeg"] = JPEG(
                jpeg_quality, smooth_chroma=not faithful, transposed_tables=faithful
            )
        if second_p > 0.0:
            blur, resize, noise = second.stages(modes, divisor)
            blur.selects |= second_p < 1.0  # `draw` unsets `applied` without this order
            stages["blur2"] = blur
            stages["resize2"] = Sometimes(resize, second_p)
            stages["noise2"] = Sometimes(noise, second_p)
        stages["final"] = SincAndJPEG(
            divisor,
            modes,
            sinc=final_sinc,
            kernel_size=final_kernel_size,
            quality=final_jpeg_quality,
            smooth_chroma=not faithful,
            transposed_tables=faithful,
        )
        super().__init__(scale, stages, **kwargs)
        self.second_p = second_p
        self.faithful = faithful

    def draw(self, draws: Draws, shape: torch.Size) -> Params:
        """Draw one entry per stage; the stages of the second order share whether it is applied."""
        params = super().draw(draws, shape)
        if self.faithful:
            batch_params = super().draw(draws.shared(), shape)
            for path in _SHARED_DRAWS:
                _replace(params, batch_params, path.split("."))
        if 0.0 < self.second_p < 1.0:
            second_draws = draws.shared() if self.faithful else draws
            applied = second_draws.fold("second").bernoulli(self.second_p)
            params["blur2"]["applied"] &= applied
            params["resize2"]["applied"] = applied
            params["noise2"]["applied"] = applied
        return params


def _replace(
    params: dict[str, Any],
    others: dict[str, Any],
    path: list[str],
) -> None:
    """Replace the entry at the path, if it exists, by that of `others`."""
    name, *rest = path
    if name not in params:
        return
    if rest:
        _replace(params[name], others[name], rest)
    else:
        params[name] = others[name]


class RealESRGAN(SecondOrder):
    """Real-ESRGAN's degradation, with its released x4 options.

    With ``usm`` true, the default, it has the steps and ranges of the released code (of Real-ESRNet
    and Real-ESRGAN, and NSARM's `realesrgan`); docs/degradations.md says what differs. With ``usm``
    false it omits sharpening and takes three fifths of the time on a CPU.

    Args:
        scale: How many times smaller the LR is; any positive number. Linked to
            data.init_args.scale.
        usm: Make the LR from a sharpened HR, as the released code does. The HR target of the
            network is not sharpened: that is up to the model.
        first: The first order.
        second: The second order.
        second_p: Probability of the second order.
        modes: Kernels of all resizes, equally likely.
        jpeg_quality: Range of the quality of the first JPEG; null for no first JPEG.
        final_jpeg_quality: Range of the quality of the last JPEG.
        final_sinc: Probability of the last sinc filter.
        final_kernel_size: Range of the size of that filter; odd sizes are drawn.
        faithful: Share within a batch the draws that the released code shares: factors and kernels
            of the resizes, the noise family, whether there is a second order and a second blur,
            the order of the last steps. The LR of an image then depends on its batch. Grey noise
            is drawn per image, as in the released code. As there, a JPEG repeats its chroma and
            has transposed quantisation tables.

    Source: Wang et al., "Real-ESRGAN: Training Real-World Blind Super-Resolution with Pure
    Synthetic Data" (ICCVW 2021; arXiv 2107.10833), options train_realesrgan_x4plus.

    Examples:
        >>> import torch
        >>> from degradations import RealESRGAN
        >>> degrade = RealESRGAN(4, usm=False)
        >>> hr, seeds = torch.rand(2, 3, 64, 48), torch.tensor([0, 1])
        >>> degrade(hr, seeds).shape
        torch.Size([2, 3, 16, 12])
    """


class RealESRGANLight(SecondOrder):
    """One order of milder ranges, without a first JPEG.

    Args:
        scale: How many times smaller the LR is; any positive number. Linked to
            data.init_args.scale.
        first: The only order.
        final_jpeg_quality: Range of the quality of the only JPEG.
        kwargs: As in `SecondOrder`.

    Source: NSARM's degradation `realesrgan_light`, from its released code.
    """

    def __init__(
        self,
        scale: float,
        first: Order = Order(
            resize=(0.5, 1.5),
            gaussian=0.3,
            gaussian_sigma=(1.0, 20.0),
            poisson_strength=(0.05, 2.0),
            grey=0.2,
        ),
        final_jpeg_quality: IntegerRange = (60, 95),
        **kwargs: Any,
    ) -> None:
        super().__init__(
            scale,
            first=first,
            second=SECOND,  # never applied
            second_p=0.0,
            jpeg_quality=None,
            final_jpeg_quality=final_jpeg_quality,
            **kwargs,
        )
