"""Every kind of picture file gives the right pixels or a reason."""

from __future__ import annotations

import io
import pickle
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms

from datamodules import decode as module
from datamodules.decode import UnreadableImage, decode, read_picture, read_size

RGB = np.random.default_rng(0).integers(0, 256, (5, 7, 3)).astype(np.uint8)
RGB_16 = np.random.default_rng(1).integers(0, 65536, (5, 7, 3)).astype(np.uint16)
LARGE_16 = np.random.default_rng(5).integers(0, 65536, (45, 63, 3)).astype(np.uint16)
ALPHA_16 = np.random.default_rng(2).integers(0, 65536, (5, 7)).astype(np.uint16)


def encoded(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def chunk(name, content):
    checksum = struct.pack(">I", zlib.crc32(name + content))
    return struct.pack(">I", len(content)) + name + content + checksum


def png(size, depth, color, rows, *extra):
    header = struct.pack(">IIBBBBB", *size, depth, color, 0, 0, 0)
    body = [
        chunk(b"IHDR", header),
        *extra,
        chunk(b"IDAT", zlib.compress(rows)),
        chunk(b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(body)


def png_16(samples, color, *extra):
    """A 16-bit PNG of (H, W, C) samples, written here because Pillow cannot."""
    height, width = samples.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    return png((width, height), 16, color, rows, *extra)


def exif(orientation):
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


# ------------------------------------------------------------------------------------------- 8 bits


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF"])
def test_plain_rgb(kind):
    picture = decode(encoded(Image.fromarray(RGB), kind), "a")
    np.testing.assert_array_equal(picture.rgb, RGB)
    assert picture.rgb.dtype == np.uint8
    assert picture.rgb.flags.c_contiguous
    assert (picture.alpha, picture.icc, picture.bit_depth, picture.mode) == (None, None, 8, "RGB")


@pytest.mark.parametrize("kind", ["WEBP", "AVIF", "GIF"])
def test_other_formats_open(kind):
    options = {} if kind == "GIF" else {"quality": 100}
    picture = decode(
        encoded(Image.fromarray(np.full((8, 8, 3), 90, np.uint8)), kind, **options), "a"
    )
    np.testing.assert_allclose(picture.rgb, 90, atol=2)
    assert picture.rgb.shape == (8, 8, 3)


def test_grey_becomes_rgb():
    picture = decode(encoded(Image.fromarray(RGB[..., 0])), "a")
    np.testing.assert_array_equal(picture.rgb, np.repeat(RGB[..., :1], 3, axis=2))
    assert picture.mode == "L"


def test_one_bit():
    black_and_white = RGB[..., 0] > 127
    picture = decode(encoded(Image.fromarray(black_and_white)), "a")
    np.testing.assert_array_equal(picture.rgb[..., 1], np.where(black_and_white, 255, 0))
    assert picture.mode == "1"


def test_palette():
    image = Image.fromarray(RGB).quantize(256)
    picture = decode(encoded(image), "a")
    np.testing.assert_array_equal(picture.rgb, np.asarray(image.convert("RGB")))
    assert (picture.mode, picture.alpha) == ("P", None)


@pytest.mark.parametrize("transparency", [3, bytes(range(0, 200, 10))])
def test_palette_with_transparency(transparency):
    image = Image.fromarray(RGB).quantize(20)
    picture = decode(encoded(image, transparency=transparency), "a")
    entry = np.asarray(image)
    table = np.full(256, 255)
    if isinstance(transparency, int):
        table[transparency] = 0
    else:
        table[: len(transparency)] = list(transparency)
    np.testing.assert_array_equal(picture.rgb, np.asarray(image.convert("RGB")))
    np.testing.assert_array_equal(picture.alpha, table[entry])


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_alpha_is_kept_apart(mode):
    image = Image.fromarray(np.dstack([RGB, RGB[..., 1]]), "RGBA").convert(mode)
    picture = decode(encoded(image), "a")
    np.testing.assert_array_equal(picture.rgb, np.asarray(image.convert("RGB")))
    np.testing.assert_array_equal(picture.alpha, RGB[..., 1])
    assert picture.alpha.dtype == np.uint8


def test_transparent_colour_of_rgb_png():
    picture = decode(encoded(Image.fromarray(RGB), transparency=tuple(map(int, RGB[2, 3]))), "a")
    np.testing.assert_array_equal(picture.rgb, RGB)
    assert picture.alpha[2, 3] == 0
    assert (picture.alpha == 0).sum() == 1


def test_cmyk_jpeg():
    cmyk = Image.new("CMYK", (8, 8), (0, 255, 255, 0))  # red ink
    picture = decode(encoded(cmyk, "JPEG", quality=95), "a")
    np.testing.assert_allclose(picture.rgb, np.broadcast_to([255, 0, 0], (8, 8, 3)), atol=4)
    assert picture.mode == "CMYK"


def test_one_pixel():
    picture = decode(encoded(Image.fromarray(RGB[:1, :1])), "a")
    np.testing.assert_array_equal(picture.rgb, RGB[:1, :1])


# ------------------------------------------------------------------------------------------ 16 bits


def test_16_bit_rgb_png():
    picture = decode(png_16(RGB_16, 2), "a")
    np.testing.assert_array_equal(picture.rgb, RGB_16)
    assert (picture.rgb.dtype, picture.bit_depth, picture.alpha) == (np.uint16, 16, None)


def test_16_bit_rgba_png():
    picture = decode(png_16(np.dstack([RGB_16, ALPHA_16]), 6), "a")
    np.testing.assert_array_equal(picture.rgb, RGB_16)
    np.testing.assert_array_equal(picture.alpha, ALPHA_16)


def test_16_bit_grey_png():
    picture = decode(png_16(ALPHA_16[..., None], 0), "a")
    np.testing.assert_array_equal(picture.rgb, np.repeat(ALPHA_16[..., None], 3, axis=2))
    assert picture.rgb.dtype == np.uint16


def test_16_bit_grey_and_alpha_png():
    picture = decode(png_16(np.dstack([RGB_16[..., 0], ALPHA_16]), 4), "a")
    np.testing.assert_array_equal(picture.rgb, np.repeat(RGB_16[..., :1], 3, axis=2))
    np.testing.assert_array_equal(picture.alpha, ALPHA_16)


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("order", ["<", ">"])
def test_16_bit_rgb_tiff(compression, planar, order):
    samples = RGB_16 if planar == "contig" else np.moveaxis(RGB_16, -1, 0)
    buffer = io.BytesIO()
    tifffile.imwrite(
        buffer,
        np.ascontiguousarray(samples),
        photometric="rgb",
        compression=compression,
        planarconfig=planar,
        byteorder=order,
    )
    picture = decode(buffer.getvalue(), "a")
    np.testing.assert_array_equal(picture.rgb, RGB_16)
    assert picture.rgb.dtype == np.uint16


def test_16_bit_rgba_tiff():
    buffer = io.BytesIO()
    rgba = np.dstack([RGB_16, ALPHA_16])
    tifffile.imwrite(buffer, rgba, photometric="rgb", extrasamples=["unassalpha"])
    picture = decode(buffer.getvalue(), "a")
    np.testing.assert_array_equal(picture.rgb, RGB_16)
    np.testing.assert_array_equal(picture.alpha, ALPHA_16)


def test_16_bit_lzw_tiff():
    import cv2

    lzw = [cv2.IMWRITE_TIFF_COMPRESSION, 5]
    _, data = cv2.imencode(".tiff", np.ascontiguousarray(RGB_16[..., ::-1]), lzw)
    np.testing.assert_array_equal(decode(data.tobytes(), "a").rgb, RGB_16)


@pytest.mark.parametrize("photometric", ["minisblack", "miniswhite"])
def test_16_bit_grey_tiff(photometric):
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, ALPHA_16, photometric=photometric)
    expected = ALPHA_16 if photometric == "minisblack" else 65535 - ALPHA_16
    np.testing.assert_array_equal(decode(buffer.getvalue(), "a").rgb[..., 2], expected)


# ------------------------------------------------------------------------- orientation and profiles


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_exif_orientation(kind, orientation, tmp_path):
    from PIL import ImageOps

    options = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(Image.fromarray(RGB), kind, exif=exif(orientation), **options)
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    picture = decode(data, "a")
    np.testing.assert_array_equal(picture.rgb, np.asarray(expected))
    assert picture.rgb.flags.c_contiguous
    (tmp_path / "a").write_bytes(data)
    assert read_size(tmp_path / "a") == expected.size


def test_exif_orientation_of_16_bits_and_alpha():
    tags = chunk(b"eXIf", exif(6).tobytes().removeprefix(b"Exif\0\0"))
    picture = decode(png_16(np.dstack([RGB_16, ALPHA_16]), 6, tags), "a")
    np.testing.assert_array_equal(picture.rgb, np.rot90(RGB_16, -1))
    np.testing.assert_array_equal(picture.alpha, np.rot90(ALPHA_16, -1))


def test_exif_orientation_of_a_16_bit_tiff():
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, RGB_16, photometric="rgb", extratags=[(274, "H", 1, 8, True)])
    np.testing.assert_array_equal(decode(buffer.getvalue(), "a").rgb, np.rot90(RGB_16))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")  # Pillow's
def test_broken_exif_is_ignored():
    data = encoded(Image.fromarray(RGB), exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")
    np.testing.assert_array_equal(decode(data, "a").rgb, RGB)


def test_rgb_profile_is_kept_and_others_dropped():
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert decode(encoded(Image.fromarray(RGB), icc_profile=srgb), "a").icc == srgb
    grey = srgb[:16] + b"GRAY" + srgb[20:]
    assert decode(encoded(Image.fromarray(RGB[..., 0]), icc_profile=grey), "a").icc is None


# -------------------------------------------------------------------------------------- quick JPEG


@pytest.mark.skipif(not module.QUICK_JPEG, reason="simplejpeg is not installed")
@pytest.mark.parametrize("sampling", ["444", "422", "420", "440", "411", "Gray"])
@pytest.mark.parametrize("size", [(64, 48), (33, 17), (1, 1)])
def test_results_do_not_depend_on_simplejpeg(sampling, size, monkeypatch):
    import simplejpeg

    pixels = np.random.default_rng(3).integers(0, 256, (*size, 3)).astype(np.uint8)
    data = simplejpeg.encode_jpeg(pixels, quality=70, colorsubsampling=sampling)
    quick = decode(data, "a").rgb
    monkeypatch.setattr(module, "QUICK_JPEG", False)
    np.testing.assert_array_equal(quick, decode(data, "a").rgb)


@pytest.mark.skipif(not module.QUICK_JPEG, reason="simplejpeg is not installed")
def test_results_do_not_depend_on_simplejpeg_on_photographs(data_root, monkeypatch):
    paths = sorted((data_root / "bsds400").glob("*.jpg"))[:20]
    quick = [read_picture(path).rgb for path in paths]
    monkeypatch.setattr(module, "QUICK_JPEG", False)
    for path, pixels in zip(paths, quick, strict=True):
        np.testing.assert_array_equal(pixels, read_picture(path).rgb)


@pytest.mark.parametrize("quick", [False, True])
def test_a_jpeg_with_a_needless_warning_is_read(quick, monkeypatch):
    monkeypatch.setattr(module, "QUICK_JPEG", quick and module.QUICK_JPEG)
    data = encoded(Image.fromarray(RGB), "JPEG", quality=95)
    clean = decode(data, "a").rgb
    marker = data.index(b"\xff\xda")
    warned = data[:marker] + b"\0\0\0" + data[marker:]  # extraneous bytes before a marker
    np.testing.assert_array_equal(decode(warned, "a").rgb, clean)


# --------------------------------------------------------------------------------------- bad input


def large_png():
    return encoded(
        Image.fromarray(np.random.default_rng(4).integers(0, 256, (64, 64, 3), np.uint8))
    )


BAD = {
    "empty": (b"", "the file is empty"),
    "text": (b"hello world\n" * 9, r"no picture.*b'hello wo'"),
    "truncated png": (large_png()[:4000], "truncated"),
    "truncated 16-bit png": (png_16(LARGE_16, 2)[:9000], "truncated"),
    "damaged 16-bit png": (png_16(LARGE_16, 2)[:-16] + bytes(16), "damaged"),
    "truncated header": (large_png()[:20], "Truncated"),
    "broken header": (b"PNG" + large_png()[3:], "no picture, or its header is broken"),
    "truncated jpeg": (encoded(Image.fromarray(RGB).resize((64, 64)), "JPEG")[:900], "truncated"),
    "bomb": (png((60000, 60000), 8, 2, b""), "refused because of its size"),
    "eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "no picture"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_file(case):
    data, reason = BAD[case]
    with pytest.raises(UnreadableImage, match=rf"^bad/a\.jpg: .*({reason})"):
        decode(data, "bad/a.jpg")


@pytest.mark.parametrize("dtype", [np.float32, np.uint32])
def test_pixels_without_a_range(dtype):
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, RGB[..., 0].astype(dtype))
    with pytest.raises(UnreadableImage, match=r"^a\.tif: TIFF of mode .* bits a sample"):
        decode(buffer.getvalue(), "a.tif")


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_truncated_16_bit_tiff(compression):
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, LARGE_16, photometric="rgb", compression=compression)
    with pytest.raises(UnreadableImage, match=r"^a\.tif: "):
        decode(buffer.getvalue()[:-2000], "a.tif")


def test_missing_file():
    with pytest.raises(UnreadableImage, match=r"nowhere\.png: No such file"):
        read_picture(Path("nowhere.png"))


def test_error_survives_a_worker():
    error = pickle.loads(pickle.dumps(UnreadableImage("a.png: broken")))
    assert str(error) == "a.png: broken"


def test_meta_holds_what_a_writer_needs():
    meta = decode(encoded(Image.fromarray(RGB)), "a").meta(Path("b/c.png"))
    assert meta == {"path": "b/c.png", "alpha": None, "icc": None, "bit_depth": 8, "mode": "RGB"}
