"""Pictures from files and into them, for the tools that have no data module around them."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from degradations.orientation import orientation_of, upright
from degradations.profiles import space_of, to_srgb
from files.paths import IMAGE_EXTENSIONS, list_images
from files.png_text import open_image


def read_picture(path: Path) -> Tensor:
    """A picture upright, in sRGB and without its alpha: (1, 3, H, W) float32 in [0, 1].

    Those of 8 bits are what training and evaluation make of the file; the colour profile of grey of
    16 bits is not looked at.

    Raises:
        ValueError: there is no such file, or no picture in it.
    """
    try:
        with open_image(path) as image:
            if image.mode.startswith("I"):  # 16 bits of grey, which convert would clip to 8
                deep = np.asarray(image, np.float32) / 65535.0
                pixels = np.repeat(deep[..., None], 3, axis=-1)
            else:
                icc = image.info.get("icc_profile") or b""
                pixels = _srgb(image, icc).astype(np.float32) / 255.0
            pixels = upright(pixels, orientation_of(image))
    except FileNotFoundError as error:
        raise ValueError(f"there is no picture {path}") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(
            f"{path} cannot be read as a picture ({error}): replace it, or take it out"
        ) from error
    return torch.from_numpy(pixels.clip(0.0, 1.0)).permute(2, 0, 1).unsqueeze(0)


def _srgb(image: Image.Image, icc: bytes) -> NDArray[np.uint8]:
    """(H, W, 3) by the colour profile of the file, where that is one for its kind of pixels."""
    space, rgb, described = space_of(icc), np.asarray(image.convert("RGB")), None
    if image.mode == "CMYK":
        described = np.asarray(image) if space == "CMYK" else None
    elif space == "RGB":
        described = rgb
    elif space == image.mode[0] == "L":
        described = rgb[..., 0]
    converted = None if described is None else to_srgb(described, icc)
    return rgb if converted is None else converted


def cropped(
    picture: Tensor, size: int, at: tuple[int, int] | None = None, name: str = ""
) -> Tensor:
    """A square of a picture: (1, 3, H, W) to (1, 3, size, size).

    Args:
        picture: The picture.
        size: Side of the square in pixels.
        at: Row and column of its upper left corner; the middle of the picture by default.
        name: What to call the picture in a message.

    Raises:
        ValueError: the square is not within the picture.
    """
    H, W = picture.shape[-2:]
    top, left = at if at is not None else ((H - size) // 2, (W - size) // 2)
    if min(H, W) < size:
        raise ValueError(
            f"{name or 'the picture'} is {H} x {W} px, smaller than the crop of {size} px: give "
            f"a crop of at most {min(H, W)}"
        )
    if size < 1 or min(top, left) < 0 or top + size > H or left + size > W:
        raise ValueError(
            f"a crop of {size} px at row {top}, column {left} is not within {name or 'the picture'}"
            f" of {H} x {W} px"
        )
    return picture[..., top : top + size, left : left + size].contiguous()


def list_pictures(folder: Path) -> list[Path]:
    """The pictures of a folder and its subfolders, in the order of their paths.

    As training finds them: folders behind links are followed, once each, and hidden files, such as
    the ``._1.jpg`` of a Mac, are none.

    Raises:
        ValueError: it is no folder, or holds no pictures.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder")
    found = list_images(folder)
    if not found:
        endings = ", ".join(sorted(IMAGE_EXTENSIONS))
        raise ValueError(f"{folder} holds no pictures (files ending in {endings})")
    return sorted(found)


def as_image(picture: Tensor) -> Image.Image:
    """(1, C, H, W) or (C, H, W), with one colour or three, clamped and rounded to 8 bits."""
    pixels = picture.detach().reshape(picture.shape[-3:]).clamp(0.0, 1.0).mul(255.0).round()
    array = pixels.to(torch.uint8).permute(1, 2, 0).cpu().numpy()
    return Image.fromarray(array.squeeze(-1) if array.shape[-1] == 1 else array).convert("RGB")


def png(image: Image.Image) -> bytes:
    """The file of an image."""
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    return file.getvalue()
