"""Colours of files from tags other than a profile, against formulas without a colour library."""

import io
import struct

import numpy as np
import pytest
import tifffile
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image, ImageCms

from files.images.decode import decode, from_pillow
from files.images.encoders import png_of_16_bits, with_chunks
from tests.datamodules.image_files import encoded
from tests.datamodules.profiles import WIDE, rgb_profile, srgb_of_rgb, srgb_of_xyz

RGB = np.random.default_rng(0).integers(20, 256, (6, 8, 3), dtype=np.uint8)
GREY = RGB[..., 0]


def png(*chunks, pixels=RGB, **options):
    return with_chunks(encoded(pixels, **options), *chunks)


def png_16(*chunks):
    return with_chunks(png_of_16_bits(RGB.astype(np.uint16) * 257), *chunks)


def avif(primaries, transfer):
    """An AVIF with these code points instead of its own."""
    data = encoded(Image.new("RGB", (16, 16), (200, 60, 90)), "AVIF", quality=100)
    at = data.find(b"nclx") + 4
    return data[:at] + struct.pack(">HH", primaries, transfer) + data[at + 4 :]


def gama(value):
    """The chunk of PNG: the exponent from light to levels, in 1/100,000."""
    return b"gAMA" + struct.pack(">I", value)


def cicp(*points):
    """Primaries, transfer, matrix and range (ITU-T H.273).

    12, 13: those of Display P3. 0, 1: RGB of the full range, as an AVIF is decoded to, too.
    """
    return b"cICP" + bytes(points)


# x and y of white, red, green and blue, in 1/100,000 (here of Display P3).
P3_CORNERS = (31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000)
P3_CHRM = b"cHRM" + struct.pack(">8I", *P3_CORNERS)
BROKEN_CHRM = b"cHRM" + bytes(32)


def display_p3(rgb):
    """By the curve of sRGB and the primaries of Display P3, which `WIDE` has."""
    levels = rgb / 255
    linear = np.where(levels <= 0.04045, levels / 12.92, ((levels + 0.055) / 1.055) ** 2.4)
    return srgb_of_xyz(linear @ WIDE.T)


def linear_light(rgb):
    """Levels that are light itself, with the curve of sRGB put on."""
    levels = rgb / 255
    curved = 1.055 * levels ** (1 / 2.4) - 0.055
    return 255 * np.where(levels <= 0.0031308, 12.92 * levels, curved)


def as_stored(rgb):
    return rgb


TAGS = {
    "gAMA": (png(gama(100000)), linear_light),
    "gAMA of grey": (png(gama(100000), pixels=GREY), linear_light),
    "gAMA of 16 bits": (png_16(gama(100000)), linear_light),
    "gAMA of sRGB": (png(gama(45455)), as_stored),  # 1 / 2.2, which PNG has for sRGB
    "gAMA that is broken": (png(gama(0)), as_stored),
    "sRGB before gAMA": (png(b"sRGB\0", gama(100000)), as_stored),
    "cHRM": (png(gama(45455), P3_CHRM), display_p3),
    "cHRM that is broken": (png(BROKEN_CHRM), as_stored),
    "iCCP first": (png(gama(100000), icc_profile=rgb_profile()), srgb_of_rgb),
    "cICP": (png(cicp(12, 13, 0, 1)), display_p3),
    "cICP of 16 bits": (png_16(cicp(12, 13, 0, 1)), display_p3),
    "cICP first": (png(cicp(1, 13, 0, 1), icc_profile=rgb_profile()), as_stored),
    "nclx": (avif(12, 13), display_p3),
    "nclx of BT.709": (avif(1, 1), as_stored),
    "nclx that says nothing": (avif(2, 2), as_stored),  # 2: unspecified
}


of_each_tag = pytest.mark.parametrize(("data", "expected"), TAGS.values(), ids=TAGS)


def levels_of(rgb):
    """In 8 bits; those of 16 bits are multiples of 257 here, as `png_16` writes them."""
    return (rgb // 257).astype(np.uint8) if rgb.dtype == np.uint16 else rgb


@of_each_tag
def test_in_srgb_an_image_has_the_colours_that_its_tags_say(data, expected):
    """As training and metrics read it, which take all levels for those of sRGB."""
    stored = levels_of(decode(data, "a").rgb)
    converted = levels_of(decode(data, "a", srgb=True).rgb)
    assert_allclose(converted, expected(stored), atol=2)


@of_each_tag
def test_a_viewer_that_applies_the_profile_shows_the_colours_that_the_tags_say(data, expected):
    """`predict` writes that profile into its output, which has no other tags of colours."""
    image = decode(data, "a")
    icc = image.icc or image.grey_icc
    assert image.cicp is None  # kept only where no profile can be made
    assert (icc is None) == (expected is as_stored)
    if icc is not None:
        levels = levels_of(image.rgb)
        pixels = Image.fromarray(levels if image.icc else levels[..., 0])
        srgb = ImageCms.createProfile("sRGB")
        viewed = ImageCms.profileToProfile(pixels, io.BytesIO(icc), srgb, outputMode="RGB")
        assert_allclose(np.asarray(viewed), expected(levels), atol=2)


@pytest.mark.parametrize(
    ("data", "points"),
    [
        (png(cicp(9, 16, 0, 1)), (9, 16, 0, 1)),
        (png(cicp(9, 14, 0, 0), icc_profile=rgb_profile()), (9, 14, 0, 0)),
        (avif(9, 18), (9, 18, 0, 1)),
    ],
    ids=["BT.2020, PQ", "narrow range", "BT.2020, HLG"],
)
def test_colours_of_which_no_profile_can_be_made_keep_their_code_points(data, points):
    image = decode(data, "a")
    assert image.cicp == bytes(points)
    assert image.icc is None


def test_an_image_opened_by_pillow_has_the_tags_of_its_file():
    data = avif(12, 13)  # Display P3 as code points, which Pillow does not hand on
    opened = from_pillow(Image.open(io.BytesIO(data)))
    assert opened.icc is not None
    assert opened.icc == decode(data, "a").icc


# ------------------------------------------------------------------------- several frames or pages

WHOLE = 0  # values of NewSubfileType of TIFF
REDUCED = 1
SMALL = RGB[::2, ::2]
RGB_16 = RGB.astype(np.uint16)


def tiff(pages):
    """Pages with their types; the first one has a profile."""
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer) as file:
        for number, (pixels, kind) in enumerate(pages):
            icc = None if number else rgb_profile()
            file.write(pixels, photometric="rgb", subfiletype=kind, iccprofile=icc)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("pages", "page", "more"),
    [
        pytest.param([(RGB, WHOLE)], 0, False, id="one page"),
        pytest.param([(RGB, WHOLE), (SMALL, REDUCED)], 0, False, id="a pyramid"),
        pytest.param([(SMALL, REDUCED), (RGB, WHOLE)], 1, False, id="a thumbnail first"),
        pytest.param([(SMALL, REDUCED), (RGB_16, WHOLE)], 1, False, id="before 16 bits"),
        pytest.param([(SMALL, REDUCED)] * 2 + [(RGB, WHOLE)] * 2, 2, True, id="two and two"),
        pytest.param([(RGB, REDUCED)], 0, False, id="a reduced page alone"),
    ],
)
def test_the_first_page_of_a_tiff_that_is_no_thumbnail_is_read(pages, page, more):
    image = decode(tiff(pages), "a")
    assert_array_equal(image.rgb, pages[page][0])
    assert (image.lost != ()) is more  # further whole pages; reduced ones are no loss
    assert (image.icc is None) == (page > 0)  # page 0 alone has a profile
