"""Counter-based random streams, and the parameters drawn from them.

All draws for a sample follow from its 64-bit seed, so they are the same in any batch, on any rank
and after any resume, without generator states to save. The n-th call of a stream is
`mix(state + n * GAMMA)`, the splitmix64 generator, for all images at once.

`Params` is a dict with one entry per parameter, and a nested dict for each stage.

- Drawn and recorded parameters are NumPy arrays of float, int or bool whose first dimension is the
  batch, so that the part of an image can be cut out, written as JSON and read back bit for bit.
- Applied parameters are float32, int64 and bool tensors on the images' device.
- A Python number is shared by the whole batch and passed unchanged.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from degradations.device import copy_to
from degradations.seeds import CODING as CODING
from degradations.seeds import GAMMA as GAMMA
from degradations.seeds import MULTIPLIERS as MULTIPLIERS
from degradations.seeds import SHIFTS as SHIFTS
from degradations.seeds import Words as Words
from degradations.seeds import hash_of_name
from degradations.seeds import mix as mix
from degradations.seeds import seed_of as seed_of

Floats: TypeAlias = npt.NDArray[np.float64]
Integers: TypeAlias = npt.NDArray[np.int64]
Booleans: TypeAlias = npt.NDArray[np.bool_]
Seeds: TypeAlias = Tensor | Integers
Number: TypeAlias = float | Floats | Integers  # one for all images, or (B,)
Params: TypeAlias = dict[str, Any]

_AHEAD = 4  # calls computed together
_ONE = np.uint64(1)
_ELEVEN = np.uint64(11)
# By the kind of a NumPy type; the largest first, so that all are aligned.
_ARRAY_TYPES: dict[str, np.dtype[Any]] = {
    "i": np.dtype(np.int64),
    "f": np.dtype(np.float32),
    "b": np.dtype(np.bool_),
}
_TENSOR_TYPES = {
    "i": torch.int64,
    "f": torch.float32,
    "b": torch.uint8,
}


def check_probabilities(
    p: Sequence[float],
    count: int,
    name: str = "p",
) -> tuple[float, ...]:
    """Check and return `count` probabilities.

    Raises:
        ValueError: Their number is another, one is negative, or their sum is not 1.
    """
    has_count = count > 0 and len(p) == count
    # NaN fails, too.
    is_distribution = has_count and min(p) >= 0.0 and abs(sum(p) - 1.0) <= 1e-6
    if not is_distribution:
        raise ValueError(f"{name} is {list(p)}; expected {count}, none negative, with sum 1")
    return tuple(p)


class Draws:
    """Random streams of B images; each draw returns one number per image.

    Limits and parameters of a draw may be scalars or (B,) arrays. Use a sub-stream `fold(name)` for
    every independent purpose, so that a stream is never rewound.

    Args:
        seeds: (B,) int64, on the CPU.
    """

    __slots__ = ("_ahead", "_calls", "_state")

    def __init__(self, seeds: Seeds) -> None:
        array = seeds.numpy() if isinstance(seeds, Tensor) else np.asarray(seeds)
        # Mixed, so that consecutive seeds (0, 1, 2, ...) are as good as random ones.
        words = array.astype(np.uint64) + np.uint64(GAMMA)
        self._state: Words = mix(words)
        self._calls = 0

    def fold(self, name: str) -> Draws:
        """Return an independent sub-stream for `name`.

        It depends on the seeds and the names folded so far only, not on earlier draws or other
        names.
        """
        return _draws_of(mix(self._state ^ hash_of_name(name)))

    def shared(self) -> Draws:
        """Return a sub-stream that all images of the batch share.

        It draws B equal numbers, which follow from the seeds of all images together. Only for the
        exact reproduction of programs that draw once per batch.
        """
        state = np.zeros(1, np.uint64)
        for word in self._state:
            state = mix(state ^ word)
        states = np.repeat(state, len(self._state))
        return _draws_of(states)

    def words(self) -> Words:
        """Draw (B,) uint64, all 64 bits random; all other methods use these."""
        place = self._calls % _AHEAD
        if place == 0:  # several calls at once: for short arrays this costs hardly more
            first = self._calls + 1
            counts = np.arange(first, first + _AHEAD, dtype=np.uint64)
            steps = counts * np.uint64(GAMMA)
            self._ahead = mix(self._state + steps[:, None])
        self._calls += 1
        return self._ahead[place]

    def uniform(self, low: Number = 0.0, high: Number = 1.0) -> Floats:
        """Draw (B,) float64, uniform in [low, high)."""
        values = low + (high - low) * self._unit()
        return np.asarray(values, np.float64)

    def integers(self, low: Number, high: Number) -> Integers:
        """Draw (B,) int64, uniform in {low, ..., high - 1}, like Python's `range`."""
        # Below 2**53 values the product never rounds up to `high`: all are equally likely.
        steps = np.floor((high - low) * self._unit())
        return (low + steps).astype(np.int64)

    def choice(self, values: npt.ArrayLike, p: Sequence[float] | None = None) -> npt.NDArray[Any]:
        """Draw (B,) of the dtype of `values`, one value per image.

        Args:
            values: (K,) numbers to choose from.
            p: (K,) their probabilities; equal by default.

        Raises:
            ValueError: `p` has another length, a negative entry, or does not sum to 1.
        """
        options = np.asarray(values)
        if p is None:
            return options[self.integers(0, len(options))]
        edges = _edges(tuple(p), len(options))
        indices = edges.searchsorted(self._unit(), side="right")
        return options[indices]

    def bernoulli(self, p: Number) -> Booleans:
        """Draw (B,) bool, true with probability `p`."""
        return np.less(self._unit(), p)

    def normal(self, mean: Number = 0.0, std: Number = 1.0) -> Floats:
        """Draw (B,) float64, normally distributed (Box-Muller, which takes two calls)."""
        log = np.log1p(-self._unit())
        radius = np.sqrt(-2.0 * log)
        angle = 2.0 * np.pi * self._unit()
        normal = radius * np.cos(angle)
        return np.asarray(mean + std * normal, np.float64)

    def seeds(self) -> Integers:
        """Draw (B,) int64 in [0, 2**63), seeds of fields or of other generators."""
        upper_bits = self.words() >> _ONE
        return upper_bits.view(np.int64)

    def _unit(self) -> Floats:
        """Draw (B,) float64 in [0, 1), a uniform multiple of 2**-53."""
        upper_bits = self.words() >> _ELEVEN
        return upper_bits.astype(np.float64) * 2.0**-53


@functools.cache  # computing the edges takes longer than the draw
def _edges(p: tuple[float, ...], count: int) -> Floats:
    """Return the upper ends of the intervals of [0, 1] with these lengths."""
    edges = np.cumsum(check_probabilities(p, count))
    # Divided by the last edge: a sum just below 1 must not select a last value of p = 0.
    return np.asarray(edges / edges[-1], np.float64)


def _draws_of(state: Words) -> Draws:
    """Return draws from states, without the constructor, which would mix them as seeds."""
    draws = object.__new__(Draws)
    draws._state = state
    draws._calls = 0
    return draws


class _Place(NamedTuple):
    """Where a parameter lies in a row.

    kind: Kind of its NumPy type.
    column: Its first column, counted in its type.
    shape: Its shape for one image.
    """

    kind: str
    column: int
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Packed:
    """The parameters of a batch with one row per image, for one copy to a device.

    A worker can draw and pack them: the training process then only copies and unpacks them.

    rows: (B, n) words of 64 bits.
    layout: The parameters; the place in a row instead of an array.
    """

    rows: Integers
    layout: Params

    @classmethod
    def of(cls, params: Params, batch: int) -> Packed:
        """Pack drawn parameters; a number for all images stays in the layout.

        Args:
            params: The parameters.
            batch: Number of images, to check the first dimension of each array.

        Raises:
            TypeError: A parameter is neither a number nor an array with one entry per image.
        """
        arrays: dict[str, npt.NDArray[Any]] = {}
        for path, value in leaves(params):
            if _is_array(path, value, batch):
                arrays[path] = value
        places: dict[str, _Place] = {}
        end = 0  # in bytes
        for kind, dtype in _ARRAY_TYPES.items():
            for path, x in arrays.items():
                if x.dtype.kind == kind:
                    shape = x.shape[1:]
                    places[path] = _Place(kind, end // dtype.itemsize, shape)
                    end += math.prod(shape) * dtype.itemsize
        word_count = end // 8 + 1  # one more than needed at times, but never none
        rows = np.zeros((batch, word_count), np.int64)
        # The same memory in each type, so that columns count values of it.
        views = {kind: rows.view(dtype) for kind, dtype in _ARRAY_TYPES.items()}
        for path, place in places.items():
            width = math.prod(place.shape)
            columns = slice(place.column, place.column + width)
            views[place.kind][:, columns] = arrays[path].reshape(batch, width)
        return cls(rows, _replaced(params, places))

    def to(self, device: torch.device) -> Tensor:
        """Copy the rows to a device, without waiting."""
        # NumPy has no strides for no images.
        flat = torch.from_numpy(self.rows.reshape(-1))
        return copy_to(flat.view(self.rows.shape), device)

    def unpacked(self, rows: Tensor) -> Params:
        """Return the parameters as tensors, views of the rows on their device.

        Args:
            rows: (B, n), the result of `to`.
        """
        views = {kind: rows.view(dtype) for kind, dtype in _TENSOR_TYPES.items()}
        views["b"] = views["b"].bool()  # a view as booleans cannot be compiled by torch 2.11
        return _unpacked(self.layout, views)


def _unpacked(layout: Params, views: dict[str, Tensor]) -> Params:
    """Replace the places in a layout by views of the rows."""
    params: Params = {}
    for name, x in layout.items():
        if isinstance(x, dict):
            params[name] = _unpacked(x, views)
        elif isinstance(x, _Place):
            params[name] = _view_of_place(x, views[x.kind])
        else:
            params[name] = x
    return params


def _view_of_place(place: _Place, view: Tensor) -> Tensor:
    """Return one parameter of all images, from the rows viewed in its type."""
    if not place.shape:
        return view.select(1, place.column)
    width = math.prod(place.shape)
    columns = slice(place.column, place.column + width)
    return view[:, columns].view(len(view), *place.shape)


def to_device(params: Params, batch: int, device: torch.device) -> Params:
    """Convert drawn arrays to tensors on `device` in one transfer.

    Args:
        params: Drawn parameters; Python numbers are kept.
        batch: Number of images, to check the first dimension of each array.
        device: Device of the images.

    Raises:
        TypeError: A parameter is neither a number nor an array with one entry per image.
    """
    packed = Packed.of(params, batch)
    return packed.unpacked(packed.to(device))


def leaves(params: Params, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the path and value of each parameter.

    Args:
        params: Parameters, nested or not.
        path: Names that lead to ``params``, each followed by a dot.
    """
    for name, value in params.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{path}{name}.")
        else:
            yield path + name, value


def _is_array(path: str, leaf: Any, batch: int) -> bool:
    """Return whether a parameter is an array of one entry per image, not a Python number."""
    if isinstance(leaf, bool | int | float):
        return False
    is_array = isinstance(leaf, np.ndarray) and leaf.dtype.kind in _ARRAY_TYPES
    if not is_array or leaf.shape[:1] != (batch,):
        kind = getattr(leaf, "dtype", type(leaf).__name__)
        raise TypeError(
            f"the parameter {path} is {kind} of shape {np.shape(leaf)}; expected a NumPy array of "
            f"float, int or bool, one entry for each of {batch} images, or a Python number for all"
        )
    return True


def _replaced(params: Params, others: Params, path: str = "") -> Params:
    """Replace the values whose paths are in ``others``."""
    result: Params = {}
    for name, x in params.items():
        if isinstance(x, dict):
            result[name] = _replaced(x, others, f"{path}{name}.")
        else:
            result[name] = others.get(path + name, x)
    return result


def per_image(values: Tensor | float, x: Tensor) -> Tensor:
    """Reshape (B,) values to (B, 1, 1, 1) of x's dtype, to broadcast over images `x`.

    Args:
        values: (B,) on x's device, or one Python number shared by the batch.
        x: (B, C, H, W).
    """
    other_axes = (1,) * (x.ndim - 1)
    if not isinstance(values, Tensor):
        return x.new_full((1, *other_axes), values)
    return values.to(x.dtype).view(-1, *other_axes)


def split_params(params: Params, batch: int) -> list[Params]:
    """Split prepared parameters into those of each image, with first dimension 1.

    Args:
        params: Tensors with first dimension `batch`, Python numbers, and dicts of such.
        batch: Number of images.
    """
    images: list[Params] = [{} for _ in range(batch)]
    for name, value in params.items():
        values: Sequence[Any]
        if isinstance(value, dict):
            values = split_params(value, batch)
        elif isinstance(value, Tensor):
            values = value.unsqueeze(1).unbind()  # like `chunk`, in a third of its time
        else:
            values = [value] * batch
        for image, image_value in zip(images, values, strict=True):
            image[name] = image_value
    return images
