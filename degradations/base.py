"""Stage and Degradation, the two classes to extend, and the canvas on which stages work.

Random choices and pixels are separate. `draw` draws the parameters on the CPU from the seeds of the
samples. `forward` of a stage and `degrade` of a recipe are pure functions of pixels and parameters.
Parameters are therefore the same on every device, and can be recorded and replayed.

A loop over images would need launches per image and stage, and reading a size back would make the
host wait. On a canvas each step takes a few launches for the whole batch and reads nothing back.
"""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple, Self, TypeAlias, TypeVar

import torch
from torch import Tensor, nn

from degradations.device import copy_to
from degradations.draws import Draws, Packed, Params, Seeds, split_params

N = TypeVar("N", int, float)
Size: TypeAlias = tuple[int, int]  # (H, W)
Range: TypeAlias = tuple[float, float]  # lowest and highest value
IntegerRange: TypeAlias = tuple[int, int]
ImageFunction: TypeAlias = Callable[[Tensor], Tensor]  # of one image, (1, C, H, W)


class Canvas(NamedTuple):
    """Images of differing sizes, each in the top left corner of its canvas.

    pixels: (B, C, H, W) float32; pixels outside an image are finite and have no meaning.
    sizes: (B, 2) int64 on the pixels' device, the height and width of each image.
    hr_size: (H, W) of the images that entered the degradation; it bounds the canvas of a resize.
    filled: Whether all images are known to fill their canvas, so that the host need not read their
        sizes. `Stage.run_on_canvas` updates it.
    """

    pixels: Tensor
    sizes: Tensor
    hr_size: Size
    filled: bool = False

    @classmethod
    def of(cls, hr: Tensor) -> Canvas:
        """Return the canvas of (B, C, H, W) images of one size, which fill it."""
        size = (hr.shape[-2], hr.shape[-1])
        sizes = repeated_size(size, len(hr), hr.device)
        return cls(hr, sizes, size, filled=True)

    def with_pixels(self, pixels: Tensor) -> Canvas:
        """Return a canvas of the same sizes with other pixels (B, C, H, W)."""
        return self._replace(pixels=pixels)

    def transposed(self) -> Canvas:
        """Return a canvas of the images with rows and columns exchanged."""
        height, width = self.hr_size
        return Canvas(self.pixels.mT, self.sizes.flip(1), (width, height), self.filled)

    def inside(self) -> Tensor:
        """Return (B, 1, H, W) bool, true for the pixels inside an image."""
        H, W = self.pixels.shape[-2:]
        index = self._index(max(H, W))
        is_inside = index < self.sizes.unsqueeze(2)
        rows = is_inside[:, 0, :H].unsqueeze(2)
        columns = is_inside[:, 1, :W].unsqueeze(1)
        return (rows & columns).unsqueeze(1)

    def edges_repeated(self, extent: Size | None = None) -> Tensor:
        """Return (B, C, H, W), each image extended by its nearest pixels.

        Args:
            extent: (H, W) of the result; by default that of the canvas.
        """
        h, w = extent or self.pixels.shape[-2:]
        last = self.sizes.unsqueeze(2) - 1
        index = self._index(max(h, w))
        places = torch.minimum(index, last)
        return self.gather(places, (h, w))

    def reflected(self, pad: int, extent: Size | None = None) -> Tensor:
        """Return (B, C, H + 2 pad, W + 2 pad), each image mirrored at its own edges.

        Edge pixels are not repeated, as in `numpy.pad(..., mode="reflect")`, and an image is
        mirrored as often as needed.

        Args:
            pad: Pixels above and left of an image.
            extent: (rows, columns) of the result, if it should have more.
        """
        H, W = self.pixels.shape[-2:]
        padded_size = (H + 2 * pad, W + 2 * pad)
        h, w = extent or padded_size
        # Positions run from 0 to the last pixel and back, again and again.
        last = self.sizes.unsqueeze(2) - 1
        period = (2 * last).clamp_min(1)
        distance = (self._index(max(h, w)) - pad).abs()
        folded = distance % period
        places = last - (last - folded).abs()
        return self.gather(places, (h, w))

    def gather(self, places: Tensor, extent: Size) -> Tensor:
        """Return (B, C, h, w) from the row and column numbers (B, 2, n), n the larger side."""
        B, C, _, W = self.pixels.shape
        h, w = extent
        rows = places[:, 0, :h].unsqueeze(2)
        columns = places[:, 1, :w].unsqueeze(1)
        positions = rows * W + columns
        positions = positions.view(B, 1, h * w).expand(B, C, h * w)
        flat = self.pixels.reshape(B, C, -1)
        return flat.gather(2, positions).view(B, C, h, w)

    def _index(self, n: int) -> Tensor:
        """Return 0 to n - 1 on the pixels' device."""
        return torch.arange(n, device=self.pixels.device)


def repeated_size(size: Sequence[int], batch: int, device: torch.device) -> Tensor:
    """Return the same (H, W) for each image, (B, 2) int64.

    Computed on the device, since the host would wait for a copy of two Python numbers.
    """
    H, W = size
    is_width = torch.arange(2, device=device).expand(batch, 2)
    return is_width * (W - H) + H


def select(mask: Tensor, chosen: Canvas, other: Canvas) -> Canvas:
    """Take each image from `chosen` where `mask` (B,) is true, else from `other`."""
    H, W = chosen.pixels.shape[-2:]
    other_H, other_W = other.pixels.shape[-2:]
    extent = (max(H, other_H), max(W, other_W))
    pixels = torch.where(
        mask.view(-1, 1, 1, 1),
        _padded_to(chosen.pixels, extent),
        _padded_to(other.pixels, extent),
    )
    sizes = chosen.sizes
    # Where nothing resized, both canvases have the same tensor.
    if sizes is not other.sizes:
        sizes = torch.where(mask.view(-1, 1), sizes, other.sizes)
    same_extent = (other_H, other_W) == (H, W)
    filled = same_extent and chosen.filled and other.filled
    return Canvas(pixels, sizes, chosen.hr_size, filled)


def _padded_to(pixels: Tensor, extent: Size) -> Tensor:
    """Pad (B, C, H, W) below and to the right to the extent."""
    H, W = pixels.shape[-2:]
    if extent == (H, W):
        return pixels
    below = extent[0] - H
    right = extent[1] - W
    return torch.nn.functional.pad(pixels, (0, right, 0, below))


class Stage(nn.Module, ABC):
    """One step of a degradation: image in, image out, every choice drawn per image.

    A stage has no argument `scale` (only the degradation knows it), does not touch global
    generators, and makes the tensors it needs from `x`: its buffers are not moved to the device.

    Your own stage needs only `draw` and `forward`, and gets one image at a time. On a GPU, where
    images of differing sizes share one canvas, the host then waits for their sizes, unless the
    stage is `pixelwise` or has its own `on_canvas`.
    """

    #: Whether each output pixel depends only on the same input pixel, the parameters and fields of
    #: `degradations.stages.noise`, not on its place, neighbours, or the image's size or content.
    #: `forward` then gets whole canvases on a GPU.
    pixelwise = False

    #: Whether images of one size may come out with differing sizes. `forward` then gets one image
    #: at a time, and `on_canvas` is required.
    resizes = False

    #: Whether all images of a batch come out with one size, whatever their sizes before.
    unites = False

    #: Whether `on_canvas` waits for the device, as stages that always work on the CPU do.
    waits = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Reset ``image_functions`` in a subclass that overrides ``forward`` alone."""
        super().__init_subclass__(**kwargs)
        own = vars(cls)
        if "forward" in own and not {"image_functions", "cpu_functions"} & own.keys():
            # Inherited ones do what the parent's `forward` does; those of `Stage` call the new one.
            setattr(cls, "image_functions", Stage.image_functions)  # noqa: B010

    @abstractmethod
    def draw(self, draws: Draws, shape: torch.Size) -> Params:
        """Draw the parameters of a batch; nothing else in a stage is random.

        Args:
            draws: Random streams of this stage, one per image.
            shape: (B, C, H, W) of the batch that enters the degradation.

        Returns:
            Arrays with first dimension B, or Python numbers that the whole batch shares. For a
            noise field only the seeds (`draws.seeds()`): `forward` makes the field.
        """

    @abstractmethod
    def forward(self, x: Tensor, params: Params) -> Tensor:
        """Apply the drawn parameters; nothing random.

        Args:
            x: (B, C, H, W) float32, about [0, 1]: stages may overshoot, the degradation clamps.
            params: What `draw` returned, as tensors on x's device.

        Returns:
            (B, C', H', W') float32 on x's device; `x` is not changed in place.
        """

    def prepare(self, params: Params) -> Params:
        """Compute what `forward` needs beside the drawn parameters, for a whole batch at once.

        Blur, for instance, makes its kernels here. Pure and idempotent, so `forward` may call it
        where the caller did not.

        Args:
            params: What `draw` returned, as tensors on the images' device.

        Returns:
            Tensors with first dimension B, or Python numbers: the `params` of `forward`.
        """
        return params

    def image_functions(self, params: Params, x: Tensor) -> list[ImageFunction]:
        """Return, for each image, the function that applies its drawn parameters to it.

        The images are then processed one after the other. By default each function is `forward`
        with the parameters of its image, cut out as tensors; a stage that takes them as Python
        numbers saves most of the time that does not depend on the pixels.

        Args:
            params: What `prepare` returned, of all B images.
            x: (B, C, H, W), the batch that entered the degradation: for B and the device. The
                functions get images of any size.

        Returns:
            B functions from (1, C, H, W) to (1, C', H', W').
        """
        each_params = split_params(params, len(x))
        run = self if self.resizes else self._same_size
        return [partial(run, params=image_params) for image_params in each_params]

    def on_canvas(self, canvas: Canvas, params: Params) -> Canvas:
        """Apply the drawn parameters to images of differing sizes in one tensor.

        By default each image is cut out and passed to `forward` alone; the host waits for the
        sizes unless all images are known to fill their canvas. `forward` of a `pixelwise` stage
        runs on the whole canvas, with the edges of each image repeated outside it.

        Args:
            canvas: The images.
            params: What `prepare` returned.

        Returns:
            The images afterwards. The host must not wait for the device here unless `waits` is
            true.

        Raises:
            TypeError: The stage changes sizes and does not override `on_canvas`.
        """
        if self.pixelwise:
            extended = canvas.edges_repeated()
            pixels = self._same_size(extended, params)
            return canvas.with_pixels(pixels)
        if canvas.filled:
            images = []
            each_params = split_params(params, len(canvas.pixels))
            for image, image_params in zip(torch.split(canvas.pixels, 1), each_params, strict=True):
                images.append(self._same_size(image, image_params))
            return canvas.with_pixels(torch.cat(images))
        return each_alone(canvas, params, self._same_size)

    def _same_size(self, x: Tensor, params: Params) -> Tensor:
        """Run `forward`, and raise if its output does not fit where its input was."""
        y: Tensor = self(x, params)
        # Anything but a tensor is named by the check of what the stage returned.
        if isinstance(y, Tensor) and y.shape[-2:] != x.shape[-2:]:
            raise TypeError(
                f"{type(self).__name__} changed the size of its images: set `resizes = True` in "
                "the class and write on_canvas"
            )
        return y

    def run_on_canvas(self, canvas: Canvas, params: Params) -> Canvas:
        """Run `on_canvas`, and update whether all images are known to fill their canvas."""
        version = _version(canvas.pixels)
        result = self.on_canvas(canvas, params)
        # `Sometimes` also needs the images as they were before the stage.
        if _version(canvas.pixels) != version:
            raise ValueError(f"{type(self).__name__} changed its images in place: it must copy x")
        filled = self.unites or (canvas.filled and not self.resizes)
        return result._replace(filled=filled)

    @property
    def alone(self) -> bool:
        """Whether `on_canvas` cuts images out and passes them to `forward` one by one."""
        return not self.pixelwise and type(self).on_canvas is Stage.on_canvas


class DeviceStage(Stage):
    """A stage with one implementation for a CPU and one for a GPU, `on_canvas`."""

    @abstractmethod
    def cpu_functions(self, params: Params, x: Tensor) -> list[ImageFunction]:
        """Return `image_functions` for images on a CPU."""

    def image_functions(self, params: Params, x: Tensor) -> list[ImageFunction]:
        """Return `cpu_functions` on a CPU; on a GPU, `on_canvas` runs for each image alone."""
        if x.device.type == "cpu":
            return self.cpu_functions(params, x)
        return super().image_functions(params, x)

    def forward(self, x: Tensor, params: Params) -> Tensor:
        """Process images on a CPU one by one, on a GPU by `on_canvas`: (B, C, H, W)."""
        if x.device.type == "cpu":
            return by_images(self, x, params)
        return self.on_canvas(Canvas.of(x), params).pixels


def by_images(stage: Stage, x: Tensor, params: Params) -> Tensor:
    """Run the `image_functions` of a stage on (B, C, H, W); the results have one size."""
    functions = stage.image_functions(stage.prepare(params), x)
    images = [function(image) for function, image in zip(functions, torch.split(x, 1), strict=True)]
    return torch.cat(images)


def in_order(image: Tensor, functions: Sequence[ImageFunction]) -> Tensor:
    """Apply functions to an image, first to last."""
    for function in functions:
        image = function(image)
    return image


def _version(x: Tensor) -> int | None:
    """Return torch's count of writes to a tensor; None where torch does not keep one."""
    if torch.compiler.is_compiling() or x.is_inference():
        return None
    return x._version


class Degradation(nn.Module, ABC):
    """A recipe that makes low-resolution images from high-resolution ones.

    The LR of an image depends only on the image and its seed, not on its batch, rank or device.

    Args:
        scale: How many times smaller the LR is; any positive number. Linked to
            data.init_args.scale.

    Raises:
        ValueError: `scale` is missing or not a positive finite number.
    """

    #: Whether batches are compiled; None as `Pipeline` decides.
    compile_canvas: bool | None = False

    #: Whether only the size of the LR depends on the scale, as `at` requires.
    any_scale = False

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = check_scale(scale)
        self._checked = False  # checks that synchronise run on the first batch only
        self._by_scale: dict[float, Self] = {}  # made by `at`, each with its own first batch

    def at(self, scale: float) -> Self:
        """Return the same recipe for another scale.

        Args:
            scale: How many times smaller the LR is; any positive number.

        Raises:
            ValueError: The recipe supports its own scale only.
        """
        if scale == self.scale:
            return self
        if not self.any_scale:
            raise ValueError(
                f"{type(self).__name__} supports only its own scale {self.scale:g}, not "
                f"{scale:g}: use degradations.Bicubic, or make the recipe with that scale"
            )
        if scale not in self._by_scale:
            other = copy.copy(self)  # shares stages and constants
            other.scale = check_scale(scale)
            other._checked = False
            self._by_scale[scale] = other
        return self._by_scale[scale]

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
            TypeError: The output of a stage is not float32, or the number of seeds is not B.
            ValueError: A range of an input, or a size or range of an output, is wrong; the message
                names the stage.
        """
        params = self.params_of(seeds, hr.shape)
        return self.replay(hr, params)

    def draw_ahead(self, seeds: Seeds, shape: torch.Size) -> Packed:
        """Draw as `params_of` for `replay` in another process, as a loader's worker does."""
        params = self.params_of(seeds, shape)
        return Packed.of(params, len(seeds))

    def params_of(self, seeds: Seeds, shape: torch.Size) -> Params:
        """Draw the parameters of images with these seeds, as NumPy arrays that can be recorded."""
        # A sub-stream, so that crops drawn from the same seed get other numbers.
        draws = Draws(seeds).fold("degradation")
        return self.draw(draws, shape)

    def replay(self, hr: Tensor, params: Params | Packed) -> Tensor:
        """Degrade (B, 3, H, W) by parameters, drawn, recorded or packed; otherwise as `forward`."""
        h, w = self.lr_size(hr.shape[-2:])
        expected = (len(hr), 3, h, w)
        if not self._checked:
            check_unit_range(hr, "hr")
        packed = params if isinstance(params, Packed) else Packed.of(params, len(hr))
        rows = packed.to(hr.device)
        # Training uses the HR, so stages must not write to it, nor to a view of it.
        version = _version(hr)
        # Half precision would quantise the LR more coarsely than 8 bits do, and TF32 nearly so.
        with torch.autocast(hr.device.type, enabled=False), ieee_float32(hr.device):
            lr = self._degrade_packed(hr, packed, rows)
        name = type(self).__name__
        if _version(hr) != version:
            raise ValueError(f"{name} changed the HR in place; one of its stages writes to its x")
        self.check_output(name, lr)
        if lr.shape != expected:
            raise ValueError(f"{name} returned {tuple(lr.shape)}; expected {expected}")
        self._checked = True
        return lr.clamp(0.0, 1.0)

    def _degrade_packed(
        self,
        hr: Tensor,
        packed: Packed,
        rows: Tensor,
    ) -> Tensor:
        """Unpack the parameters on the device, and degrade; ``Pipeline`` may compile this."""
        params = packed.unpacked(rows)
        return self.degrade(hr, params)

    def check_output(self, name: str, x: Tensor) -> None:
        """Check the output of the stage `name`; its values on the first batch only.

        Raises:
            TypeError: It is not float32.
            ValueError: It holds NaN or infinity.
        """
        dtype = getattr(x, "dtype", type(x).__name__)
        if dtype != torch.float32:
            raise TypeError(f"{name} returned {dtype}; expected torch.float32")
        if not self._checked and not bool(x.isfinite().all()):
            raise ValueError(f"{name} returned NaN or infinity; check its ranges")

    def skip_first_batch_checks(self) -> None:
        """Skip the checks for NaN and infinity: the next batch is not the first of its run."""
        modules: Iterator[Any] = self.modules()
        for module in modules:
            if hasattr(module, "_checked"):  # nested recipes and adapters
                module._checked = True

    def lr_size(self, hr_size: Sequence[int]) -> Size:
        """Return the LR size (h, w) for an HR of (H, W): sides divided by the scale, rounded.

        Raises:
            ValueError: Less than one pixel is left.
        """
        H, W = hr_size
        h = round(H / self.scale)
        w = round(W / self.scale)
        if min(h, w) < 1:
            raise ValueError(
                f"an image of {H}x{W} px at scale {self.scale:g} leaves {h}x{w} px, less than one "
                "pixel; use larger images or crops, or a smaller data.init_args.scale"
            )
        return h, w


@contextmanager
def ieee_float32(device: torch.device) -> Iterator[None]:
    """Compute matrix products and convolutions in full float32 on CUDA, whatever the run set.

    Torch's default for convolutions there is TF32, with 10 bits of mantissa.
    """
    if device.type != "cuda":
        yield
        return
    backends: Any = torch.backends
    # The last one because the older function sets it, too.
    settings = [backends.cuda.matmul, backends.cudnn.conv, backends.mkldnn.matmul]
    before = [setting.fp32_precision for setting in settings]
    older = _legacy_matmul_precision()
    try:
        # If the two ways to set it disagree, torch cannot read it, and cannot compile.
        if older is not None:
            torch.set_float32_matmul_precision("highest")
        for setting in settings[:2]:  # the third one is only restored
            setting.fp32_precision = "ieee"
        yield
    finally:
        if older is not None:
            torch.set_float32_matmul_precision(older)
        for setting, value in zip(settings, before, strict=True):
            setting.fp32_precision = value


def _legacy_matmul_precision() -> str | None:
    """Return what `torch.set_float32_matmul_precision` set, but None for its default, "highest".

    None, too, if it was set in the newer way, by `fp32_precision`.
    """
    try:
        precision = torch.get_float32_matmul_precision()
    except RuntimeError:  # set in the newer way
        return None
    return precision if precision != "highest" else None


def check_scale(scale: Any) -> float:
    """Return a positive finite `scale` as a float.

    Raises:
        ValueError: It is anything else, e.g. None from a link without a source.
    """
    is_number = isinstance(scale, int | float) and not isinstance(scale, bool)
    if not is_number or not math.isfinite(scale) or scale <= 0:
        raise ValueError(
            f"scale is {scale!r}; expected a positive number such as 4.0: set "
            "data.init_args.scale, the only source of the scale"
        )
    return float(scale)


def check_range(
    values: tuple[N, N],
    name: str,
    low: float = -math.inf,
    high: float = math.inf,
) -> tuple[N, N]:
    """Check the range of an argument, and return it.

    Args:
        values: The range; equal ends fix the value.
        name: Name of the argument, for the message.
        low: Smallest valid value.
        high: Largest valid value.

    Raises:
        ValueError: It is reversed, not finite, or leaves [low, high].
    """
    lower, upper = values
    is_finite = math.isfinite(lower) and math.isfinite(upper)
    if not is_finite or not low <= lower <= upper <= high:
        raise ValueError(
            f"{name} is {list(values)}; expected {low:g} <= lower <= upper <= {high:g}"
        )
    return lower, upper


def each_alone(
    canvas: Canvas,
    params: Params,
    function: Callable[[Tensor, Params], Tensor],
) -> Canvas:
    """Cut out each image of a canvas and apply a function to it; the host waits for the device.

    Args:
        canvas: The images.
        params: Their parameters.
        function: Maps an image (1, C, h, w) and its parameters to an image of the same size.
    """
    pixels = canvas.pixels.clone()
    sizes = canvas.sizes.tolist()
    image_params = split_params(params, len(pixels))
    for i, (h, w) in enumerate(sizes):
        image = canvas.pixels[i, :, :h, :w].contiguous()
        output = function(image.unsqueeze(0), image_params[i])
        pixels[i, :, :h, :w] = output[0]
    return canvas.with_pixels(pixels)


def each_on_host(
    canvas: Canvas,
    params: Params,
    function: Callable[[Tensor, Params], Tensor],
) -> Canvas:
    """As ``each_alone`` for a function that works on the CPU: one copy each way, one wait."""
    host_params = _fetched(params)
    sizes = canvas.sizes.to("cpu", non_blocking=True)
    pixels = canvas.pixels.cpu()  # waits for this copy, and so for those queued before it
    host_canvas = Canvas(pixels, sizes, canvas.hr_size)
    results = each_alone(host_canvas, host_params, function)
    pixels = copy_to(results.pixels, canvas.pixels.device)
    return canvas.with_pixels(pixels)


def _fetched(params: Params) -> Params:
    """Copy parameters to the CPU, without waiting for the copies."""
    fetched: Params = {}
    for name, value in params.items():
        if isinstance(value, dict):
            fetched[name] = _fetched(value)
        elif isinstance(value, Tensor):
            fetched[name] = value.to("cpu", non_blocking=True)
        else:
            fetched[name] = value
    return fetched


def rounded_up(n: int, multiple: int) -> int:
    """Return the next multiple, or the number itself if it is one."""
    return -(-n // multiple) * multiple


def quantize_8bit(x: Tensor) -> Tensor:
    """Clamp values of any shape to [0, 1] and round to multiples of 1/255, like an 8-bit file."""
    levels = (x.clamp(0.0, 1.0) * 255.0).round()
    return levels / 255.0


def as_floats(image: Tensor) -> Tensor:
    """Return integer levels as contiguous float32 in [0, 1]; floats are returned as they are."""
    if image.is_floating_point():
        return image
    levels = image.to(torch.float32, memory_format=torch.contiguous_format)
    return levels.div_(torch.iinfo(image.dtype).max)


def cut_size(size: Size, scale: float) -> Size:
    """Return the largest size that is ``scale`` times an LR size (modcrop for any real scale).

    Args:
        size: (H, W) of the image.
        scale: The scale, at least 1.

    Returns:
        (H, W); 0 for a side of less than one LR pixel.
    """
    H, W = size
    h = math.floor(H / scale + 1e-6)  # the quotient may be just below a whole number
    w = math.floor(W / scale + 1e-6)
    height = round(h * scale)
    width = round(w * scale)
    return min(H, height), min(W, width)


def check_unit_range(image: Tensor, name: str) -> None:
    """Raise if values lie outside of [0, 1] by more than rounding.

    Args:
        image: Floats of any shape.
        name: For the message.

    Raises:
        ValueError: If so, or if some are NaN.
    """
    bounds = image.aminmax()
    least = bounds.min.item()
    greatest = bounds.max.item()
    if not (least >= -1e-3 and greatest <= 1 + 1e-3):  # NaN fails both
        raise ValueError(
            f"{name} lies in [{least:g}, {greatest:g}]; expected floats in [0, 1]: divide 8-bit "
            "values by 255, or clip what overshoots (values are never rescaled automatically)"
        )
