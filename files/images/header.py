"""The header of an image file: its format, size, orientation and metadata, without pixels.

``read_size`` and ``decode`` both begin here, so they agree about which way is up and which page of
a file is the image. tifffile reads the headers of TIFF, and Pillow all others.
"""

from __future__ import annotations

import functools
import logging
import warnings
from dataclasses import dataclass, field, replace
from typing import IO, Any

from PIL import Image, PngImagePlugin

from files.images import tiff
from files.images.colours import code_points_of
from files.images.faults import Unsupported
from files.images.png import has_metadata_after_pixels
from files.images.profiles import UPRIGHT, orientation_of
from files.paths import FORMATS

# Bytes of a text, or of a colour profile, that a PNG may hold: some programs store workflows and
# editing histories there. Pillow refuses a file with more than a megabyte in one of them.
MAX_TEXT = 64 << 20

# Pillow's names of the metadata that hold an image's orientation.
ORIENTED = frozenset({"exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif"})

# Pillow's warnings about files: what cannot be read is an error, and other faults change no pixel.
WARNINGS = "Corrupt EXIF|Truncated File Read|Metadata Warning|Image appears to be a malformed MPO"

BY_PILLOW = tuple(name for name in FORMATS if name != "TIFF")
RAW_STARTS = (b"FUJIFILMCCD-RAW", b"IIRO", b"IIRS", b"MMOR", b"IIU\0")  # Fujifilm, Olympus, ...
CR3, CR2 = b"ftypcrx", b"CR\x02"  # Canon's, further on


@dataclass(frozen=True)
class Header:
    """What a file says about its image.

    Args:
        format: One of ``files.paths.FORMATS``.
        size: (W, H) of the stored pixels.
        orientation: How they are turned, as in EXIF: 1 (upright) to 8.
        icc: Colour profile.
        code_points: Primaries, transfer, matrix and range of the colours, a byte each.
        more: Whether further frames or pages follow that are images, too.
        info: Further information by Pillow's names.
        opened: What its decoder continues with: Pillow's image, or tifffile's page.
    """

    format: str
    size: tuple[int, int]
    orientation: int = UPRIGHT
    icc: bytes | None = None
    code_points: bytes | None = None
    more: bool = False
    info: dict[Any, Any] = field(default_factory=dict)
    opened: Any = None

    @property
    def upright_size(self) -> tuple[int, int]:
        """(W, H) of the upright image."""
        width, height = self.size
        return (height, width) if self.orientation >= 5 else (width, height)

    @property
    def exif(self) -> bytes | None:
        """The file's EXIF, unchanged; of a TIFF, the tags that describe the image."""
        return tiff.exif_of(self.opened) if self.format == "TIFF" else self.info.get("exif")


def most_pixels() -> float:
    """Return the number of pixels above which an image is refused: twice Pillow's limit.

    At its limit, ``PIL.Image.MAX_IMAGE_PIXELS``, Pillow only warns.
    """
    return 2 * Image.MAX_IMAGE_PIXELS if Image.MAX_IMAGE_PIXELS else float("inf")


def open_header(file: IO[bytes]) -> Header:
    """Read the header of an image file.

    Args:
        file: Its position changes; it must stay open until the pixels are read.

    Raises:
        Unsupported: If it is a camera's raw file, or of a kind that is not read.
        Image.UnidentifiedImageError: If it is not an image.
        Image.DecompressionBombError: If it has more than ``most_pixels``.
        Exception: Whatever a library raises for a broken header.
    """
    _prepare_libraries()
    file.seek(0)
    start = file.read(16)
    file.seek(0)
    if start.startswith(RAW_STARTS) or start[4:11] == CR3 or start[8:11] == CR2:
        raise Unsupported(tiff.RAW)
    is_tiff = start.startswith(tiff.STARTS)
    header = _header_by_tifffile(file) if is_tiff else _header_by_pillow(file)
    width, height = header.size
    if width * height > most_pixels():
        raise Image.DecompressionBombError(f"it has {width}x{height} pixels")
    return header


@functools.cache
def _prepare_libraries() -> None:
    """Once a process: register optional formats with Pillow, and silence what changes no pixel."""
    warnings.filterwarnings("ignore", WARNINGS)
    PngImagePlugin.MAX_TEXT_CHUNK = MAX_TEXT
    for name in ("tifffile", "imagecodecs"):  # their lines do not name the file
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    if "HEIF" in FORMATS:
        import pillow_heif

        pillow_heif.register_heif_opener()
    if "JXL" in FORMATS:
        import pillow_jxl  # noqa: F401  (registers itself with Pillow)


def _header_by_pillow(file: IO[bytes]) -> Header:
    image = Image.open(file, formats=BY_PILLOW)
    may_be_turned = bool(image.info.keys() & ORIENTED) and image.format != "JXL"  # libjxl turns it
    if image.format == "PNG" and not may_be_turned:
        may_be_turned = has_metadata_after_pixels(file)
    header = header_of_pillow(image, may_be_turned)
    code_points = code_points_of(file)
    if image.format != "PNG" and header.icc:
        code_points = None  # a profile comes first
    return replace(header, code_points=code_points)


def header_of_pillow(image: Image.Image, may_be_turned: bool = True) -> Header:
    """Return the header of an image that Pillow has opened or made.

    Args:
        image: The image.
        may_be_turned: Whether its metadata may hold an orientation: looking for it may load the
            pixels of a PNG.
    """
    orientation = orientation_of(image) if may_be_turned else UPRIGHT
    return Header(
        # MPO is Pillow's name for a JPEG with further images: a preview, or a gain map.
        format="JPEG" if image.format == "MPO" else image.format or "",
        size=image.size,
        orientation=orientation,
        icc=image.info.get("icc_profile"),
        more=image.format != "MPO" and getattr(image, "is_animated", False),
        info=image.info,
        opened=image,
    )


def _header_by_tifffile(file: IO[bytes]) -> Header:
    page, more = tiff.first_image_page(file)
    return Header(
        format="TIFF",
        size=(page.imagewidth, page.imagelength),
        orientation=tiff.orientation_of(page),
        icc=page.tags.valueof(tiff.ICC_PROFILE),
        more=more,
        opened=page,
    )
