"""Image files, arrays, colour profiles and orientation, for tools and codecs."""

from __future__ import annotations

import io
import logging
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from files.colours import GREY
from files.deep import TOP, Pixels, deep_pixels, deep_to_srgb, eight_bits
from files.image_profiles import orientation_of, space_of, to_srgb, upright
from files.images import open_image
from files.paths import list_images, read_bytes

log = logging.getLogger(__name__)


def read_image(path: Path) -> Tensor:
    """Read an image upright, in sRGB and without alpha: (1, 3, H, W) float32 in [0, 1].

    The pixels are those of training and evaluation.

    Raises:
        ValueError: The file is missing, or is not an image.
    """
    pixels = _read(path)
    scaled = pixels.astype(np.float32) / np.float32(np.iinfo(pixels.dtype).max)
    return torch.from_numpy(scaled).permute(2, 0, 1).unsqueeze(0)


def read_levels(path: Path) -> NDArray[np.uint8]:
    """Read an image to look at: (H, W, 3), as ``read_image`` does, but on white and in 8 bits.

    Raises:
        ValueError: The file is missing, or is not an image.
    """
    return eight_bits(_read(path, on_white=True))


def _read(path: Path, on_white: bool = False) -> Pixels:
    """Return (H, W, 3)."""
    try:
        data = read_bytes(path)
        with open_image(io.BytesIO(data)) as image:
            icc = image.info.get("icc_profile") or b""
            deep = deep_pixels(image, data)
            if deep is None:
                pixels: Pixels = _srgb(image, icc, on_white)
            else:
                pixels = _srgb_16(*deep, image.mode in GREY, icc, on_white)
            return upright(pixels, orientation_of(image))
    except FileNotFoundError as error:
        raise ValueError(f"the image {path} does not exist") from error
    except Exception as error:  # decoders raise anything on arbitrary bytes
        raise ValueError(
            f"{path} cannot be read as an image ({error}): replace or remove it"
        ) from error


def _srgb_16(rgb: Pixels, alpha: Pixels | None, grey: bool, icc: bytes, on_white: bool) -> Pixels:
    """Return (H, W, 3) of 16 bits; of 8 if it is converted, as Pillow converts no others."""
    if on_white and alpha is not None:
        share = alpha[..., None] / TOP
        rgb = np.rint(rgb * share + TOP * (1 - share)).astype(np.uint16)
    space = space_of(icc)
    known = space == "RGB" or (grey and space == "L")
    converted = deep_to_srgb(rgb, icc, space == "L") if known else None
    return rgb if converted is None else converted


def _srgb(image: Image.Image, icc: bytes, on_white: bool) -> NDArray[np.uint8]:
    """Return (H, W, 3), converted by the colour profile if that fits the mode of the image."""
    space, described = space_of(icc), None
    if image.has_transparency_data:  # not at once: Pillow warns of palettes, and refuses La
        opaque = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
        if on_white:
            white = Image.new("RGBA", opaque.size, "white")
            white.alpha_composite(opaque)
            opaque = white
        rgb = np.asarray(opaque.convert("RGB"))
    else:
        rgb = np.asarray(image.convert("RGB"))
    if image.mode == "CMYK":
        described = np.asarray(image) if space == "CMYK" else None
    elif space == "RGB" and image.mode != "LAB":
        described = rgb
    elif space == image.mode[0] == "L":
        described = rgb[..., 0]
    converted = None if described is None else to_srgb(described, icc)
    return rgb if converted is None else converted


def cropped(image: Tensor, size: int, name: str) -> Tensor:
    """Crop the square in the middle of an image: (1, 3, H, W) to (1, 3, size, size).

    Args:
        image: The image.
        size: Side of the square in pixels.
        name: Name of the image in messages.

    Raises:
        ValueError: The square is larger than the image.
    """
    H, W = image.shape[-2:]
    if min(H, W) < size:
        raise ValueError(f"{name} is {H} x {W} px, smaller than the crop of {size} px")
    top, left = (H - size) // 2, (W - size) // 2
    return image[..., top : top + size, left : left + size].contiguous()


def find_images(folder: Path) -> list[Path]:
    """List the images of a folder and its subfolders, sorted by path.

    As in training, links to folders are followed once each, and hidden files, such as the
    ``._1.jpg`` of a Mac, are skipped.

    Raises:
        ValueError: It is not a folder, or contains no images.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder")
    images = list_images(folder)
    if not images:
        raise ValueError(f"{folder} contains no images")
    return images


def as_image(image: Tensor) -> Image.Image:
    """Convert (1, C, H, W) or (C, H, W), C = 1 or 3, to Pillow, clamped and rounded to 8 bits."""
    pixels = image.detach().reshape(image.shape[-3:]).clamp(0.0, 1.0).mul(255.0).round()
    array = pixels.to(torch.uint8).permute(1, 2, 0).cpu().numpy()
    return Image.fromarray(array.squeeze(-1) if array.shape[-1] == 1 else array).convert("RGB")


Bytes = npt.NDArray[np.uint8]


def to_bytes(image: Tensor) -> Bytes:
    """Clamp (3, H, W) float32 to [0, 1], round, and return (H, W, 3) uint8 in RGB order.

    Takes 37 us for 256 x 256 pixels, torch's operators 185.
    """
    import cv2

    _, H, W = image.shape
    positive = image.detach().cpu().clamp_min(0.0)  # OpenCV takes absolute values
    lines = positive.reshape(3 * H, W).numpy()
    planes = cv2.convertScaleAbs(lines, alpha=255.0).reshape(3, H, W)
    return cast(Bytes, cv2.merge(list(planes)))


def from_bytes(pixels: Bytes, like: Tensor) -> Tensor:
    """Convert (H, W, 3) uint8 to (1, 3, H, W) float32 in [0, 1].

    Args:
        pixels: The image.
        like: (B, 3, ...), for the device.
    """
    import cv2

    planes = np.empty((3, *pixels.shape[:2]), np.uint8)
    cv2.split(pixels, list(planes))
    return torch.from_numpy(planes).to(like.device).unsqueeze(0).float().div_(255.0)
