"""Every kind of image file gives the right pixels or a reason."""

import errno
import io
import itertools
import os
import re
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
import simplejpeg
import tifffile
from imagecodecs import jpegxl_encode
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image, ImageCms

from files.images.decode import (
    GAIN_MAPS,
    UnreadableImage,
    decode,
    from_pillow,
    read_image,
    read_size,
)
from files.images.profiles import image_of
from tests.datamodules.image_files import chunk, encoded, pixels, png
from tests.datamodules.profiles import (
    SRGB,
    grey_profile,
    ink_profile,
    rgb_profile,
    srgb_of_inks,
    srgb_of_rgb,
)

RGB = pixels((7, 5))
RGB_16 = np.random.default_rng(1).integers(0, 65536, (45, 63, 3), dtype=np.uint16)
PNG = encoded(RGB)
PNG_16 = png(RGB_16, depth=16, colours=2)  # 2: PNG's number of RGB


def exif(orientation):
    tags = Image.Exif()
    tags[0x0112] = orientation  # 1: upright; 6: to be turned by 90 degrees to the right
    return tags


def inserted(png, *chunks):
    """A PNG with chunks after its signature and header, which have 33 bytes."""
    return png[:33] + b"".join(chunks) + png[33:]


def test_a_cmyk_jpeg_of_adobe_is_read_inverted():
    """Inverted, with Adobe's segment: 255 is no ink. Computed here without Pillow."""
    light = np.array([200, 90, 30, 170], np.uint8)
    image = np.broadcast_to(light, (16, 16, 4)).copy()
    data = simplejpeg.encode_jpeg(image, quality=100, colorspace="CMYK")
    assert b"Adobe" in data
    assert_allclose(decode(data, "a").rgb[8, 8], light[:3] * (light[3] / 255), atol=4)


# ---------------------------------------------------------------------------- texts, orientation


@pytest.mark.parametrize(
    ("kind", "header"),
    [
        (b"zTXt", b"workflow\0\0"),  # keyword, and the method of compression
        (b"iTXt", b"history\0\1\0\0\0"),  # also that it is compressed, and no language
    ],
)
def test_a_png_with_much_text_is_read(kind, header):
    """20 MB in a chunk: Pillow's own limit is 1 MB, ours is 64 MB."""
    text = chunk(kind, header + zlib.compress(bytes(20_000_000)))
    assert_array_equal(decode(inserted(PNG, text), "a").rgb, RGB)
    assert_array_equal(decode(inserted(PNG_16, text), "a").rgb, RGB_16)
    assert read_size(io.BytesIO(inserted(PNG, text))) == (7, 5)


def test_a_png_with_a_text_of_more_than_64_mb_is_refused():
    bomb = chunk(b"zTXt", b"history\0\0" + zlib.compress(bytes(70_000_000)))
    with pytest.raises(UnreadableImage, match="unpacks to more than 64 MB") as caught:
        decode(inserted(PNG, bomb), "a")
    assert caught.value.reason == "too large"


TURNED = exif(6).tobytes()
RAW_PROFILE = f"\nexif\n{len(TURNED):8}\n{TURNED.hex()}\n"  # as older versions of ImageMagick write
ORIENTING = {
    "eXIf": chunk(b"eXIf", TURNED.removeprefix(b"Exif\0\0")),
    "raw profile": chunk(
        b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(RAW_PROFILE.encode())
    ),
    "XMP": chunk(b"iTXt", b'XML:com.adobe.xmp\0\0\0\0\0<rdf:Description tiff:Orientation="6"/>'),
}


@pytest.mark.parametrize("orienting", ORIENTING.values(), ids=ORIENTING)
def test_the_size_of_a_png_with_an_orientation_is_that_of_the_turned_image(orienting, tmp_path):
    """Training crops the decoded, oriented image by the header's size."""
    before = inserted(PNG, orienting)
    behind = PNG[:-12] + orienting + PNG[-12:]
    for data in (before, behind):
        (tmp_path / "a.png").write_bytes(data)
        assert_array_equal(read_image(tmp_path / "a.png").rgb, np.rot90(RGB, -1))
        assert read_size(tmp_path / "a.png") == (5, 7)


# --------------------------------------------------------------------------------------- profiles

LITTLE_CMS = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


@pytest.mark.parametrize(
    ("pixels", "space", "kept"),
    [
        pytest.param(RGB, b"RGB ", "icc", id="colour"),
        pytest.param(RGB[..., 0], b"GRAY", "grey_icc", id="grey"),
        pytest.param(RGB, b"GRAY", None, id="of grey in a colour image"),
        pytest.param(RGB, b"Lab ", None, id="of Lab"),
    ],
)
def test_a_profile_of_the_colours_is_kept_and_others_dropped(pixels, space, kept):
    profile = LITTLE_CMS[:16] + space + LITTLE_CMS[20:]  # where ICC's header has the colour space
    image = decode(encoded(pixels, icc_profile=profile), "a")
    assert image.icc == (profile if kept == "icc" else None)
    assert image.grey_icc == (profile if kept == "grey_icc" else None)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF", "AVIF"])
def test_profiles_are_found_in_every_format(kind):
    flat = Image.new("RGB", (16, 16), (200, 60, 90))
    data = encoded(flat, kind, icc_profile=rgb_profile())
    stored = decode(data, "a").rgb
    converted = decode(data, "a", srgb=True)
    assert_allclose(converted.rgb, srgb_of_rgb(stored), atol=1)
    assert converted.icc is None


@pytest.mark.parametrize("kind", ["TIFF", "JPEG"])
def test_cmyk_is_converted_to_srgb_by_its_profile(kind):
    mixtures = np.array([[*itertools.product([0, 1], repeat=4)]])  # (1, 16, 4), of full inks
    inks = mixtures.repeat(16, axis=0).repeat(16, axis=1)  # a square of 16x16 pixels each
    cmyk = image_of((255 * inks).astype(np.uint8), "CMYK")
    options = {"quality": 100, "subsampling": 0} if kind == "JPEG" else {}
    plain = encoded(cmyk, kind, **options)
    data = encoded(cmyk, kind, icc_profile=ink_profile(), **options)

    for srgb in (True, False):  # converted always: CMYK has no RGB without its profile
        assert_allclose(decode(data, "a", srgb).rgb, srgb_of_inks(inks), atol=4)
        assert decode(data, "a", srgb).icc is None
    # Without a profile the colours are others, so the conversion is by the profile.
    assert np.abs(decode(plain, "a").rgb - srgb_of_inks(inks)).max() > 50


def test_the_profile_of_srgb_changes_nothing():
    image = decode(encoded(RGB, icc_profile=LITTLE_CMS), "a", srgb=True)
    assert_array_equal(image.rgb, RGB)


def test_a_profile_of_srgbs_primaries_with_the_exponent_2_2_is_converted():
    """Which is not quite the curve of sRGB."""
    profile = rgb_profile(primaries=SRGB, gamma=2.2)
    image = decode(encoded(RGB, icc_profile=profile), "a", srgb=True)
    assert_allclose(image.rgb, srgb_of_rgb(RGB, primaries=SRGB, gamma=2.2), atol=1)


@pytest.mark.parametrize(
    "profile",
    [
        pytest.param(b"no profile at all", id="text"),
        pytest.param(rgb_profile()[:200], id="cut off"),
        pytest.param(rgb_profile().replace(b"rTRC", b"????"), id="without a curve of red"),
        pytest.param(grey_profile(), id="of grey"),
        pytest.param(ink_profile(), id="of inks"),
    ],
)
def test_a_profile_that_does_not_fit_is_ignored(profile):
    image = decode(encoded(RGB, icc_profile=profile), "a", srgb=True)
    assert_array_equal(image.rgb, RGB)


WIDE_16 = inserted(PNG_16, chunk(b"iCCP", b"wide\0\0" + zlib.compress(rgb_profile())))


def test_16_bits_that_are_not_converted_keep_their_profile():
    stored = decode(WIDE_16, "a")
    assert_array_equal(stored.rgb, RGB_16)
    assert stored.icc == rgb_profile()


def test_16_bits_that_are_converted_to_srgb_become_8_and_are_reported_as_lost():
    converted = decode(WIDE_16, "a", srgb=True)
    in_8_bits = (RGB_16 / 257).round()  # 257 = 65535 / 255
    assert_allclose(converted.rgb, srgb_of_rgb(in_8_bits), atol=1)
    assert converted.rgb.dtype == np.uint8
    assert converted.bit_depth == 8
    assert converted.icc is None
    assert converted.lost == ("bits beyond 8",)


# ------------------------------------------------------------------------------------------- JPEG


def test_of_several_images_in_a_jpeg_the_first_is_read_and_a_gain_map_reported_as_lost():
    """Not so a second image of another kind, such as a preview, which shows the same."""
    black = Image.new("RGB", (9, 9))
    data = encoded(RGB, "MPO", save_all=True, append_images=[black])
    assert_array_equal(decode(data, "a").rgb, Image.open(io.BytesIO(encoded(RGB, "JPEG"))))
    assert decode(data, "a").lost == ()
    for name in GAIN_MAPS:
        assert "gain map" in decode(data + name, "a").lost[0]


def photograph(**options):
    image = Image.fromarray(pixels((9, 9))).resize((160, 120), Image.Resampling.BICUBIC)
    return encoded(image, "JPEG", quality=95, **options)


with_and_without_exif = pytest.mark.parametrize(
    "options", [{}, {"exif": exif(1)}], ids=["plain", "tagged"]
)


@pytest.mark.parametrize(
    "options",
    [{}, {"exif": exif(6)}, {"progressive": True}],
    ids=["plain", "turn", "progressive"],
)
@pytest.mark.parametrize("missing", [1, 2, 1000])
def test_a_jpeg_without_its_end_is_refused(options, missing):
    with pytest.raises(UnreadableImage, match="truncated") as caught:
        decode(photograph(**options)[:-missing], "a")
    assert caught.value.reason == "truncated"


END = b"\xff\xd9"  # the marker at the end of a JPEG


def cut_out(data):
    return data[:2000] + data[2400:]


def with_stray_bytes(data):
    """Zeros before the marker of the quantisation table."""
    return data.replace(b"\xff\xdb", b"\0\0\0\xff\xdb", 1)


@with_and_without_exif
@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(cut_out, id="a part is missing"),
        pytest.param(lambda data: data[:-500] + END, id="its last part is missing"),
        pytest.param(lambda data: data[:-500] + bytes(498) + END, id="its last part is zeros"),
        pytest.param(lambda data: cut_out(with_stray_bytes(data)), id="behind stray bytes"),
    ],
)
def test_a_damaged_jpeg_is_refused(damage, options):
    """Pillow and OpenCV return an image that is grey from there on."""
    with pytest.raises(UnreadableImage, match="Corrupt JPEG data") as caught:
        decode(damage(photograph(**options)), "a")
    assert caught.value.reason == "damaged"


@with_and_without_exif
@pytest.mark.parametrize(
    "change",
    [
        lambda data: data + b"left behind by a camera",
        lambda data: data[:-2] + bytes(40) + END,
        with_stray_bytes,
        lambda data: with_stray_bytes(data)[:-2] + bytes(40) + END,
        lambda data: data.replace(b"\xff\xdb", b"\xff\xff\xff\xdb", 1),  # which is legal
    ],
    ids=["behind the end", "before the end", "before a marker", "at both", "fill bytes"],
)
def test_stray_bytes_that_change_no_pixel_of_a_jpeg_are_allowed(change, options):
    data = photograph(**options)
    assert_array_equal(decode(change(data), "a").rgb, decode(data, "a").rgb)


# --------------------------------------------------------------------------------------- bad input


def size_in_png(png, width, height):
    header = b"IHDR" + struct.pack(">II", width, height) + png[24:29]
    return png[:12] + header + struct.pack(">I", zlib.crc32(header)) + png[33:]


def in_frame_header(jpeg, offset, value):
    """Change bytes after the marker of a JPEG's frame header: its precision and size."""
    at = jpeg.index(b"\xff\xc0") + offset
    return jpeg[:at] + value + jpeg[at + len(value) :]


def tiff(**options):
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, RGB_16, photometric="rgb", **options)
    return buffer.getvalue()


def taller(tiff, **others):
    """A TIFF that claims to have twice its rows, and other tags."""
    file = io.BytesIO(tiff)
    with tifffile.TiffFile(file, mode="r+") as opened:
        tags = opened.pages.first.tags
        tags["ImageLength"].overwrite(2 * tags["ImageLength"].value)
        for name, value in others.items():
            tags[name].overwrite(value)
        return file.getvalue()


def first_scans(count):
    """A progressive JPEG that ends, as if whole, after some of its scans."""
    data = photograph(progressive=True)
    starts = [match.start() for match in re.finditer(b"\xff\xda", data)]
    return data[: starts[count]] + END


LARGE = Image.fromarray(RGB).resize((64, 64))
LARGE_PNG = encoded(pixels((64, 64)))
LARGE_JPEG = encoded(LARGE, "JPEG")
LARGE_TIFF = encoded(LARGE, "TIFF")
JPEG_TIFF = encoded(LARGE, "TIFF", compression="jpeg")
HUGE = struct.pack(">HH", 60000, 60000)
BAD = {
    "empty": (b"", "empty"),
    "text": (b"hello world\n" * 9, "not an image"),
    "truncated png": (LARGE_PNG[:4000], "truncated"),
    "truncated 16-bit png": (PNG_16[:9000], "truncated"),
    "damaged 16-bit png": (PNG_16[:-16] + bytes(16), "damaged"),
    "damaged png": (LARGE_PNG[:5000] + b"?" + LARGE_PNG[5001:], "damaged"),
    "png that ends in zeros": (LARGE_PNG[:-40] + bytes(40), "damaged"),
    "truncated header": (LARGE_PNG[:20], "truncated"),
    "truncated jpeg": (LARGE_JPEG[:900], "truncated"),
    "damaged webp": (encoded(LARGE, "WEBP").replace(b"VP8 ", b"VP9 "), "damaged"),
    "truncated tiff": (LARGE_TIFF[:4000], "truncated"),
    "truncated 16-bit tiff": (tiff(compression="zlib")[:-2000], "truncated"),
    "truncated gif": (encoded(LARGE, "GIF")[:-300], "truncated"),
    "truncated avif": (encoded(LARGE, "AVIF")[:-100], "truncated"),
    "truncated jpeg xl": (jpegxl_encode(np.asarray(LARGE))[:-100], "damaged"),
    "bomb": (size_in_png(LARGE_PNG, 60000, 60000), "too large"),
    "jpeg bomb": (in_frame_header(LARGE_JPEG, 5, HUGE), "too large"),
    "half png": (size_in_png(LARGE_PNG, 64, 128), "truncated"),
    "missing strips": (taller(LARGE_TIFF), "truncated"),
    "missing tiles": (taller(tiff(tile=(16, 16))), "truncated"),
    "short strip": (taller(JPEG_TIFF, RowsPerStrip=128), "truncated"),
    "first scans": (first_scans(9), "truncated"),
    "eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image"),
    "12-bit jpeg": (in_frame_header(LARGE_JPEG, 4, b"\x0c"), "unsupported"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_file_is_refused_with_a_reason(case):
    data, reason = BAD[case]
    with pytest.raises(UnreadableImage, match=r"^bad/a\.jpg: ") as caught:
        decode(data, "bad/a.jpg")
    assert caught.value.reason == reason


@pytest.mark.parametrize("case", ["bomb", "jpeg bomb"])
def test_a_bomb_is_refused_before_memory_is_taken(case):
    data, _ = BAD[case]

    tracemalloc.start()
    with pytest.raises(UnreadableImage):
        decode(data, "a")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert peak < 10_000_000  # bytes; the 60000x60000 pixels would take 10.8 GB


@pytest.mark.parametrize("case", ["half png", "missing strips", "truncated jpeg", "first scans"])
def test_a_bad_file_that_pillow_opened_is_refused(case):
    data, _ = BAD[case]
    with pytest.raises(UnreadableImage) as caught:
        from_pillow(Image.open(io.BytesIO(data)))
    assert caught.value.reason == "truncated"


@pytest.mark.parametrize("read", [read_image, read_size])
def test_a_named_pipe_is_refused_instead_of_waited_for(read, tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(UnreadableImage, match="not a regular file") as caught:
        read(tmp_path / "pipe.png")
    assert caught.value.reason == "not a file"


@pytest.mark.parametrize("read", [read_image, read_size])
def test_a_forbidden_file_is_not_called_missing(read, tmp_path, monkeypatch):
    def refuse(path):  # permissions would not do: root may read any file
        raise PermissionError(errno.EACCES, "Permission denied", path)

    monkeypatch.setattr("files.paths.check_regular", refuse)
    with pytest.raises(UnreadableImage, match="Permission denied") as caught:
        read(tmp_path / "a.png")
    assert caught.value.reason == "unreadable"
