"""Parameters of a degradation, and their transfer to the images' device.

`Params` is a dict with one entry per parameter, and a nested dict for each stage.

- Drawn and recorded parameters are NumPy arrays of float, int or bool whose first dimension is the
  batch, so that the part of an image can be cut out, written as JSON and read back bit for bit.
- Applied parameters are float32, int64 and bool tensors on the images' device.
- A Python number is shared by the whole batch and passed unchanged.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Params: TypeAlias = dict[str, Any]

_ON_DEVICE = {
    "f": (np.float32, torch.float32),
    "i": (np.int64, torch.int64),
    "b": (np.bool_, torch.bool),
}
_ALIGNMENT = 16  # bytes, enough for all types above


def to_device(params: Params, batch: int, device: torch.device) -> Params:
    """Convert drawn arrays to tensors on `device` in one transfer.

    Args:
        params: Drawn parameters; tensors are only moved, Python numbers kept.
        batch: Number of images, to check the first dimension of each array.
        device: Device of the images.

    Raises:
        TypeError: A parameter has a type that cannot be recorded.
        ValueError: An array does not have one value or row per image.
    """
    arrays: list[npt.NDArray[Any]] = [
        np.asarray(leaf, _ON_DEVICE[leaf.dtype.kind][0])
        for path, leaf in leaves(params)
        if _is_array(path, leaf, batch)
    ]
    if device.type == "cpu":  # nothing to transfer
        return _with_tensors(params, map(torch.from_numpy, arrays), device)
    starts = [0]
    for array in arrays:
        starts.append(starts[-1] + -(-array.nbytes // _ALIGNMENT) * _ALIGNMENT)
    # Pinned, so that the host does not wait for the copy.
    host = torch.empty(starts[-1], dtype=torch.uint8, pin_memory=device.type == "cuda")
    buffer = host.numpy()
    for array, start in zip(arrays, starts, strict=False):
        buffer[start : start + array.nbytes] = array.reshape(-1).view(np.uint8)
    there = host.to(device, non_blocking=True)
    tensors = iter(
        there[start : start + array.nbytes].view(_ON_DEVICE[array.dtype.kind][1]).view(array.shape)
        for array, start in zip(arrays, starts, strict=False)
    )
    return _with_tensors(params, tensors, device)


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
    if isinstance(leaf, Tensor | bool | int | float):
        return False
    if not isinstance(leaf, np.ndarray) or leaf.dtype.kind not in _ON_DEVICE:
        kind = leaf.dtype if isinstance(leaf, np.ndarray) else type(leaf).__name__
        raise TypeError(
            f"the parameter {path} is {kind}; expected a NumPy array of float, int or bool, one "
            "entry an image (or one Python number for the whole batch)"
        )
    if leaf.shape[:1] != (batch,):
        raise ValueError(
            f"the parameter {path} has the shape {leaf.shape}; expected first dimension {batch}, "
            "one entry per image"
        )
    return True


def _with_tensors(params: Params, tensors: Iterator[Tensor], device: torch.device) -> Params:
    moved: Params = {}
    for name, value in params.items():
        if isinstance(value, dict):
            moved[name] = _with_tensors(value, tensors, device)
        elif isinstance(value, np.ndarray):
            moved[name] = next(tensors)
        else:
            moved[name] = value.to(device) if isinstance(value, Tensor) else value
    return moved


def per_image(values: Tensor | float, x: Tensor) -> Tensor:
    """Reshape (B,) values to (B, 1, 1, 1) of x's dtype, to broadcast over images `x`.

    Args:
        values: (B,) on x's device, or one Python number shared by the batch.
        x: (B, C, H, W).
    """
    if not isinstance(values, Tensor):
        return x.new_full((1,) * x.ndim, values)
    return values.to(x.dtype).view(-1, *(1,) * (x.ndim - 1))


def split_params(params: Params, batch: int) -> list[Params]:
    """Split prepared parameters into those of each image, with first dimension 1.

    Args:
        params: Tensors with first dimension `batch`, Python numbers, and dicts of such.
        batch: Number of images.
    """
    images: list[Params] = [{} for _ in range(batch)]
    for name, value in params.items():
        parts: Sequence[Any]
        if isinstance(value, dict):
            parts = split_params(value, batch)
        elif isinstance(value, Tensor):
            parts = value.unsqueeze(1).unbind()  # like `chunk`, in a third of its time
        else:
            parts = [value] * batch
        for image, part in zip(images, parts, strict=True):
            image[name] = part
    return images
