"""Real-ESRGAN's degradation, and NSARM's light variant."""

from __future__ import annotations

from degradations.pipeline import Executor
from degradations.second_order import Order, SecondOrder


class RealESRGAN(SecondOrder):
    """Real-ESRGAN's degradation, with its released x4 options.

    With ``usm`` true, the default, it is the degradation of the released code (of Real-ESRNet and
    Real-ESRGAN, and NSARM's `realesrgan`). With ``usm`` false it omits sharpening and takes two
    thirds of the time on a CPU.

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
            is drawn per image, as in the released code.
        pool: Number of pairs of earlier batches, per process, that training exchanges with its own
            (released code: 180); 0 for no pool.
        quantize: Round the LR to 8 bits, like an 8-bit file.
        executor: As in `Pipeline`.
        compile: As in `Pipeline`.

    Source: Wang et al., "Real-ESRGAN: Training Real-World Blind Super-Resolution with Pure
    Synthetic Data" (ICCVW 2021; arXiv 2107.10833), options train_realesrgan_x4plus.
    """


class RealESRGANLight(SecondOrder):
    """One order of milder ranges, without a first JPEG.

    Args:
        scale: How many times smaller the LR is; any positive number. Linked to
            data.init_args.scale.
        usm: Make the LR from a sharpened HR, as the source does.
        first: The only order.
        modes: Kernels of all resizes, equally likely.
        final_jpeg_quality: Range of the quality of the only JPEG.
        final_sinc: Probability of the last sinc filter.
        faithful: Share within a batch the draws that the source shares; as in `SecondOrder`.
        pool: Number of pairs of earlier batches, per process, that training exchanges with its own
            (as in `SecondOrder`); 0 for no pool.
        quantize: Round the LR to 8 bits, like an 8-bit file.
        executor: As in `Pipeline`.
        compile: As in `Pipeline`.

    Source: NSARM's degradation `realesrgan_light`, from its released code.
    """

    def __init__(
        self,
        scale: float,
        usm: bool = True,
        first: Order = Order(  # noqa: B008
            resize=(0.5, 1.5),
            gaussian=0.3,
            gaussian_sigma=(1.0, 20.0),
            poisson_strength=(0.05, 2.0),
            grey=0.2,
        ),
        modes: tuple[str, ...] = ("area", "bilinear", "bicubic"),
        final_jpeg_quality: tuple[int, int] = (60, 95),
        final_sinc: float = 0.8,
        faithful: bool = False,
        pool: int = 0,
        quantize: bool = True,
        executor: Executor = "auto",
        compile: bool = False,
    ) -> None:
        super().__init__(
            scale,
            usm=usm,
            first=first,
            second_p=0.0,
            modes=modes,
            jpeg_quality=None,
            final_jpeg_quality=final_jpeg_quality,
            final_sinc=final_sinc,
            faithful=faithful,
            pool=pool,
            quantize=quantize,
            executor=executor,
            compile=compile,
        )
