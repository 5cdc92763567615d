"""EXIF that is kept: tags that describe the image, none that describe the old file."""

import struct

import pytest
from PIL import Image
from PIL.ExifTags import GPS, IFD, Base

from files.images.decode import decode
from files.images.exif import lasting_exif
from tests.datamodules.image_files import encoded, pixels

DATE = "2020:01:02 03:04:05"
KEPT = {Base.Make: "Maker", Base.Artist: "Somebody", Base.DateTime: DATE}
DETAILS = {Base.ExposureTime: 0.01, Base.DateTimeOriginal: DATE}
STALE = {
    Base.ExifImageWidth: 10,
    Base.ExifImageHeight: 8,
    Base.MakerNote: b"places in the file",
    0x9214: (5, 4),  # the subject's place
}
PLACE = {GPS.GPSLatitudeRef: "N", GPS.GPSLatitude: (1.0, 2.0, 3.0)}
INTEROP = {1: "R03"}


def written(**more):
    tags = Image.Exif()
    tags.update({**KEPT, Base.Orientation: 6})
    tags[IFD.Exif] = {**DETAILS, **STALE, IFD.Interop: INTEROP}
    tags[IFD.GPSInfo] = PLACE
    for name, value in more.items():
        tags[Base[name]] = value
    return tags.tobytes()


def check(exif, interop=INTEROP):
    """All of it is kept that describes the image, and nothing else."""
    tags = Image.Exif()
    tags.load(exif)
    first = dict(tags)
    details = dict(tags.get_ifd(IFD.Exif))
    assert dict(tags.get_ifd(IFD.Interop)) == interop
    assert dict(tags.get_ifd(IFD.GPSInfo)) == PLACE
    details.pop(IFD.Interop, None)
    assert details == DETAILS
    del first[IFD.Exif]
    del first[IFD.GPSInfo]
    assert first == {**KEPT, Base.Orientation: 1}


def test_what_describes_the_image_is_kept():
    check(lasting_exif(written()))
    check(lasting_exif(lasting_exif(written())))


def test_a_description_that_counts_pixels_is_left_out():
    check(lasting_exif(written(ImageDescription="ImageJ=1.11a\nimages=9\nslices=9")))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_exif_of_every_format_is_kept(kind):
    data = encoded(pixels(), kind, exif=written())
    # Pillow's TIFFs have a wrong offset of the last directory, which must not affect the others.
    check(lasting_exif(decode(data, "a").exif), {} if kind == "TIFF" else INTEROP)


def test_a_thumbnail_is_left_out():
    begin, tiff = written()[:6], written()[6:]
    order = "<" if tiff[:2] == b"II" else ">"
    (count,) = struct.unpack_from(order + "H", tiff, 8)
    pointer = 10 + 12 * count  # to the second directory, which holds thumbnails
    entries = (2, 0x201, 4, 1, len(tiff) + 30, 0x202, 4, 1, 20_000, 0)
    second = struct.pack(order + "HHHIIHHIII", *entries)
    linked = tiff[:pointer] + struct.pack(order + "I", len(tiff)) + tiff[pointer + 4 :]
    exif = begin + linked + second + bytes(20_000)
    tags = Image.Exif()
    tags.load(exif)
    assert tags.get_ifd(IFD.IFD1)[0x202] == 20_000  # it is there

    check(lasting_exif(exif))
    assert len(lasting_exif(exif)) < 1000


@pytest.mark.parametrize("exif", [None, b"", b"Exif\0\0", b"Exif\0\0MM\0*\xff\xff\xff\xff", b"x"])
@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")  # Pillow's
def test_broken_or_missing_exif_is_none(exif):
    assert lasting_exif(exif) is None
