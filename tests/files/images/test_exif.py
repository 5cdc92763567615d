"""EXIF that is kept: tags that describe the image, none that describe the old file."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
from PIL import Image
from PIL.ExifTags import GPS, IFD, Base

from files.images.decode import decode
from files.images.exif import lasting_exif

IMAGE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 10, 3)).astype(np.uint8))
KEPT = {Base.Make: "Maker", Base.Artist: "Somebody", Base.DateTime: "2020:01:02 03:04:05"}
DETAILS = {
    Base.ExposureTime: 0.01,
    Base.DateTimeOriginal: "2020:01:02 03:04:05",
    Base.UserComment: b"ASCII\0\0\0x",
}
STALE = {
    **{Base.ExifImageWidth: 10, Base.ExifImageHeight: 8, 0x9214: (5, 4)},
    Base.MakerNote: b"places in the file",
}
PLACE = {GPS.GPSLatitudeRef: "N", GPS.GPSLatitude: (1.0, 2.0, 3.0)}
INTEROP = {1: "R03"}


def written():
    tags = Image.Exif()
    for tag, value in {**KEPT, Base.Orientation: 6}.items():
        tags[tag] = value
    tags[IFD.Exif] = {**DETAILS, **STALE, IFD.Interop: INTEROP}
    tags[IFD.GPSInfo] = PLACE
    return tags.tobytes()


def read(exif):
    tags = Image.Exif()
    tags.load(exif)
    first = {k: v for k, v in tags.items() if k not in (IFD.Exif, IFD.GPSInfo)}
    details = dict(tags.get_ifd(IFD.Exif))
    interop = dict(tags.get_ifd(IFD.Interop)) if details.pop(IFD.Interop, None) else {}
    return first, details, dict(tags.get_ifd(IFD.GPSInfo)), interop


def check(exif, known_interop=INTEROP):
    first, details, place, interop = read(exif)
    assert first == {**KEPT, Base.Orientation: 1}
    assert details == DETAILS
    assert place == PLACE
    assert interop == known_interop


def test_what_describes_the_image_is_kept():
    check(lasting_exif(written()))
    check(lasting_exif(lasting_exif(written())))


def test_a_description_that_counts_pixels_is_left_out():
    tags = Image.Exif()
    tags.load(written())
    tags[Base.ImageDescription] = "ImageJ=1.11a\nimages=9\nslices=9"
    first, details, _, _ = read(lasting_exif(tags.tobytes()))
    assert first == {**KEPT, Base.Orientation: 1}
    assert details == DETAILS


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_exif_of_every_format_is_kept(kind):
    buffer = io.BytesIO()
    IMAGE.save(buffer, kind, exif=written())
    # Pillow's TIFFs have a wrong offset of the last directory, which must not affect the others.
    interop = {} if kind == "TIFF" else INTEROP
    check(lasting_exif(decode(buffer.getvalue(), "a").exif), interop)


def test_a_thumbnail_is_left_out():
    thumbnail = bytes(20_000)
    exif = written()
    tiff = exif[6:]
    order = "<" if tiff[:2] == b"II" else ">"
    (count,) = struct.unpack_from(order + "H", tiff, 8)
    pointer = 10 + 12 * count  # to the second directory, which holds thumbnails
    second = struct.pack(
        order + "HHHIIHHIII", 2, 0x201, 4, 1, len(tiff) + 30, 0x202, 4, 1, 20_000, 0
    )
    linked = tiff[:pointer] + struct.pack(order + "I", len(tiff)) + tiff[pointer + 4 :]
    exif = exif[:6] + linked + second + thumbnail
    tags = Image.Exif()
    tags.load(exif)
    assert tags.get_ifd(IFD.IFD1)[0x202] == 20_000  # it is there
    check(lasting_exif(exif))
    assert len(lasting_exif(exif)) < 1000


@pytest.mark.parametrize("exif", [None, b"", b"Exif\0\0", b"Exif\0\0MM\0*\xff\xff\xff\xff", b"x"])
@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")  # Pillow's
def test_broken_or_missing_exif_is_none(exif):
    assert lasting_exif(exif) is None
