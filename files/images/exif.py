"""The part of an image's EXIF that also holds for the enlarged one."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from typing import Any

from PIL import Image
from PIL.ExifTags import IFD, Base

from files.images.profiles import UPRIGHT

log = logging.getLogger(__name__)

# Tags of the first directory (in a TIFF also the file's own) that describe the image.
DESCRIPTIVE = frozenset(
    {Base.ImageDescription, Base.Make, Base.Model, Base.Software, Base.DateTime, Base.Artist}
    | {Base.HostComputer, Base.Copyright, Base.Rating, Base.RatingPercent}
    | {Base.XResolution, Base.YResolution, Base.ResolutionUnit}
    | {Base.XPTitle, Base.XPComment, Base.XPAuthor, Base.XPKeywords, Base.XPSubject}
)
SUBJECT_AREA = 0x9214  # missing in Pillow's list

# Tags of the second directory that refer to pixels of the old size, or to offsets in the old file.
STALE = frozenset(
    {Base.ExifImageWidth, Base.ExifImageHeight, Base.SubjectLocation, SUBJECT_AREA}
    | {Base.FocalPlaneXResolution, Base.FocalPlaneYResolution, Base.FocalPlaneResolutionUnit}
    | {Base.CompressedBitsPerPixel, Base.ComponentsConfiguration, Base.MakerNote}
)

# Beginnings of descriptions in which microscope software and tifffile count pixels and frames: they
# would describe the enlarged image with the old size, or as one of many.
COUNTING = ('{"shape":', "ImageJ=", "<?xml", "<OME")


def lasting_exif(exif: bytes | None) -> bytes | None:
    """Return the part of a file's EXIF that still holds once the image is upright and enlarged.

    Description, camera, exposure, dates, author and place are kept. Orientation becomes 1;
    thumbnail, maker's note and all counts of pixels are removed.

    Args:
        exif: The file's EXIF.

    Returns:
        EXIF in the same form; None if nothing is left, or the EXIF is broken.
    """
    if not exif:
        return None

    tags = Image.Exif()
    return lasting_tags(tags, lambda: tags.load(exif))


def lasting_tags(tags: Image.Exif, load: Callable[[], None]) -> bytes | None:
    """Return ``lasting_exif`` of tags that are elsewhere, as among a TIFF's own.

    Args:
        tags: Pillow's, empty so far.
        load: Fills them. What it raises counts as broken EXIF.
    """
    try:
        load()
        return _without_stale_tags(tags)
    except Exception as error:  # cameras write broken EXIF, and Pillow raises anything
        log.debug("broken EXIF is left out: %s", error)
        return None


def _without_stale_tags(tags: Image.Exif) -> bytes | None:
    """Return EXIF of the tags that hold for another size; None if there are none."""
    lasting = Image.Exif()
    for tag in DESCRIPTIVE & tags.keys():
        if tag != Base.ImageDescription or not str(tags[tag]).startswith(COUNTING):
            lasting[tag] = tags[tag]
    details: dict[int, Any] = {}
    for name, value in tags.get_ifd(IFD.Exif).items():
        if name not in STALE and name != IFD.Interop:  # which may be an offset in the old file
            details[name] = value
    with contextlib.suppress(Exception):
        interop = dict(tags.get_ifd(IFD.Interop))
        if interop:
            details[IFD.Interop] = interop
    if details:
        lasting[IFD.Exif] = details
    place = dict(tags.get_ifd(IFD.GPSInfo))
    if place:
        lasting[IFD.GPSInfo] = place
    if not lasting:
        return None
    lasting[Base.Orientation] = UPRIGHT
    return lasting.tobytes()
