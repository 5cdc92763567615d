"""Images of Pillow, NumPy and torch as tensors, and back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from callbacks.predict.files import luma, to_pixels
from degradations.base import check_unit_range
from files.images.colours import GREY, profile_for_mode
from files.images.decode import from_pillow

Picture = TypeVar("Picture", Image.Image, NDArray[Any], Tensor)
ToImage = Callable[[Tensor], Any]  # makes an image of the kind that the tensor was made of
LEVELS = {"uint8": 255, "uint16": 65535}  # highest value of an integer type


def bit_depth(image: Any) -> int:
    """Return the bits of a channel of an image that ``to_tensor`` takes."""
    if isinstance(image, Image.Image):
        return 16 if image.mode.startswith("I;16") else 8
    return 8 * int(image.dtype.itemsize)


def to_tensor(image: Any, srgb: bool = False) -> tuple[Tensor, ToImage]:
    """Return an image as a tensor, and the function that turns a result into such an image.

    Args:
        image: A Pillow image, array or tensor, as ``help(enlarger)`` describes them.
        srgb: Convert a Pillow image by its colour profile, as files are.

    Returns:
        The image (1, 3 or 4, h, w) in [0, 1], and a function that makes an image of the same kind
        of (3 or 4, H, W).

    Raises:
        ValueError: If it is no image.
    """
    if isinstance(image, Image.Image):
        return _pillow_to_tensor(image, srgb)
    if isinstance(image, np.ndarray):
        return _array_to_tensor(image)
    if not isinstance(image, Tensor):
        raise ValueError(f"{type(image).__name__} is not an image; see help(enlarger)")
    if image.ndim != 3 or len(image) != 3 or not image.is_floating_point():
        kind = _shape_and_type(image)
        raise ValueError(f"the tensor is {kind}; expected (3, H, W) floats in [0, 1]")
    return _checked_range(image[None].float()), lambda result: result.to(image)


def _pillow_to_tensor(image: Image.Image, srgb: bool) -> tuple[Tensor, ToImage]:
    """Convert a Pillow image; the result gets its colour profile. As ``to_tensor``."""
    if image.mode in ("I", "F"):  # Pillow would clip them at 255
        raise ValueError(
            f"the image is of Pillow's mode {image.mode}, whose range is unknown; expected 8 "
            "or 16 bits a channel, or an array of floats in [0, 1]"
        )
    if image.mode.startswith("I;16") and image.has_transparency_data:
        raise ValueError("Pillow has no 16-bit grey with alpha: give an array (H, W, 2)")
    decoded = from_pillow(image, srgb)
    x, to_array = _array_to_tensor(decoded.array())
    icc = decoded.icc or decoded.grey_icc

    def to_pillow(result: Tensor) -> Image.Image:
        output = Image.fromarray(to_array(result))
        profile = profile_for_mode(icc, output.mode in GREY) if icc else None
        if profile:
            output.info["icc_profile"] = profile
        return output

    return x, to_pillow


def _array_to_tensor(image: NDArray[Any]) -> tuple[Tensor, ToImage]:
    """Convert an array (H, W) or (H, W, C); grey becomes RGB, and is grey again at the end."""
    levels = LEVELS.get(image.dtype.name)
    has_shape = image.ndim == 2 or (image.ndim == 3 and image.shape[-1] in (2, 3, 4))
    has_type = levels is not None or image.dtype.kind == "f"
    if not has_shape or not has_type:
        raise ValueError(
            f"the array is {_shape_and_type(image)}; expected (H, W) or (H, W, 2 to 4) of uint8, "
            "uint16 or floats in [0, 1]"
        )
    x = _checked_range(torch.from_numpy(image.astype(np.float32) / (levels or 1)))
    if x.ndim == 2:
        x = x[..., None]
    x = x.movedim(-1, 0)
    is_grey = len(x) < 3
    if is_grey:
        x = torch.cat([x[:1].expand(3, *x.shape[1:]), x[1:]])

    def to_array(result: Tensor) -> NDArray[Any]:
        if is_grey:
            result = torch.cat([luma(result[:3]), result[3:]])
        if levels:
            array: NDArray[Any] = to_pixels(result, 8 * image.dtype.itemsize)
        else:
            array = result.movedim(0, -1).cpu().numpy().astype(image.dtype)
        return array[..., 0] if array.shape[-1] == 1 else array

    return x[None].contiguous(), to_array


def _checked_range(x: Tensor) -> Tensor:
    """Refuse values far outside [0, 1], and clamp those that rounding has put beyond it."""
    check_unit_range(x, "the image")
    return x.clamp(0, 1)


def _shape_and_type(image: Any) -> str:
    return f"{'x'.join(map(str, image.shape))} of {str(image.dtype).removeprefix('torch.')}"
