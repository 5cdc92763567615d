"""EXIF that is kept: tags that describe the image, none that describe the old file."""

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
    0x9214: (5, 4),  # SubjectArea, in pixels
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


def check(exif, has_interop=True):
    """All of it is kept that describes the image, and nothing else; pixels are upright (1) now."""
    tags = Image.Exif()
    tags.load(exif)
    others = dict(tags)
    details = dict(tags.get_ifd(IFD.Exif))
    assert (details.pop(IFD.Interop, None) is not None) == has_interop
    assert dict(tags.get_ifd(IFD.GPSInfo)) == PLACE
    assert details == DETAILS
    del others[IFD.Exif]
    del others[IFD.GPSInfo]
    assert others == {**KEPT, Base.Orientation: 1}


def test_tags_that_describe_the_image_are_kept_and_others_dropped():
    check(lasting_exif(written()))
    check(lasting_exif(lasting_exif(written())))  # what is kept stays when it is kept again


def test_a_description_that_counts_the_images_of_the_file_is_left_out():
    check(lasting_exif(written(ImageDescription="ImageJ=1.11a\nimages=9\nslices=9")))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_exif_of_every_format_is_kept(kind):
    data = encoded(pixels(), kind, exif=written())
    # Pillow's TIFFs have a wrong offset of the last directory, which must not affect the others.
    check(lasting_exif(decode(data, "a").exif), has_interop=kind != "TIFF")


@pytest.mark.parametrize("exif", [None, b"", b"Exif\0\0", b"Exif\0\0MM\0*\xff\xff\xff\xff", b"x"])
@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")  # Pillow's
def test_broken_or_missing_exif_is_none(exif):
    assert lasting_exif(exif) is None
