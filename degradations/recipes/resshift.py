"""The degradations of ResShift and InvSR, for training and for their synthetic test set."""

from __future__ import annotations

from typing import Any

from degradations.base import IntegerRange
from degradations.recipes.second_order import SECOND, Order, SecondOrder
from files.numbers import UnitInterval


class ResShift(SecondOrder):
    """Real-ESRGAN's with smaller kernels, a second order for half of the images, no sharpening.

    As in the released code, kernel sizes are odd from 3 to the largest of the options less 2: 3 to
    19 in the first order, 3 to 13 in the second and in the last sinc filter.

    Args:
        scale: How many times smaller the LR is; any positive number. Linked to
            data.init_args.scale.
        first: The first order.
        second: The second order.
        second_p: Probability of the second order.
        final_kernel_size: Range of the size of the last sinc filter; odd sizes are drawn.
        kwargs: As in `SecondOrder`.

    Source: ResShift (Yue et al., NeurIPS 2023; arXiv 2307.12348) and InvSR (Yue et al., 2024; arXiv
    2412.09013), training options of their released code, which are the same.
    """

    def __init__(
        self,
        scale: float,
        first: Order = Order(kernel_size=(3, 19)),  # noqa: B008
        second: Order = Order(  # noqa: B008
            blur=SECOND.blur,
            kernel_size=(3, 13),
            sigma=SECOND.sigma,
            resize=SECOND.resize,
            resize_p=SECOND.resize_p,
            gaussian_sigma=SECOND.gaussian_sigma,
            poisson_strength=SECOND.poisson_strength,
        ),
        second_p: UnitInterval = 0.5,
        final_kernel_size: IntegerRange = (3, 13),
        **kwargs: Any,
    ) -> None:
        super().__init__(
            scale,
            usm=False,
            first=first,
            second=second,
            second_p=second_p,
            final_kernel_size=final_kernel_size,
            **kwargs,
        )


class ImageNetTest(SecondOrder):
    """One mild order, with which ResShift and InvSR made the LR of their ImageNet-Test.

    Args:
        scale: How many times smaller the LR is; any positive number. Linked to
            data.init_args.scale.
        first: The only order.
        jpeg_quality: Range of the quality of the first JPEG; null for no first JPEG.
        final_jpeg_quality: Range of the quality of the last JPEG.
        final_sinc: Probability of the last sinc filter.
        final_kernel_size: Range of the size of that filter; odd sizes are drawn.
        kwargs: As in `SecondOrder`.

    Source: the script of InvSR (Yue et al., 2024; arXiv 2412.09013) that made the set, image by
    image. Its second order has probability 0 and is omitted here.
    """

    def __init__(
        self,
        scale: float,
        first: Order = Order(  # noqa: B008
            kernel_size=(3, 11),
            families=(0.6, 0.4, 0.0, 0.0, 0.0, 0.0),
            sigma=(0.2, 0.8),
            beta_generalized=(1.0, 1.5),
            beta_plateau=(1.0, 1.2),
            resize=(0.5, 1.5),
            gaussian_sigma=(1.0, 15.0),
            poisson_strength=(0.05, 0.3),
        ),
        jpeg_quality: IntegerRange | None = (70, 95),
        final_jpeg_quality: IntegerRange = (80, 100),
        final_sinc: UnitInterval = 0.2,
        final_kernel_size: IntegerRange = (3, 5),
        **kwargs: Any,
    ) -> None:
        super().__init__(
            scale,
            usm=False,
            first=first,
            second=SECOND,  # never applied
            second_p=0.0,
            jpeg_quality=jpeg_quality,
            final_jpeg_quality=final_jpeg_quality,
            final_sinc=final_sinc,
            final_kernel_size=final_kernel_size,
            faithful=False,  # no draws shared in a batch: the script degraded image by image
            **kwargs,
        )
