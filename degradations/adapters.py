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

from degradations.arrays import from_bytes, to_bytes
from degradations.base import Stage, check_range, each_alone
from degradations.canvas import Canvas
from degradations.draws import Draws
from degradations.params import Params, of_each_image

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # or its import asks the internet for news


class Kornia(Stage):
    """Any function of kornia (or another module) from pictures to pictures of the same size.

    It is called with a picture (1, C, H, W) first and everything else by name: Python numbers,
    drawn for each picture by itself. On a GPU the host has to read those back, and waits; functions
    that take one number an image in a tensor can be called ``batched`` instead.

    Args:
        function: Its dotted path, e.g. ``kornia.filters.box_blur``.
        uniform: Arguments that are drawn uniformly, with their ranges.
        integers: Arguments that are whole numbers, with their ranges, both ends included.
        choices: Arguments that are picked from a list, each entry equally likely.
        fixed: All other arguments.
        batched: Call the function once, with (B, C, H, W) pictures and (B,) tensors; not together
            with ``choices``. Then it may be compiled, and nobody waits. Pictures of differing
            sizes, after a stage that resizes, are still given one by one, but for ``pixelwise``.
        pixelwise: A ``batched`` function changes each pixel by itself, wherever it lies and
            whatever is around it, and may see pictures of differing sizes on one canvas.
        random: The function draws from torch's global generator. It is then given one seeded by the
            picture, and the global one is put back. Without it, such a function is refused.

    Raises:
        ValueError: The function is not found, cannot be called with these arguments, draws numbers
            without ``random``, or returns NaN or pictures of another shape.
        TypeError: It returns something other than a float32 tensor.
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
        self.integers = {name: _check_whole(v, name) for name, v in (integers or {}).items()}
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
            raise ValueError(f"{function}: pixelwise goes with batched alone: set batched to true")
        if batched and (choices or random):
            raise ValueError(
                f"{function}: batched goes with neither choices nor random, which are one picture's"
            )
        _check_call(function, names)
        self._checked = False  # what costs a synchronisation is checked at the first call only

    def draw(self, draws: Draws, shape: torch.Size) -> Params:
        """(B,) values under `arguments`, of `choices` their positions; `seeds` where needed."""
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
        """(B, C, H, W) to the same shape."""
        if self.batched:
            return self._call(x, params["arguments"])
        images = []
        for image, own in zip(x.chunk(len(x)), of_each_image(params, len(x)), strict=True):
            values = {name: value.item() for name, value in own["arguments"].items()}
            for name, options in self.choices.items():
                values[name] = options[values[name]]
            with _seeded(own["seeds"].item() if self.random else None, x.device):
                images.append(self._call(image, values))
        return images[0] if len(images) == 1 else torch.cat(images)

    def on_canvas(self, canvas: Canvas, params: Params) -> Canvas:
        """All pictures at once if `batched` and of one size, or `pixelwise`; else each alone."""
        if self.batched and canvas.filled:
            return canvas.with_pixels(self(canvas.pixels, params))
        if self.pixelwise:
            return super().on_canvas(canvas, params)
        return each_alone(canvas, params, self)

    @property
    def alone(self) -> bool:
        """Whether pictures of differing sizes go through the function one by one."""
        return self.batched and not self.pixelwise

    def _call(self, x: Tensor, values: dict[str, Any]) -> Tensor:
        function = _found(self.function)
        check = not self._checked and not torch.compiler.is_compiling()
        before = _states(x.device) if check and not self.random else []
        y = function(x, **values, **self.fixed)
        _check_output(self.function, x, y, check)
        if check:
            if before and not all(map(torch.equal, before, _states(x.device))):
                raise ValueError(
                    f"{self.function} draws from torch's global generator: set `random: true`, "
                    "which gives it one seeded by the picture"
                )
            self._checked = True
        return y

    def extra_repr(self) -> str:
        """The function, in `print(degradation)`."""
        return self.function


class KorniaAugmentation(Stage):
    """Any intensity augmentation of `kornia.augmentation`, one that moves no pixels.

    kornia draws the parameters of each image, its ``p`` included, on the CPU and from a generator
    seeded by that image: they depend on neither the batch nor torch's global generators.
    `degradations.augmentation.RandomDegradation` is the way back.

    Args:
        augmentation: The augmentation, by class path, e.g. ``kornia.augmentation.RandomJPEG``. Its
            own ``p`` counts, which is 0.5 by default.
        batched: On a GPU, call it once for a batch of images of one size, not once per image. Not
            for those that share a parameter within a batch, such as the kernel size of
            ``RandomMotionBlur`` or the order of ``ColorJiggle``.

    Raises:
        TypeError: ``augmentation`` is not one, moves pixels, or mixes images.
        ValueError: It has ``same_on_batch``; or it is to be ``batched``, and shares a parameter.
    """

    waits = True

    def __init__(self, augmentation: nn.Module, batched: bool = False) -> None:
        super().__init__()
        _check_augmentation(augmentation)
        self._held = (augmentation,)  # so that `.to(device)` does not move its draws from the CPU
        self.batched = batched
        self._checked = False  # what costs a synchronisation is checked at the first call only
        if batched:
            _check_batched(augmentation)

    @property
    def augmentation(self) -> Any:
        """The augmentation."""
        return self._held[0]

    def draw(self, draws: Draws, shape: torch.Size) -> Params:
        """`seeds`, (B,) int: kornia draws everything else from them."""
        return {"seeds": draws.seeds()}

    def forward(self, x: Tensor, params: Params) -> Tensor:
        """(B, C, H, W) to the same shape."""
        seeds = params["seeds"].tolist()
        y = (_applied_together if self.batched else _applied_alone)(self.augmentation, x, seeds)
        _check_output(self.extra_repr(), x, y, not self._checked)
        self._checked = True
        return y

    def on_canvas(self, canvas: Canvas, params: Params) -> Canvas:
        """All images at once if `batched` and they fill the canvas, else each by itself."""
        extent = list(canvas.pixels.shape[-2:])
        if self.batched and all(size == extent for size in canvas.sizes.tolist()):
            return canvas.with_pixels(self(canvas.pixels, params))
        return each_alone(canvas, params, self)

    def extra_repr(self) -> str:
        """The augmentation's name, in `print(degradation)`."""
        return type(self.augmentation).__name__


class Albumentations(Stage):
    """Any transform of albumentations that keeps the size of its pictures.

    It works on the CPU, picture by picture: for pictures on a GPU the host waits. All that it draws
    follows from the picture's own seed, and from nothing before.

    Args:
        transform: The transform, by class path, for example ``albumentations.MotionBlur``, or a
            group such as ``albumentations.OneOf``. Its own ``p`` counts.
        dtype: What it is given: 8-bit pictures, which most of its transforms are quickest with, or
            float32 in [0, 1], without rounding.

    Raises:
        TypeError: ``transform`` is no transform of albumentations.
        ValueError: ``dtype`` is unknown; or the transform changed the size or the type of a
            picture, or made NaN.
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
        self.transform, self.dtype = transform, dtype
        # The transform keeps these two generators, which are put to a picture's seed each time.
        self._generator = np.random.Generator(np.random.Philox(key=0))
        self._start = self._generator.bit_generator.state
        self._random = random.Random(0)
        transform.set_random_state(self._generator, self._random)

    def draw(self, draws: Draws, shape: torch.Size) -> Params:
        """`seeds`, (B,) int: the transform draws everything else from them."""
        return {"seeds": draws.seeds()}

    def forward(self, x: Tensor, params: Params) -> Tensor:
        """(B, 3, H, W) to the same shape, in [0, 1] where the transform keeps to it."""
        seeds = params["seeds"].tolist()
        return torch.cat([self._applied(image, seed) for image, seed in zip(x, seeds, strict=True)])

    def on_canvas(self, canvas: Canvas, params: Params) -> Canvas:
        """Each picture cut out, so sizes and pixels are read back from the device."""
        return each_alone(canvas, params, self)

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
                f"{name} made {made.dtype} {made.shape} of {dtype} {shape}; only transforms that "
                "keep size and type can be stages"
            )
        made = np.ascontiguousarray(made)
        if bytewise:
            return from_bytes(made, image.unsqueeze(0))
        if not np.isfinite(made).all():
            raise ValueError(f"{name} made NaN or infinity; check its arguments")
        return torch.from_numpy(made).to(image.device).permute(2, 0, 1).unsqueeze(0)


def _check_augmentation(augmentation: Any) -> None:
    from kornia import augmentation as theirs

    name = type(augmentation).__name__
    if not isinstance(augmentation, theirs.IntensityAugmentationBase2D):
        if isinstance(augmentation, nn.Sequential):
            reason = "is a container: make a stage of each augmentation in it"
        elif isinstance(augmentation, theirs.MixAugmentationBaseV2):
            reason = "mixes the images of a batch, and an LR follows from its own HR alone"
        elif isinstance(augmentation, theirs.AugmentationBase2D):
            reason = "moves pixels, and an LR has to show what its HR shows in the same place"
        else:
            reason = "is no augmentation of images"
        raise TypeError(
            f"augmentation is {name}, which {reason}; expected an intensity augmentation such as "
            "kornia.augmentation.RandomJPEG"
        )
    # Normalize has it set, but no such argument: it draws nothing.
    if (
        augmentation.same_on_batch
        and "same_on_batch" in inspect.signature(type(augmentation)).parameters
    ):
        raise ValueError(
            f"{name} has same_on_batch, and every image draws its own parameters here: leave it out"
        )


def _check_batched(augmentation: Any) -> None:
    certain = copy.deepcopy(augmentation)
    certain.p = 1.0
    x = torch.rand(16, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    alone = _applied_alone(certain, x, range(len(x)))
    try:
        equal = torch.allclose(_applied_together(certain, x, range(len(x))), alone, 0.0, 1e-4)
    except RuntimeError:  # parameters of differing shapes
        equal = False
    if not equal:
        raise ValueError(
            f"{type(augmentation).__name__} shares a parameter within a batch, so it cannot be "
            "batched: set batched to false"
        )


def _applied_alone(augmentation: Any, x: Tensor, seeds: Iterable[int]) -> Tensor:
    images = []
    for image, seed in zip(torch.split(x, 1), seeds, strict=True):
        with _seeded(seed, x.device):  # also for what is drawn while it is applied
            images.append(augmentation(image, params=augmentation.forward_parameters(image.shape)))
    return images[0] if len(images) == 1 else torch.cat(images)


def _applied_together(augmentation: Any, x: Tensor, seeds: Iterable[int]) -> Tensor:
    drawn = []
    for seed in seeds:
        with _seeded(seed, torch.device("cpu")):
            drawn.append(augmentation.forward_parameters(x[:1].shape))
    params = {name: torch.cat([own[name] for own in drawn]) for name in drawn[0]}
    return augmentation(x, params={**params, "forward_input_shape": torch.tensor(x.shape)})


def _check_output(name: str, x: Tensor, y: Any, values: bool) -> None:
    """Check what `name` made of x, and its values where `values` is set.

    Raises:
        TypeError: it is not float32.
        ValueError: it has another shape, or NaN or infinity in it.
    """
    if not isinstance(y, Tensor) or y.dtype != torch.float32:
        kind = y.dtype if isinstance(y, Tensor) else type(y).__name__
        raise TypeError(f"{name} returned {kind}; expected torch.float32")
    if y.shape != x.shape:
        raise ValueError(
            f"{name} returned the shape {tuple(y.shape)} for {tuple(x.shape)}; a "
            "stage keeps the size (to change it, use degradations.resize.Resize)"
        )
    if values and not bool(y.isfinite().all()):
        raise ValueError(f"{name} returned NaN or infinity; check its arguments")


def _to_floats(image: Tensor) -> Any:
    # A copy: some transforms work in place.
    hwc = image.detach().clamp(0.0, 1.0).permute(1, 2, 0)
    return hwc.contiguous().cpu().numpy()


@functools.cache
def _found(path: str) -> Callable[..., Any]:
    """The function of a dotted path.

    Raises:
        ValueError: there is none.
    """
    module_name, _, name = path.rpartition(".")
    try:
        module = importlib.import_module(module_name or path)
    except ModuleNotFoundError as error:
        raise ValueError(
            f"function is {path!r}, and there is no module {error.name!r}; expected a dotted path "
            "such as kornia.filters.box_blur"
        ) from error
    function = getattr(module, name, None)
    if not callable(function) or inspect.isclass(function):
        near = difflib.get_close_matches(name, dir(module), 3)
        advice = f" (did you mean {' or '.join(near)}?)" if near else ""
        raise ValueError(f"{module_name} has no function {name!r}{advice}, as function asks for")
    return function


def _check_call(path: str, names: list[str]) -> None:
    function = _found(path)
    try:
        signature = inspect.signature(function)
    except ValueError:  # some of torch's own have none
        return
    try:
        signature.bind(None, **dict.fromkeys(names))
    except TypeError as error:
        raise ValueError(
            f"{path}{signature} cannot be called with a picture and "
            f"{', '.join(names) or 'nothing else'}: {error}; arguments go into uniform, integers, "
            "choices or fixed"
        ) from error


def _check_whole(values: tuple[int, int], name: str) -> tuple[int, int]:
    lower, upper = check_range(values, name)
    if lower % 1 or upper % 1:
        raise ValueError(f"{name} is {[lower, upper]}; expected whole numbers")
    return int(lower), int(upper)


def _states(device: torch.device) -> list[Tensor]:
    states = [torch.get_rng_state()]
    return states if device.type != "cuda" else [*states, torch.cuda.get_rng_state(device)]


@contextmanager
def _seeded(seed: int | None, device: torch.device) -> Iterator[None]:
    """Torch's global generators seeded for the block, and afterwards as they were."""
    if seed is None:
        yield
        return
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        # Not torch.manual_seed: it seeds every device, and `fork_rng` puts only this one back.
        torch.default_generator.manual_seed(seed)
        if device.type == "cuda":
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield
