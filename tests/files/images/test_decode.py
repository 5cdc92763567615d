"""Every kind of image file gives the right pixels or a reason."""

from __future__ import annotations

import errno
import io
import os
import re
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
import simplejpeg
import tifffile
from imagecodecs import jpeg2k_encode, jpegxl_encode
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
from tests.datamodules.image_files import chunk, encoded, png
from tests.datamodules.profiles import (
    SRGB,
    grey_profile,
    ink_profile,
    rgb_profile,
    srgb_of_inks,
    srgb_of_rgb,
)

RGB = np.random.default_rng(0).integers(0, 256, (5, 7, 3)).astype(np.uint8)
RGB_16 = np.random.default_rng(1).integers(0, 65536, (5, 7, 3)).astype(np.uint16)
LARGE_16 = np.random.default_rng(5).integers(0, 65536, (45, 63, 3)).astype(np.uint16)


def exif(orientation):
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


# ------------------------------------------------------------------------------------------- 8 bits


def test_cmyk_jpeg_as_adobe_writes_it():
    """Inverted, with Adobe's segment: 255 is no ink. Computed here without Pillow."""
    inks = np.random.default_rng(6).integers(0, 256, (1, 1, 4)).astype(np.uint8)
    data = simplejpeg.encode_jpeg(
        np.broadcast_to(255 - inks, (16, 16, 4)).copy(), quality=100, colorspace="CMYK"
    )
    assert b"Adobe" in data
    light = 255 - inks[0, 0].astype(float)
    expected = light[:3] * light[3] / 255
    np.testing.assert_allclose(decode(data, "a").rgb[8, 8], expected, atol=4)


# ------------------------------------------------------------------------- orientation and profiles


def orienting_chunk(kind):
    """Return a PNG's orientation metadata in one of three forms."""
    tags = exif(6).tobytes()
    if kind == "eXIf":
        return chunk(b"eXIf", tags.removeprefix(b"Exif\0\0"))
    if kind == "raw profile":  # as older versions of ImageMagick write
        text = f"\nexif\n{len(tags):8}\n{tags.hex()}\n".encode()
        return chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(text))
    packet = b'<rdf:Description tiff:Orientation="6"/>'
    return chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + packet)


def inserted(data, chunks, late=False):
    at = data.rfind(b"IEND") - 4 if late else 33
    return data[:at] + chunks + data[at:]


TEXTS = {
    "compressed": (b"zTXt", b"workflow\0\0"),
    "international": (b"iTXt", b"history\0\1\0\0\0"),
    "EXIF": (b"zTXt", b"Raw profile type exif\0\0"),
}


@pytest.mark.parametrize("kind", TEXTS)
@pytest.mark.parametrize("deep", [False, True])
def test_texts_of_a_png_have_no_say_in_its_pixels(kind, deep):
    """Pillow's own limit is 1 MB of text in a chunk."""
    name, begin = TEXTS[kind]
    whole = png(RGB_16, 16, 2) if deep else encoded(Image.fromarray(RGB))
    data = inserted(whole, chunk(name, begin + zlib.compress(bytes(20_000_000))))
    np.testing.assert_array_equal(decode(data, "a").rgb, RGB_16 if deep else RGB)
    assert read_size(io.BytesIO(data)) == (7, 5)


def test_a_text_that_expands_to_a_bomb_is_refused():
    bomb = chunk(b"zTXt", b"history\0\0" + zlib.compress(bytes(70_000_000)))
    with pytest.raises(UnreadableImage, match="unpacks to more than 64 MB") as caught:
        decode(inserted(encoded(Image.fromarray(RGB)), bomb), "a")
    assert caught.value.reason == "too large"


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("kind", ["eXIf", "raw profile", "XMP"])
def test_the_size_of_a_png_that_lies_on_its_side_is_the_turned_one(kind, late, tmp_path):
    """Training crops the decoded, oriented image by the header's size."""
    path = tmp_path / "a.png"
    path.write_bytes(inserted(encoded(Image.fromarray(RGB)), orienting_chunk(kind), late))
    np.testing.assert_array_equal(read_image(path).rgb, np.rot90(RGB, -1))
    assert read_size(path) == (5, 7)


def test_size_of_a_tiff_that_lies_on_its_side():
    data = encoded(Image.fromarray(RGB), "TIFF", tiffinfo={274: 6, 700: b"<x:xmpmeta/>"})
    np.testing.assert_array_equal(decode(data, "a").rgb, np.rot90(RGB, -1))
    assert read_size(io.BytesIO(data)) == (5, 7)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")  # Pillow's
def test_broken_exif_is_ignored():
    data = encoded(Image.fromarray(RGB), exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")
    np.testing.assert_array_equal(decode(data, "a").rgb, RGB)


def test_rgb_profile_is_kept_and_others_dropped():
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert decode(encoded(Image.fromarray(RGB), icc_profile=srgb), "a").icc == srgb
    grey = srgb[:16] + b"GRAY" + srgb[20:]
    image = decode(encoded(Image.fromarray(RGB[..., 0]), icc_profile=grey), "a")
    assert image.icc is None
    assert image.grey_icc == grey
    assert decode(encoded(Image.fromarray(RGB), icc_profile=grey), "a").grey_icc is None
    lab = srgb[:16] + b"Lab " + srgb[20:]
    image = decode(encoded(Image.fromarray(RGB), icc_profile=lab), "a")
    assert image.icc is None
    assert image.grey_icc is None


# ------------------------------------------------------------------------------- profiles to sRGB


def test_an_rgb_profile_is_converted_to_srgb():
    data = encoded(Image.fromarray(RGB), icc_profile=rgb_profile())
    image = decode(data, "a", srgb=True)
    np.testing.assert_allclose(image.rgb, srgb_of_rgb(RGB), atol=1)
    assert np.abs(image.rgb.astype(int) - RGB).max() > 20
    assert image.icc is None


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "TIFF", "AVIF"])
def test_profiles_are_found_in_every_format(kind):
    flat = Image.new("RGB", (16, 16), (200, 60, 90))
    data = encoded(flat, kind, icc_profile=rgb_profile())
    stored = decode(data, "a").rgb
    np.testing.assert_allclose(decode(data, "a", srgb=True).rgb, srgb_of_rgb(stored), atol=1)


@pytest.mark.parametrize("kind", ["TIFF", "JPEG"])
def test_a_cmyk_profile_is_converted_to_srgb(kind):
    mixtures = np.array(np.meshgrid(*[[0, 1]] * 4)).reshape(1, 4, -1).transpose(0, 2, 1)
    inks = np.kron(mixtures, np.ones((16, 16, 1), int))  # 16 squares of flat colour
    cmyk = image_of((255 * inks).astype(np.uint8), "CMYK")
    options = {"quality": 100, "subsampling": 0} if kind == "JPEG" else {}
    data = encoded(cmyk, kind, icc_profile=ink_profile(), **options)
    for srgb in (True, False):  # CMYK has no RGB without a profile
        image = decode(data, "a", srgb)
        np.testing.assert_allclose(image.rgb, srgb_of_inks(inks), atol=4)
        assert (image.icc, image.grey_icc) == (None, None)
    plain = encoded(cmyk, kind, **options)
    assert np.abs(decode(plain, "a").rgb - srgb_of_inks(inks)).max() > 50


def test_srgb_in_any_wording_changes_nothing():
    little_cms = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for profile in (little_cms, rgb_profile(SRGB, 2.2)):
        image = decode(encoded(Image.fromarray(RGB), icc_profile=profile), "a", srgb=True)
        assert (np.abs(image.rgb.astype(int) - RGB).max() == 0) == (profile == little_cms)


@pytest.mark.parametrize(
    "profile",
    [
        b"no profile at all",
        rgb_profile()[:200],
        rgb_profile().replace(b"rTRC", b"????"),
        grey_profile(),  # of a colour image
        ink_profile(),
    ],
)
def test_a_profile_that_does_not_fit_is_ignored(profile):
    image = decode(encoded(Image.fromarray(RGB), icc_profile=profile), "a", srgb=True)
    np.testing.assert_array_equal(image.rgb, RGB)


def test_16_bits_keep_their_profile_or_are_converted_as_8_bits():
    embedded = chunk(b"iCCP", b"wide\0\0" + zlib.compress(rgb_profile()))
    image = decode(png(RGB_16, 16, 2, False, embedded), "a")
    np.testing.assert_array_equal(image.rgb, RGB_16)
    assert image.icc == rgb_profile()
    image = decode(png(RGB_16, 16, 2, False, embedded), "a", srgb=True)
    np.testing.assert_allclose(image.rgb, srgb_of_rgb(RGB_16 / 257), atol=3)
    assert (image.icc, image.bit_depth, image.rgb.dtype) == (None, 8, np.uint8)
    assert image.lost == ("bits beyond 8",)


# -------------------------------------------------------------------------------------- quick JPEG


@pytest.mark.parametrize("sampling", ["444", "422", "420", "440", "411", "Gray"])
@pytest.mark.parametrize("size", [(64, 48), (33, 17), (1, 1)])
def test_pixels_of_a_jpeg_are_those_of_pillow(sampling, size):
    pixels = np.random.default_rng(3).integers(0, 256, (*size, 3)).astype(np.uint8)
    data = simplejpeg.encode_jpeg(pixels, quality=70, colorsubsampling=sampling)
    whole = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    np.testing.assert_array_equal(decode(data, "a").rgb, whole)


def test_the_first_of_several_images_in_a_jpeg():
    """A preview is no loss; a gain map is one."""
    image = Image.fromarray(RGB)
    data = encoded(image, "MPO", save_all=True, append_images=[Image.new("RGB", (9, 9))])
    np.testing.assert_array_equal(
        decode(data, "a").rgb, np.asarray(Image.open(io.BytesIO(encoded(image, "JPEG"))))
    )
    assert decode(data, "a").lost == ()
    for name in GAIN_MAPS:
        assert "gain map" in decode(data + name, "a").lost[0]


# ------------------------------------------------------------------------------- strictness of JPEG


def photograph(**options):
    colours = np.random.default_rng(7).integers(0, 256, (9, 9, 3)).astype(np.uint8)
    image = Image.fromarray(colours).resize((160, 120), Image.Resampling.BICUBIC)
    return encoded(image, "JPEG", quality=95, **options)


@pytest.mark.parametrize("missing", [1, 2, 100, 1000])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"exif": exif(6)}])
def test_a_jpeg_without_its_end_is_refused(options, missing):
    with pytest.raises(UnreadableImage, match="truncated") as caught:
        decode(photograph(**options)[:-missing], "a")
    assert caught.value.reason == "truncated"


def cut_out(data):
    return data[:2000] + data[2400:]


DAMAGES = {
    "a part is missing": cut_out,
    "the end is missing, but for the marker": lambda data: data[:-500] + b"\xff\xd9",
    "it ends in zeros": lambda data: data[:-500] + bytes(498) + b"\xff\xd9",
    "a part is missing behind stray bytes": lambda data: cut_out(
        data.replace(b"\xff\xdb", b"\0\0\0\xff\xdb", 1)
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("options", [{}, {"exif": exif(6)}])
def test_a_damaged_jpeg_is_refused(damage, options):
    """Pillow and OpenCV return an image that is grey from there on."""
    data = DAMAGES[damage](photograph(**options))
    np.asarray(Image.open(io.BytesIO(data)))
    with pytest.raises(UnreadableImage, match="Corrupt JPEG data") as caught:
        decode(data, "a")
    assert caught.value.reason == "damaged"


@pytest.mark.parametrize("options", [{}, {"exif": exif(1)}])
def test_what_changes_no_pixel_is_allowed(options):
    data = photograph(**options)
    clean = decode(data, "a").rgb
    start = data.index(b"\xff\xdb")
    for changed in (
        data + b"left behind by a camera",
        data[:-2] + bytes(40) + data[-2:],
        data[:start] + b"\0\0\0" + data[start:],
        data[:start] + b"\0\0\0" + data[start:-2] + bytes(40) + data[-2:],
        data[:start] + b"\xff\xff" + data[start:],
    ):
        np.testing.assert_array_equal(decode(changed, "a").rgb, clean)


# --------------------------------------------------------------------------------------- bad input


def large_png():
    return encoded(
        Image.fromarray(np.random.default_rng(4).integers(0, 256, (64, 64, 3), np.uint8))
    )


def size_in_jpeg(data, height, width):
    at = data.index(b"\xff\xc0") + 5
    return data[:at] + struct.pack(">HH", height, width) + data[at + 4 :]


def precision_in_jpeg(data, bits):
    at = data.index(b"\xff\xc0") + 4
    return data[:at] + bytes([bits]) + data[at + 1 :]


def tiff_16():
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, LARGE_16, photometric="rgb", compression="zlib")
    return buffer.getvalue()


def resized(png, width, height):
    """Change the size in a PNG's header."""
    header = b"IHDR" + struct.pack(">II", width, height) + png[24:29]
    return png[:12] + header + struct.pack(">I", zlib.crc32(header)) + png[33:]


def taller_tiff(data, strip=None):
    order = "<" if data[:2] == b"II" else ">"
    changed = bytearray(data)
    (first,) = struct.unpack_from(f"{order}I", data, 4)
    (count,) = struct.unpack_from(f"{order}H", data, first)
    for at in range(first + 2, first + 2 + 12 * count, 12):
        tag, kind = struct.unpack_from(f"{order}HH", data, at)
        form = f"{order}{'H' if kind == 3 else 'I'}"
        if tag == 257:  # ImageLength
            (height,) = struct.unpack_from(form, data, at + 8)
            struct.pack_into(form, changed, at + 8, 2 * height)
        if tag == 278 and strip:  # RowsPerStrip
            struct.pack_into(form, changed, at + 8, strip)
    return bytes(changed)


def tiled_tiff():
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, LARGE_16, photometric="rgb", tile=(16, 16), metadata=None)
    return buffer.getvalue()


def first_scans(count):
    data = photograph(progressive=True)
    starts = [match.start() for match in re.finditer(b"\xff\xda", data)]
    return data[: starts[count]] + b"\xff\xd9"


LARGE = Image.fromarray(RGB).resize((64, 64))
LARGE_8 = np.asarray(LARGE)
LARGE_JPEG = encoded(LARGE, "JPEG")
LARGE_TIFF = encoded(LARGE, "TIFF")
JPEG_TIFF = encoded(LARGE, "TIFF", compression="jpeg")

BAD = {
    "empty": (b"", "empty"),
    "text": (b"hello world\n" * 9, "not an image"),
    "one byte": (b"\xff", "not an image"),
    "truncated png": (large_png()[:4000], "truncated"),
    "truncated 16-bit png": (png(LARGE_16, 16, 2)[:9000], "truncated"),
    "damaged 16-bit png": (png(LARGE_16, 16, 2)[:-16] + bytes(16), "damaged"),
    "damaged png": (large_png()[:5000] + b"?" + large_png()[5001:], "damaged"),
    "png that ends in zeros": (large_png()[:-40] + bytes(40), "damaged"),
    "truncated header": (large_png()[:20], "truncated"),
    "broken header": (b"PNG" + large_png()[3:], "not an image"),
    "truncated jpeg": (LARGE_JPEG[:900], "truncated"),
    "jpeg cut in its header": (LARGE_JPEG[:200], "truncated"),
    "truncated webp": (encoded(LARGE, "WEBP")[:-30], "damaged"),
    "damaged webp": (encoded(LARGE, "WEBP").replace(b"VP8 ", b"VP9 "), "damaged"),
    "truncated tiff": (LARGE_TIFF[:4000], "truncated"),
    "truncated 16-bit tiff": (tiff_16()[:-2000], "truncated"),
    "truncated bmp": (encoded(LARGE, "BMP")[:4000], "truncated"),
    "truncated gif": (encoded(LARGE, "GIF")[:-300], "truncated"),
    "truncated avif": (encoded(LARGE, "AVIF")[:-100], "truncated"),
    "truncated jpeg xl": (jpegxl_encode(LARGE_8)[:-100], "damaged"),
    "truncated jpeg 2000": (jpeg2k_encode(LARGE_8)[:-100], "damaged"),
    "bomb": (resized(large_png(), 60000, 60000), "too large"),
    "jpeg bomb": (size_in_jpeg(LARGE_JPEG, 60000, 60000), "too large"),
    "half png": (resized(large_png(), 64, 128), "truncated"),
    "half 16-bit png": (resized(png(LARGE_16, 16, 2), 63, 90), "truncated"),
    "missing strips": (taller_tiff(LARGE_TIFF), "truncated"),
    "missing 16-bit strips": (taller_tiff(tiff_16()), "truncated"),
    "missing tiles": (taller_tiff(tiled_tiff()), "truncated"),
    "short strip": (taller_tiff(JPEG_TIFF, strip=128), "truncated"),
    "first scans": (first_scans(9), "truncated"),
    "eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image"),
    "12-bit jpeg": (precision_in_jpeg(LARGE_JPEG, 12), "unsupported"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_file_is_refused_with_a_reason(case):
    data, reason = BAD[case]
    with pytest.raises(UnreadableImage, match=r"^bad/a\.jpg: ") as caught:
        decode(data, "bad/a.jpg")
    assert caught.value.reason == reason


@pytest.mark.parametrize("case", ["half png", "missing strips", "truncated jpeg", "first scans"])
def test_a_bad_file_that_pillow_opened_is_refused(case):
    with pytest.raises(UnreadableImage) as caught:
        from_pillow(Image.open(io.BytesIO(BAD[case][0])))
    assert caught.value.reason == "truncated"


@pytest.mark.parametrize("case", ["bomb", "jpeg bomb"])
def test_a_bomb_is_refused_before_memory_is_taken(case):
    tracemalloc.start()
    with pytest.raises(UnreadableImage):
        decode(BAD[case][0], "a")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2_000_000


@pytest.mark.parametrize("read", [read_image, read_size])
def test_what_is_no_file_is_not_called_missing(read, tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder.png").mkdir()
    for name in ("pipe.png", "folder.png"):
        with pytest.raises(UnreadableImage, match="not a regular file") as caught:
            read(tmp_path / name)
        assert caught.value.reason == "not a file"
    monkeypatch.setattr("files.paths.check_regular", _refuse)
    with pytest.raises(UnreadableImage, match="Permission denied") as caught:
        read(tmp_path / "a.png")
    assert caught.value.reason == "unreadable"


def _refuse(path):
    raise PermissionError(errno.EACCES, "Permission denied", path)
