"""Colours of files from tags other than a profile, against formulas without a colour library."""

from __future__ import annotations

import io
import struct

import cv2
import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image, ImageCms

from files.images.decode import decode, from_pillow
from files.images.encoders import with_chunks
from tests.datamodules.profiles import WIDE, rgb_profile, srgb_of_grey, srgb_of_rgb, srgb_of_xyz

RGB = np.random.default_rng(0).integers(20, 256, (6, 8, 3), dtype=np.uint8)
Floats = NDArray[np.floating]
DISPLAY_P3 = WIDE  # its primaries
P3_CORNERS = (31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000)


def png(*chunks: bytes, pixels: NDArray[np.uint8] = RGB, **options: bytes) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", **options)
    return with_chunks(buffer.getvalue(), *chunks)


def png_16(*chunks: bytes) -> bytes:
    return with_chunks(
        cv2.imencode(".png", RGB[..., ::-1].astype(np.uint16) * 257)[1].tobytes(), *chunks
    )


def avif(primaries: int, transfer: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16), (200, 60, 90)).save(buffer, "AVIF", quality=100)
    data = buffer.getvalue()
    at = data.find(b"nclx") + 4
    return data[:at] + struct.pack(">HH", primaries, transfer) + data[at + 4 :]


def gama(value: int) -> bytes:
    return b"gAMA" + struct.pack(">I", value)


def chrm(*values: int) -> bytes:
    return b"cHRM" + struct.pack(">8I", *values)


def cicp(*points: int) -> bytes:
    return b"cICP" + bytes(points)


def p3(rgb: NDArray[np.uint8]) -> Floats:
    """Display P3 has the curve of sRGB."""
    levels = rgb / 255
    linear = np.where(levels <= 0.04045, levels / 12.92, ((levels + 0.055) / 1.055) ** 2.4)
    return srgb_of_xyz(linear @ DISPLAY_P3.T)


def linear_light(rgb: NDArray[np.uint8]) -> Floats:
    return srgb_of_grey(rgb[..., 0], 1) if (rgb == rgb[..., :1]).all() else linear_srgb(rgb)


def linear_srgb(rgb: NDArray[np.uint8]) -> Floats:
    return np.where(
        rgb / 255 <= 0.0031308, 12.92 * rgb, 255 * (1.055 * (rgb / 255) ** (1 / 2.4) - 0.055)
    )


def as_stored(rgb: NDArray[np.uint8]) -> Floats:
    return rgb.astype(float)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        pytest.param(png(gama(100000)), linear_srgb, id="gAMA"),
        pytest.param(png(gama(100000), pixels=RGB[..., 0]), linear_light, id="gAMA of grey"),
        pytest.param(png_16(gama(100000)), linear_srgb, id="gAMA of 16 bits"),
        pytest.param(png(gama(45455)), as_stored, id="gAMA of sRGB"),
        pytest.param(png(gama(0)), as_stored, id="gAMA that is broken"),
        pytest.param(png(b"sRGB\0", gama(100000)), as_stored, id="sRGB before gAMA"),
        pytest.param(png(gama(45455), chrm(*P3_CORNERS)), p3, id="cHRM"),
        pytest.param(png(chrm(*8 * [0])), as_stored, id="cHRM that is broken"),
        pytest.param(
            png(gama(100000), icc_profile=rgb_profile()), srgb_of_rgb, id="iCCP before gAMA"
        ),
        pytest.param(png(cicp(12, 13, 0, 1)), p3, id="cICP"),
        pytest.param(png_16(cicp(12, 13, 0, 1)), p3, id="cICP of 16 bits"),
        pytest.param(
            png(cicp(1, 13, 0, 1), icc_profile=rgb_profile()), as_stored, id="cICP before iCCP"
        ),
        pytest.param(avif(12, 13), p3, id="nclx"),
        pytest.param(avif(1, 1), as_stored, id="nclx of BT.709"),
        pytest.param(avif(2, 2), as_stored, id="nclx that says nothing"),
    ],
)
def test_levels_are_shown_as_the_tags_say(data, expected):
    """In training, in metrics, and in a viewer that applies the profile of `predict`'s output."""
    stored = decode(data, "a")
    step = 257 if stored.bit_depth == 16 else 1
    levels = (stored.rgb // step).astype(np.uint8)
    shown = expected(levels)
    converted = decode(data, "a", srgb=True).rgb  # of 8 bits, unless nothing is to be done
    np.testing.assert_allclose(converted / (257 if converted.itemsize == 2 else 1), shown, atol=2)
    assert stored.cicp is None
    icc = stored.icc or stored.grey_icc
    assert (icc is None) == (expected is as_stored)
    if icc is not None:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(icc))
        image = Image.fromarray(levels if stored.icc else levels[..., 0])
        transform = ImageCms.buildTransform(
            profile, ImageCms.createProfile("sRGB"), image.mode, "RGB"
        )
        np.testing.assert_allclose(np.asarray(transform.apply(image)), shown, atol=2)


@pytest.mark.parametrize(
    ("data", "points"),
    [
        (png(cicp(9, 16, 0, 1)), (9, 16, 0, 1)),  # PQ
        (png(cicp(9, 14, 0, 0), icc_profile=rgb_profile()), (9, 14, 0, 0)),  # of narrow range
        (avif(9, 18), (9, 18, 0, 1)),  # HLG
    ],
)
def test_colours_without_a_profile_keep_their_code_points(data, points):
    image = decode(data, "a")
    assert image.cicp == bytes(points)
    assert image.icc is None


def test_an_image_opened_by_pillow_has_the_tags_of_its_file(tmp_path):
    (tmp_path / "a.avif").write_bytes(avif(12, 13))
    expected = decode((tmp_path / "a.avif").read_bytes(), "a")
    found = from_pillow(Image.open(tmp_path / "a.avif"))
    assert found.icc == expected.icc is not None


# ------------------------------------------------------------------------- several frames or pages
SMALL = RGB[::2, ::2]


def tiff(*pages: tuple[NDArray[np.uint8] | NDArray[np.uint16], int]) -> bytes:
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer) as file:
        for number, (pixels, kind) in enumerate(pages):
            icc = None if number else rgb_profile()
            file.write(pixels, photometric="rgb", subfiletype=kind, iccprofile=icc)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("pages", "page", "more"),
    [
        ([(RGB, 0)], 0, False),
        ([(RGB, 0), (SMALL, 1)], 0, False),  # a pyramid
        ([(SMALL, 1), (RGB, 0)], 1, False),
        ([(SMALL, 1), (RGB.astype(np.uint16), 0)], 1, False),
        ([(SMALL, 1), (SMALL[:2], 1), (RGB, 0), (RGB, 0)], 2, True),
        ([(RGB, 0), (RGB, 0)], 0, True),
        ([(RGB, 1)], 0, False),
    ],
)
def test_a_thumbnail_before_the_image_is_not_the_image(pages, page, more):
    image = decode(tiff(*pages), "a")
    np.testing.assert_array_equal(image.rgb, pages[page][0])
    assert (image.lost != ()) is more
    assert (image.icc is None) == (page > 0)  # the first one has a profile
