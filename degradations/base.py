"""The two contracts: `Stage` (one step) and `Degradation` (a whole recipe, which owns the scale).

Random choices and pixels are kept apart. `draw` makes the parameters on the CPU, from the samples'
own seeds; `forward` of a stage and `degrade` of a recipe are pure functions of pixels and
parameters. So parameters can be recorded and replayed, and are the same on every device.
"""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Self

import torch
from torch import Tensor, nn

from degradations.canvas import Canvas
from degradations.draws import Draws, Seeds
from degradations.params import Params, of_each_image, to_device


class Stage(nn.Module, ABC):
    """One step of a degradation: image in, image out, every choice drawn per image.

    A stage never has an argument `scale` (only the degradation knows it), never touches a global
    generator, and makes the tensors it needs from `x`: its own buffers are not moved to the device.

    `draw` and `forward` are all that a stage of your own needs: a degradation gives it one image
    after the other. On a GPU, where images of differing sizes lie on one canvas, the host has to
    wait for their sizes to do so, unless the stage is `pixelwise` or has an `on_canvas` of its own.
    """

    #: Whether each pixel that `forward` makes depends on the same pixel, on the parameters and on
    #: fields of `degradations.fields` alone: not on its place, its neighbours, the size of the
    #: image or all of it. Then `forward` gets whole canvases on a GPU.
    pixelwise = False

    #: Whether pictures that had one size may come out with differing ones: `forward` is then given
    #: one picture at a time, and `on_canvas` has to be written.
    resizes = False

    #: Whether all pictures of a batch come out with one size, whichever they had.
    unites = False

    #: Whether `on_canvas` waits for the device, as what works on the CPU in any case has to.
    waits = False

    @abstractmethod
    def draw(self, draws: Draws, shape: torch.Size) -> Params:
        """Draw the parameters of a batch; the only place of a stage where chance enters.

        Args:
            draws: The stage's own streams, one an image.
            shape: (B, C, H, W) of the batch that enters the degradation.

        Returns:
            Arrays with first dimension B, or Python numbers for what the whole batch shares; of a
            noise field only the seeds (`draws.seeds()`), from which `forward` makes it.
        """

    @abstractmethod
    def forward(self, x: Tensor, params: Params) -> Tensor:
        """Apply the drawn parameters, and nothing random.

        Args:
            x: (B, C, H, W) float32, about [0, 1]: stages may overshoot, the degradation clamps.
            params: What `draw` returned, as tensors on x's device.

        Returns:
            (B, C', H', W') float32 on x's device, and not `x` changed in place.
        """

    def prepare(self, params: Params) -> Params:
        """Work out, for a whole batch at once, what `forward` needs beside the drawn parameters.

        Blur makes its kernels here, for instance. Pure; called once more on what it returned, it
        changes nothing, so that `forward` may call it for those who did not.

        Args:
            params: What `draw` returned, as tensors on the pictures' device.

        Returns:
            Tensors with first dimension B, or Python numbers, to be given to `forward`.
        """
        return params

    def on_canvas(self, canvas: Canvas, params: Params) -> Canvas:
        """Apply the drawn parameters to pictures of differing sizes in one tensor.

        By default each image goes through `forward` by itself, cut out, for which the host waits
        unless all images are known to fill their canvas. `forward` of a `pixelwise` stage runs on
        the whole canvas, with each image's edges repeated outside it.

        Args:
            canvas: The pictures.
            params: What `prepare` returned.

        Returns:
            The pictures afterwards. The host must not wait for the device here, or `waits` has to
            be true.

        Raises:
            TypeError: The stage changes sizes and has no `on_canvas` of its own, or returns
                something other than float32.
        """
        name = type(self).__name__
        if self.resizes:
            raise TypeError(f"{name} changes sizes, so it needs an on_canvas of its own")

        def kept(x: Tensor, own: Params) -> Tensor:
            y: Tensor = self(x, own)
            if y.shape[-2:] != x.shape[-2:]:
                raise TypeError(
                    f"{name} changed the size of its pictures: set `resizes = True` in the class "
                    "and write on_canvas"
                )
            if y.dtype != torch.float32:  # written to a canvas, it would become float32 unseen
                raise TypeError(f"{name} returned {y.dtype}; expected torch.float32")
            return y

        if self.pixelwise:
            return canvas.with_pixels(kept(canvas.edges_repeated(), params))
        if not canvas.filled:
            return each_alone(canvas, params, kept)
        images = torch.split(canvas.pixels, 1)
        own = of_each_image(params, len(images))
        return canvas.with_pixels(torch.cat(list(map(kept, images, own))))

    def run_on_canvas(self, canvas: Canvas, params: Params) -> Canvas:
        """`on_canvas`, and what is known afterwards of whether images fill their canvas."""
        made = self.on_canvas(canvas, params)
        return made._replace(filled=self.unites or (canvas.filled and not self.resizes))

    @property
    def alone(self) -> bool:
        """Whether images on a canvas are cut out and go through `forward` one by one."""
        return not self.pixelwise and type(self).on_canvas is Stage.on_canvas


class Degradation(nn.Module, ABC):
    """A recipe that makes a low-resolution image of a high-resolution one.

    The LR of an image depends on the image and its seed only: not on its batch, rank or device.

    Args:
        scale: How many times smaller the LR is; any positive number. Linked to
            data.init_args.scale.

    Raises:
        ValueError: `scale` is missing or not a positive finite number.
    """

    #: How many pairs of earlier batches training exchanges its own against, in each process; 0: no
    #: pool. A recipe sets it from an argument of this name (`datamodules.base` applies it).
    pool: int = 0

    #: Whether the recipe does the same at every scale, but for the LR's size; `at` is for such.
    any_scale = False

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = check_scale(scale)
        self._checked = False  # what costs a synchronisation is checked on the first batch only
        self._others: dict[float, Self] = {}  # of `at`: each is checked on its own first batch

    def at(self, scale: float) -> Self:
        """The same recipe for another scale.

        Args:
            scale: How many times smaller the LR is; any positive number.

        Raises:
            ValueError: The recipe is made for its own scale only.
        """
        if scale == self.scale:
            return self
        if not self.any_scale:
            raise ValueError(
                f"{type(self).__name__} makes LR for its own scale only, {self.scale:g}, not for "
                f"{scale:g}: use degradations.bicubic.Bicubic, or one made with that scale"
            )
        if scale not in self._others:
            other = copy.copy(self)
            other.scale, other._checked = check_scale(scale), False
            self._others[scale] = other
        return self._others[scale]

    @abstractmethod
    def draw(self, draws: Draws, shape: torch.Size) -> Params:
        """Draw all parameters of a batch; as `Stage.draw`."""

    @abstractmethod
    def degrade(self, hr: Tensor, params: Params) -> Tensor:
        """Make the LR, a pure function: (B, 3, H, W) to (B, 3, *lr_size((H, W))), float32."""

    def forward(self, hr: Tensor, seeds: Seeds) -> Tensor:
        """Degrade each image by its own seed.

        Args:
            hr: (B, 3, H, W) float32 in [0, 1].
            seeds: (B,) int64 on the CPU.

        Returns:
            (B, 3, *lr_size((H, W))) float32 in [0, 1] on hr's device.

        Raises:
            TypeError: `hr` is not float32, or a stage returned something that is not.
            ValueError: a shape or range is wrong, before or after; the message names the stage.
        """
        check_images(hr, seeds)
        return self.replay(hr, self.params_of(seeds, hr.shape))

    def params_of(self, seeds: Seeds, shape: torch.Size) -> Params:
        """The parameters of images of these seeds, as NumPy arrays: what there is to record."""
        # A sub-stream: whoever draws crops from the same seed shall not draw the same numbers.
        return self.draw(Draws(seeds).fold("degradation"), shape)

    def replay(self, hr: Tensor, params: Params) -> Tensor:
        """Degrade by given parameters, drawn just now or recorded; as `forward` otherwise."""
        check_images(hr)
        size = self.lr_size(hr.shape[-2:])
        if not self._checked:
            _check_unit_range(hr)
        applied = to_device(params, len(hr), hr.device)
        # What is written to HR would be what training learns from; views count, too.
        version = None if hr.is_inference() else hr._version
        # Half precision would quantise the LR more coarsely than 8 bits do, and TF32 nearly so.
        with torch.autocast(hr.device.type, enabled=False), ieee_float32(hr.device):
            lr = self.degrade(hr, applied)
        name = type(self).__name__
        if version is not None and hr._version != version:
            raise ValueError(f"{name} changed the HR in place; one of its stages writes to its x")
        self.check_output(name, lr, len(hr))
        if lr.shape[1:] != (3, *size):
            raise ValueError(f"{name} returned {tuple(lr.shape)}; expected {(len(hr), 3, *size)}")
        self._checked = True
        return lr.clamp(0.0, 1.0)

    def check_output(self, name: str, x: Tensor, batch: int) -> None:
        """Check what the stage `name` returned; its values on the first batch only.

        Raises:
            TypeError: it is not float32.
            ValueError: it is no batch of `batch` images, or holds NaN or infinity.
        """
        if x.dtype != torch.float32:
            raise TypeError(f"{name} returned {x.dtype}; expected torch.float32")
        if x.ndim != 4 or len(x) != batch:
            raise ValueError(
                f"{name} returned the shape {tuple(x.shape)}; expected (B, C, H, W) with the batch "
                f"of {batch} images it was given"
            )
        if not self._checked and not bool(x.isfinite().all()):
            raise ValueError(f"{name} returned NaN or infinity; check its ranges")

    def take_for_checked(self) -> None:
        """Look for no NaN and no infinity in the next batch: it is not the first one of its run."""
        modules: Iterator[Any] = self.modules()
        for module in modules:
            if hasattr(module, "_checked"):  # recipes within this one, functions of others
                module._checked = True

    def lr_size(self, hr_size: Sequence[int]) -> tuple[int, int]:
        """(h, w) of the LR of an image of (H, W): each side divided by the scale and rounded.

        Raises:
            ValueError: less than one pixel is left.
        """
        H, W = hr_size
        h, w = round(H / self.scale), round(W / self.scale)
        if min(h, w) < 1:
            raise ValueError(
                f"an image of {H}x{W} px at scale {self.scale:g} leaves {h}x{w} px, less than one "
                "pixel; use larger images or crops, or a smaller data.init_args.scale"
            )
        return h, w

    def extra_repr(self) -> str:
        """The scale, in `print(degradation)`."""
        return f"scale={self.scale:g}"


@contextmanager
def ieee_float32(device: torch.device) -> Iterator[None]:
    """Matrix products and convolutions in full float32 on CUDA, whatever the run has set.

    TF32, which has 10 bits of mantissa, is torch's default for convolutions there.
    """
    if device.type != "cuda":
        yield
        return
    backends: Any = torch.backends
    # The last one only because the older function sets it as well.
    settings = [backends.cuda.matmul, backends.cudnn.conv, backends.mkldnn.matmul]
    before = [setting.fp32_precision for setting in settings]
    older = _older_matmul_precision()
    try:
        # Where the two ways to set it disagree, torch refuses to read it, and so to compile.
        if older is not None:
            torch.set_float32_matmul_precision("highest")
        for setting in settings[:2]:
            setting.fp32_precision = "ieee"
        yield
    finally:
        if older is not None:
            torch.set_float32_matmul_precision(older)
        for setting, value in zip(settings, before, strict=True):
            setting.fp32_precision = value


def _older_matmul_precision() -> str | None:
    """What was set by `torch.set_float32_matmul_precision`; None where it was set otherwise."""
    try:
        older = torch.get_float32_matmul_precision()
    except RuntimeError:  # the newer way was taken
        return None
    return older if older != "highest" else None


def check_scale(scale: Any) -> float:
    """A positive finite `scale` as a float.

    Raises:
        ValueError: it is anything else; None is what a link that found no source gives.
    """
    number = isinstance(scale, int | float) and not isinstance(scale, bool)
    if not number or not math.isfinite(scale) or scale <= 0:
        raise ValueError(
            f"scale is {scale!r}; expected a positive number such as 4.0: set "
            "data.init_args.scale, the one source of the scale"
        )
    return float(scale)


def check_range(
    values: Sequence[float], name: str, low: float = -math.inf, high: float = math.inf
) -> tuple[float, float]:
    """The range (lower, upper) of an argument, checked.

    Args:
        values: The range as the user gave it; equal ends fix the value.
        name: The argument it came from, for the message.
        low: The least value that makes sense.
        high: The greatest.

    Raises:
        ValueError: it is not two numbers, is reversed, or leaves [low, high].
    """
    expected = f"expected [lower, upper] with {low:g} <= lower <= upper <= {high:g}"
    if len(values) != 2 or not all(math.isfinite(value) for value in values):
        raise ValueError(f"{name} is {list(values)}; {expected}")
    lower, upper = float(values[0]), float(values[1])
    if lower > upper:
        raise ValueError(f"{name} is {[lower, upper]}, which is reversed; {expected}")
    if lower < low or upper > high:
        raise ValueError(f"{name} is {[lower, upper]}; {expected}")
    return lower, upper


def check_probability(p: float, name: str) -> float:
    """A probability of an argument, checked.

    Raises:
        ValueError: it lies outside of [0, 1].
    """
    if not 0.0 <= p <= 1.0:
        raise ValueError(f"{name} is {p}; expected a probability in [0, 1]")
    return float(p)


def each_alone(
    canvas: Canvas, params: Params, function: Callable[[Tensor, Params], Tensor]
) -> Canvas:
    """Apply a function to each picture of a canvas, cut out; the host waits for the device.

    Args:
        canvas: The pictures.
        params: Their parameters.
        function: Of a picture (1, C, h, w) and its parameters, to one of the same size.
    """
    pixels = canvas.pixels.clone()
    own: list[Any] = of_each_image(params, len(pixels))
    for i, (part, (h, w)) in enumerate(zip(own, canvas.sizes.tolist(), strict=True)):
        pixels[i : i + 1, :, :h, :w] = function(
            canvas.pixels[i : i + 1, :, :h, :w].contiguous(), part
        )
    return canvas.with_pixels(pixels)


def quantize_8bit(x: Tensor) -> Tensor:
    """Clamp to [0, 1] and round to multiples of 1/255, as an 8-bit file would."""
    return (x.clamp(0.0, 1.0) * 255.0).round() / 255.0


def cut_size(size: tuple[int, int], scale: float) -> tuple[int, int]:
    """Largest size that is ``scale`` times a whole LR size (MATLAB's modcrop, for any real scale).

    Args:
        size: (H, W) of the picture.
        scale: The scale, at least 1.

    Returns:
        (H, W); 0 where a side is less than one LR pixel.
    """
    lr = [math.floor(side / scale + 1e-6) for side in size]
    return min(size[0], round(lr[0] * scale)), min(size[1], round(lr[1] * scale))


def check_images(hr: Tensor, seeds: Seeds | None = None) -> None:
    """Check a batch's shape and type, and that there is a seed for each image.

    Raises:
        TypeError: `hr` is not float32.
        ValueError: it is not (B, 3, H, W), or there are not B seeds.
    """
    if hr.dtype != torch.float32:
        advice = "" if hr.is_floating_point() else " (8-bit values: divide them by 255)"
        raise TypeError(f"hr is {hr.dtype}; expected torch.float32 in [0, 1]{advice}")
    if hr.ndim != 4 or hr.shape[1] != 3 or 0 in hr.shape:
        raise ValueError(f"hr has the shape {tuple(hr.shape)}; expected (B, 3, H, W)")
    if seeds is not None and len(seeds) != len(hr):
        raise ValueError(f"{len(seeds)} seeds for {len(hr)} images; expected one seed an image")


def _check_unit_range(hr: Tensor) -> None:
    least, greatest = (bound.item() for bound in hr.aminmax())
    if not (least >= -1e-3 and greatest <= 1 + 1e-3):  # NaN fails both
        raise ValueError(
            f"hr lies in [{least:g}, {greatest:g}]; expected [0, 1] (divide 8-bit values by 255; "
            "nothing is rescaled by guessing)"
        )
