"""Functions and augmentations of kornia and transforms of albumentations as stages."""

from __future__ import annotations

import copy
import difflib
import functools
import importlib
import inspect
import os
import random
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from degradations.base import Canvas, Stage, check_range, each_alone, each_on_host
from degradations.draws import Draws, Params, split_params
from degradations.images import from_bytes, to_bytes

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # its import would go online


PROBE = 512  # pixels of a side of the image that shows whether a transform moves pixels
POINTS = 64
TRIES = 16  # draws of the transform's parameters: a flip by p is none in some


class Kornia(Stage):
    """Any function of kornia (or another module) that maps images to images of the same size.

    The function gets an image (1, C, H, W) first and all else by name, as Python numbers drawn per
    image. On a GPU the host waits to read those back; a function that takes a tensor with one
    number per image can be called ``batched`` instead.

    Args:
        function: Dotted path, e.g. ``kornia.filters.box_blur``.
        uniform: Ranges of arguments that are drawn uniformly.
        integers: Ranges of integer arguments, both ends included.
        choices: Lists of which each entry is equally likely.
        fixed: All other arguments.
        batched: Call the function once per batch, with (B, C, H, W) images and (B,) tensors; not
            together with ``choices``. It may then be compiled, and the host does not wait. Images
            of differing sizes, after a stage that resizes, are still passed one by one unless
            ``pixelwise``.
        pixelwise: Each output pixel of the ``batched`` function depends only on the same input
            pixel, so the function may get images of differing sizes on one canvas.
        random: The function draws from torch's global generator. The generator is then seeded per
            image and restored afterwards. Without this option such a function is refused.

    Raises:
        ValueError: The function is missing, does not accept these arguments, draws numbers without
            ``random``, or returns NaN or images of another shape.
        TypeError: It does not return a float32 tensor.
    """

    def __init__(
        self,
        function: str,
        uniform: dict[str, tuple[float, float]] | None = None,
        integers: dict[str, tuple[int, int]] | None = None,
        choices: dict[str, list[Any]] | None = None,
        fixed: dict[str, Any] | None = None,
        batched: bool = False,
        random: bool = False,
        pixelwise: bool = False,
    ) -> None:
        super().__init__()
        self.function, self.batched, self.random = function, batched, random
        self.pixelwise = pixelwise
        self.waits = not batched
        self.uniform = {name: check_range(v, name) for name, v in (uniform or {}).items()}
        self.integers = {name: _check_integers(v, name) for name, v in (integers or {}).items()}
        self.choices, self.fixed = dict(choices or {}), dict(fixed or {})
        names = [*self.uniform, *self.integers, *self.choices, *self.fixed]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(
                    f"{function}: {name} is given twice; expected one of uniform, "
                    "integers, choices and fixed"
                )
        for name, values in self.choices.items():
            if not values:
                raise ValueError(f"{function}: choices.{name} is empty; expected values")
        if pixelwise and not batched:
            raise ValueError(f"{function}: pixelwise requires batched: set batched to true")
        if batched and (choices or random):
            raise ValueError(
                f"{function}: batched excludes choices and random, which need one image per call"
            )
        if str(_load_function(function).__module__).startswith("kornia.geometry."):
            raise ValueError(
                f"{function} moves pixels, but an LR must show the content of its HR in place"
            )
        _check_call(function, names)
        self._checked = False  # checks that synchronise run at the first call only

    def draw(self, draws: Draws, shape: torch.Size) -> Params:
        """Draw (B,) values under `arguments`, positions for `choices`; with `random`, `seeds`."""
        arguments: Params = {}
        for name, (low, high) in self.uniform.items():
            arguments[name] = draws.fold(name).uniform(low, high)
        for name, (first, last) in self.integers.items():
            arguments[name] = draws.fold(name).integers(first, last + 1)
        for name, values in self.choices.items():
            arguments[name] = draws.fold(name).integers(0, len(values))
        params: Params = {"arguments": arguments}
        if self.random:
            params["seeds"] = draws.seeds()
        return params

    def forward(self, x: Tensor, params: Params) -> Tensor:
        """Apply the function to (B, C, H, W)."""
        if self.batched:
            return self._call(x, params["arguments"])
        images = []
        for image, own in zip(x.chunk(len(x)), split_params(params, len(x)), strict=True):
            values = {name: value.item() for name, value in own["arguments"].items()}
            for name, options in self.choices.items():
                values[name] = options[values[name]]
            with _seeded(own["seeds"].item() if self.random else None, x.device):
                images.append(self._call(image, values))
        return images[0] if len(images) == 1 else torch.cat(images)

    def on_canvas(self, canvas: Canvas, params: Params) -> Canvas:
        """Process all images at once if `batched` and of one size, or if `pixelwise`."""
        if self.batched and canvas.filled:
            return canvas.with_pixels(self(canvas.pixels, params))
        if self.pixelwise:
            return super().on_canvas(canvas, params)
        return each_alone(canvas, params, self)

    @property
    def alone(self) -> bool:
        """Whether images of differing sizes are passed to the function one by one."""
        return self.batched and not self.pixelwise

    def _call(self, x: Tensor, values: dict[str, Any]) -> Tensor:
        function = _load_function(self.function)
        check = not self._checked and not torch.compiler.is_compiling()
        before = _generator_states(x.device) if check and not self.random else []
        y = function(x, **values, **self.fixed)
        _check_output(self.function, x, y, check)
        if check:
            if before and not all(map(torch.equal, before, _generator_states(x.device))):
                raise ValueError(
                    f"{self.function} draws from torch's global generator: set `random: true`, "
                    "which seeds it per image"
                )
            self._checked = True
        return y

    def extra_repr(self) -> str:
        """Show the function in `print(degradation)`."""
        return self.function


class KorniaAugmentation(Stage):
    """Any intensity augmentation of `kornia.augmentation`, i.e. one that does not move pixels.

    kornia draws the parameters of each image, its ``p`` included, on the CPU from a generator with
    the seed of the image. They depend on neither the batch nor torch's global generators.
    `degradations.RandomDegradation` does the converse.

    Args:
        augmentation: The augmentation, by class path, e.g. ``kornia.augmentation.RandomJPEG``. Its
            own ``p``, by default 0.5, applies.
        batched: On a GPU, call it once per batch of images of one size, not once per image. Not
            for augmentations that share a parameter within a batch, such as the kernel size of
            ``RandomMotionBlur`` or the order of ``ColorJiggle``.

    Raises:
        TypeError: ``augmentation`` is not an augmentation, moves pixels, or mixes images.
        ValueError: It sets ``same_on_batch``, or is ``batched`` but shares a parameter.
    """

    waits = True

    def __init__(self, augmentation: nn.Module, batched: bool = False) -> None:
        super().__init__()
        _check_augmentation(augmentation)
        self._held = (augmentation,)  # a tuple, so that `.to(device)` does not move its draws
        self.batched = batched
        self._checked = False  # checks that synchronise run at the first call only
        if batched:
            _check_batched(augmentation)

    @property
    def augmentation(self) -> Any:
        """The augmentation."""
        return self._held[0]

    def draw(self, draws: Draws, shape: torch.Size) -> Params:
        """Draw `seeds`, (B,) int, from which kornia draws all else."""
        return {"seeds": draws.seeds()}

    def forward(self, x: Tensor, params: Params) -> Tensor:
        """Apply the augmentation to (B, C, H, W)."""
        seeds = params["seeds"].tolist()
        y = (_apply_batched if self.batched else _apply_one_by_one)(self.augmentation, x, seeds)
        _check_output(self.extra_repr(), x, y, not self._checked)
        self._checked = True
        return y

    def on_canvas(self, canvas: Canvas, params: Params) -> Canvas:
        """Process all images at once if `batched` and they fill the canvas, else one by one."""
        extent = list(canvas.pixels.shape[-2:])
        if self.batched and all(size == extent for size in canvas.sizes.tolist()):
            return canvas.with_pixels(self(canvas.pixels, params))
        return each_alone(canvas, params, self)

    def extra_repr(self) -> str:
        """Show the name of the augmentation in `print(degradation)`."""
        return type(self.augmentation).__name__


class Albumentations(Stage):
    """Any transform of albumentations that keeps the size of its images and moves no pixels.

    It works on the CPU, image by image; for images on a GPU the host waits. Its draws follow from
    the seed of the image alone.

    Args:
        transform: The transform, by class path, e.g. ``albumentations.MotionBlur``, or a group
            such as ``albumentations.OneOf``. Its own ``p`` applies.
        dtype: Type of its input: 8-bit images, the fastest for most transforms, or float32 in
            [0, 1] without rounding.

    Raises:
        TypeError: ``transform`` is not a transform of albumentations, moves pixels, or needs more
            than an image.
        ValueError: ``dtype`` is unknown, or the transform changes the size or type of an image, or
            returns NaN.
    """

    waits = True

    def __init__(
        self,
        transform: Callable[..., Any],
        dtype: Literal["uint8", "float32"] = "uint8",
    ) -> None:
        super().__init__()
        if not hasattr(transform, "set_random_state"):
            raise TypeError(
                f"transform is {transform!r}; expected a transform of albumentations, such as "
                "albumentations.MotionBlur, by its class path"
            )
        if dtype not in ("uint8", "float32"):
            raise ValueError(f"dtype is {dtype!r}; expected uint8 or float32")
        for single in _single_transforms(transform):
            _check_in_place(single)
        self.transform, self.dtype = transform, dtype
        # The transform keeps these two generators; each image sets their seeds.
        self._generator = np.random.Generator(np.random.Philox(key=0))
        self._start = self._generator.bit_generator.state
        self._random = random.Random(0)
        transform.set_random_state(self._generator, self._random)

    def draw(self, draws: Draws, shape: torch.Size) -> Params:
        """Draw `seeds`, (B,) int, from which the transform draws all else."""
        return {"seeds": draws.seeds()}

    def forward(self, x: Tensor, params: Params) -> Tensor:
        """Transform (B, 3, H, W); the range is [0, 1] if the transform keeps it."""
        seeds = params["seeds"].tolist()
        return torch.cat([self._applied(image, seed) for image, seed in zip(x, seeds, strict=True)])

    def on_canvas(self, canvas: Canvas, params: Params) -> Canvas:
        """Cut out each image on the CPU: one copy from the device and one back."""
        return each_on_host(canvas, params, self)

    def _applied(self, image: Tensor, seed: int) -> Tensor:
        self._start["state"]["key"][:] = (seed, 0)
        self._generator.bit_generator.state = self._start
        self._random.seed(seed)
        bytewise = self.dtype == "uint8"
        given = to_bytes(image) if bytewise else _to_floats(image)
        shape, dtype = given.shape, given.dtype
        made = self.transform(image=given)["image"]
        name = type(self.transform).__name__
        if made.shape != shape or made.dtype != dtype:
            raise ValueError(
                f"{name} returned {made.dtype} {made.shape} for {dtype} {shape}; a stage "
                "requires a transform that keeps size and type"
            )
        made = np.ascontiguousarray(made)
        if bytewise:
            return from_bytes(made, image.unsqueeze(0))
        if not np.isfinite(made).all():
            raise ValueError(f"{name} returned NaN or infinity; check its arguments")
        return torch.from_numpy(made).to(image.device).permute(2, 0, 1).unsqueeze(0)


def _check_augmentation(augmentation: Any) -> None:
    from kornia import augmentation as theirs

    name = type(augmentation).__name__
    if not isinstance(augmentation, theirs.IntensityAugmentationBase2D):
        if isinstance(augmentation, nn.Sequential):
            reason = "is a container: make a stage of each augmentation in it"
        elif isinstance(augmentation, theirs.MixAugmentationBaseV2):
            reason = "mixes the images of a batch, but an LR must depend on its own HR only"
        elif isinstance(augmentation, theirs.AugmentationBase2D):
            reason = "moves pixels, but an LR must show the content of its HR in place"
        else:
            reason = "is not an augmentation of images"
        raise TypeError(
            f"augmentation is {name}, which {reason}; expected an intensity augmentation such as "
            "kornia.augmentation.RandomJPEG"
        )
    # Normalize sets it without having the argument; it draws nothing.
    if (
        augmentation.same_on_batch
        and "same_on_batch" in inspect.signature(type(augmentation)).parameters
    ):
        raise ValueError(
            f"{name} sets same_on_batch, but every image draws its own parameters here: remove it"
        )


def _single_transforms(transform: Any) -> Iterator[Any]:
    """Yield the transforms of a group of albumentations, and of the groups in it."""
    if hasattr(transform, "transforms"):
        for one in transform.transforms:
            yield from _single_transforms(one)
    else:
        yield transform


def _check_in_place(transform: Any) -> None:
    """Raise if a transform of albumentations moves pixels: it then moves keypoints as well."""
    if "keypoints" not in getattr(transform, "targets", ()):  # those that change colours only
        return
    name = type(transform).__name__
    image = np.zeros((PROBE, PROBE, 3), np.uint8)
    # x, y, z, angle, scale, and its number, as a transform may remove some.
    points = np.zeros((POINTS, 6), np.float32)
    points[:, :2] = np.random.default_rng(0).uniform(0, PROBE, (POINTS, 2))
    points[:, 5] = np.arange(POINTS)
    for seed in range(TRIES):
        transform.set_random_state(np.random.default_rng(seed), random.Random(seed))
        try:
            made = transform(image=image, keypoints=points.copy(), force_apply=True)["keypoints"]
        except Exception as error:  # anything: it needs a mask, boxes, a larger image
            raise TypeError(f"{name} cannot be applied to an image alone: {error}") from error
        if not np.allclose(made[:, :2], points[made[:, 5].astype(int), :2], rtol=0, atol=0.01):
            raise TypeError(
                f"{name} moves pixels, but an LR must show the content of its HR in place; use it "
                "as data.init_args.crops.augment, which changes HR before LR is made"
            )


def _check_batched(augmentation: Any) -> None:
    certain = copy.deepcopy(augmentation)
    certain.p = 1.0
    x = torch.rand(16, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    alone = _apply_one_by_one(certain, x, range(len(x)))
    try:
        equal = torch.allclose(_apply_batched(certain, x, range(len(x))), alone, 0.0, 1e-4)
    except RuntimeError:  # parameters of differing shapes
        equal = False
    if not equal:
        raise ValueError(
            f"{type(augmentation).__name__} shares a parameter within a batch, so it cannot be "
            "batched: set batched to false"
        )


def _apply_one_by_one(augmentation: Any, x: Tensor, seeds: Iterable[int]) -> Tensor:
    images = []
    for image, seed in zip(torch.split(x, 1), seeds, strict=True):
        with _seeded(seed, x.device):  # applying it may draw, too
            images.append(augmentation(image, params=augmentation.forward_parameters(image.shape)))
    return images[0] if len(images) == 1 else torch.cat(images)


def _apply_batched(augmentation: Any, x: Tensor, seeds: Iterable[int]) -> Tensor:
    drawn = []
    for seed in seeds:
        with _seeded(seed, torch.device("cpu")):
            drawn.append(augmentation.forward_parameters(x[:1].shape))
    params = {name: torch.cat([own[name] for own in drawn]) for name in drawn[0]}
    return augmentation(x, params={**params, "forward_input_shape": torch.tensor(x.shape)})


def _check_output(name: str, x: Tensor, y: Any, values: bool) -> None:
    """Check the output y of `name` for the input x; its values only if `values` is true.

    Raises:
        TypeError: It is not float32.
        ValueError: It has another shape, or holds NaN or infinity.
    """
    if not isinstance(y, Tensor) or y.dtype != torch.float32:
        kind = y.dtype if isinstance(y, Tensor) else type(y).__name__
        raise TypeError(f"{name} returned {kind}; expected torch.float32")
    if y.shape != x.shape:
        raise ValueError(
            f"{name} returned the shape {tuple(y.shape)} for {tuple(x.shape)}; a "
            "stage keeps the size (to change it, use degradations.Resize)"
        )
    if values and not bool(y.isfinite().all()):
        raise ValueError(f"{name} returned NaN or infinity; check its arguments")


def _to_floats(image: Tensor) -> Any:
    # A copy, because some transforms work in place.
    hwc = image.detach().clamp(0.0, 1.0).permute(1, 2, 0)
    return hwc.contiguous().cpu().numpy()


@functools.cache
def _load_function(path: str) -> Callable[..., Any]:
    """Return the function of a dotted path.

    Raises:
        ValueError: It does not exist.
    """
    module_name, _, name = path.rpartition(".")
    try:
        module = importlib.import_module(module_name or path)
    except ModuleNotFoundError as error:
        raise ValueError(
            f"function is {path!r}, but there is no module {error.name!r}; expected a dotted path "
            "such as kornia.filters.box_blur"
        ) from error
    function = getattr(module, name, None)
    if not callable(function) or inspect.isclass(function):
        near = difflib.get_close_matches(name, dir(module), 3)
        advice = f" (did you mean {' or '.join(near)}?)" if near else ""
        raise ValueError(
            f"function is {path!r}, but {module_name} has no function {name!r}{advice}"
        )
    return function


def _check_call(path: str, names: list[str]) -> None:
    function = _load_function(path)
    try:
        signature = inspect.signature(function)
    except ValueError:  # some functions of torch have none
        return
    try:
        signature.bind(None, **dict.fromkeys(names))
    except TypeError as error:
        raise ValueError(
            f"{path}{signature} cannot be called with an image and "
            f"{', '.join(names) or 'nothing else'}: {error}; arguments go into uniform, integers, "
            "choices or fixed"
        ) from error


def _check_integers(values: tuple[int, int], name: str) -> tuple[int, int]:
    lower, upper = check_range(values, name)
    if lower % 1 or upper % 1:
        raise ValueError(f"{name} is {[lower, upper]}; expected integers")
    return int(lower), int(upper)


def _generator_states(device: torch.device) -> list[Tensor]:
    states = [torch.get_rng_state()]
    return states if device.type != "cuda" else [*states, torch.cuda.get_rng_state(device)]


@contextmanager
def _seeded(seed: int | None, device: torch.device) -> Iterator[None]:
    """Seed torch's global generators for the block, and restore them afterwards."""
    if seed is None:
        yield
        return
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        # Not torch.manual_seed: it seeds every device, and `fork_rng` restores only this one.
        torch.default_generator.manual_seed(seed)
        if device.type == "cuda":
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield
