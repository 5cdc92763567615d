"""The degradations of ResShift and InvSR, for training and for their synthetic test set."""

from __future__ import annotations

from degradations.pipeline import Executor
from degradations.recipes.second_order import SECOND, Order, SecondOrder


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
        modes: Kernels of all resizes, equally likely.
        jpeg_quality: Range of the quality of the first JPEG; null for no first JPEG.
        final_jpeg_quality: Range of the quality of the last JPEG.
        final_sinc: Probability of the last sinc filter.
        final_kernel_size: Range of the size of that filter; odd sizes are drawn.
        faithful: Share within a batch the draws that the source shares; as in `SecondOrder`.
        pool: Number of pairs of earlier batches, per process, that training exchanges with its own
            (released code: 10 batches); 0 for no pool.
        quantize: Round the LR to 8 bits, like an 8-bit file.
        executor: As in `Pipeline`.
        compile: As in `Pipeline`.

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
        second_p: float = 0.5,
        modes: tuple[str, ...] = ("area", "bilinear", "bicubic"),
        jpeg_quality: tuple[int, int] | None = (30, 95),
        final_jpeg_quality: tuple[int, int] = (30, 95),
        final_sinc: float = 0.8,
        final_kernel_size: tuple[int, int] = (3, 13),
        faithful: bool = False,
        pool: int = 0,
        quantize: bool = True,
        executor: Executor = "auto",
        compile: bool | None = None,
    ) -> None:
        super().__init__(
            scale,
            usm=False,
            first=first,
            second=second,
            second_p=second_p,
            modes=modes,
            jpeg_quality=jpeg_quality,
            final_jpeg_quality=final_jpeg_quality,
            final_sinc=final_sinc,
            final_kernel_size=final_kernel_size,
            faithful=faithful,
            pool=pool,
            quantize=quantize,
            executor=executor,
            compile=compile,
        )


class ImageNetTest(SecondOrder):
    """One mild order, with which ResShift and InvSR made the LR of their ImageNet-Test.

    Args:
        scale: How many times smaller the LR is; any positive number. Linked to
            data.init_args.scale.
        first: The only order.
        modes: Kernels of all resizes, equally likely.
        jpeg_quality: Range of the quality of the first JPEG; null for no first JPEG.
        final_jpeg_quality: Range of the quality of the last JPEG.
        final_sinc: Probability of the last sinc filter.
        final_kernel_size: Range of the size of that filter; odd sizes are drawn.
        quantize: Round the LR to 8 bits, like an 8-bit file.
        executor: As in `Pipeline`.
        compile: As in `Pipeline`.

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
        modes: tuple[str, ...] = ("area", "bilinear", "bicubic"),
        jpeg_quality: tuple[int, int] | None = (70, 95),
        final_jpeg_quality: tuple[int, int] = (80, 100),
        final_sinc: float = 0.2,
        final_kernel_size: tuple[int, int] = (3, 5),
        quantize: bool = True,
        executor: Executor = "auto",
        compile: bool | None = None,
    ) -> None:
        super().__init__(
            scale,
            usm=False,
            first=first,
            second_p=0.0,
            modes=modes,
            jpeg_quality=jpeg_quality,
            final_jpeg_quality=final_jpeg_quality,
            final_sinc=final_sinc,
            final_kernel_size=final_kernel_size,
            quantize=quantize,
            executor=executor,
            compile=compile,
        )
