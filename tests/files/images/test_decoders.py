"""Our decoder agrees with others, alpha included: files of all kinds, made here.

PNG is compared with the samples that were written, by the rules of its specification; TIFF, JPEG XL
and JPEG 2000 with what was written, too; other formats with FFmpeg, and orientation with OpenCV.
"""

from __future__ import annotations

import io
import itertools
import zlib
from collections.abc import Iterator
from typing import Any

import cv2
import imagecodecs
import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image

from files.images.decode import UnreadableImage, decode, from_pillow, read_size
from tests.datamodules.image_files import chunk, encoded, png
from tests.datamodules.profiles import grey_profile

Array = NDArray[Any]
DRAWS = np.random.default_rng(0)
RGB = DRAWS.integers(0, 256, (13, 19, 3)).astype(np.uint8)
ALPHA = DRAWS.integers(0, 256, (13, 19)).astype(np.uint8)
RGBA = np.dstack([RGB, ALPHA])
SMOOTH = cv2.resize(RGB[:3, :3], (64, 48), interpolation=cv2.INTER_CUBIC)
CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by colour type of PNG
DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}


def check(data: bytes, rgb: Array, alpha: Array | None, tolerance: float = 0) -> None:
    image = decode(data, "a")
    seen = np.ones(rgb.shape[:2], bool) if alpha is None else alpha > 0
    np.testing.assert_allclose(image.rgb[seen].astype(int), rgb[seen], atol=tolerance)
    assert (image.alpha is None) == (alpha is None)
    if alpha is not None:
        np.testing.assert_allclose(image.alpha.astype(int), alpha, atol=tolerance)


# --------------------------------------------------------------------------------------------- PNG


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("transparent", [False, True])
@pytest.mark.parametrize(("colours", "depth"), [(c, d) for c in DEPTHS for d in DEPTHS[c]])
def test_pngs_of_all_kinds_are_read_as_written(colours, depth, transparent, interlaced):
    top = 2**depth - 1
    samples = DRAWS.integers(0, top + 1, (13, 19, CHANNELS[colours]))
    samples[3, 4] = top
    scale = (65535 if depth == 16 else 255) // top
    levels = samples * scale
    chunks = []
    rgb = np.repeat(levels[..., :1], 3, 2) if colours in (0, 4) else levels[..., :3]
    alpha = levels[..., -1] if colours >= 4 else None
    if colours == 3:
        palette = DRAWS.integers(0, 256, (top + 1, 3))
        chunks.append(chunk(b"PLTE", palette.astype(np.uint8).tobytes()))
        rgb = palette[samples[..., 0]]
    if transparent and colours == 3:
        entries = DRAWS.integers(0, 256, top).astype(np.uint8)
        chunks.append(chunk(b"tRNS", entries.tobytes()))
        alpha = np.append(entries, 255)[samples[..., 0]]
    elif transparent and alpha is None:
        chunks.append(chunk(b"tRNS", samples[3, 4].astype(">u2").tobytes()))
        hidden = (samples == samples[3, 4]).all(-1)
        alpha = np.where(hidden, 0, top * scale)
    data = png(samples, depth, colours, interlaced, *chunks)
    check(data, rgb, alpha)
    if depth < 16:  # Pillow has no 16 bits
        opened = Image.open(io.BytesIO(data))
        np.testing.assert_array_equal(from_pillow(opened).array(), decode(data, "a").array())


# -------------------------------------------------------------------------------------------- TIFF


def tiff(samples: Array, **options: Any) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, samples, metadata=None, **options)
    return buffer.getvalue()


def tiffs() -> Iterator[Any]:
    for bits, planes, compression, order in itertools.product(
        (8, 16), ("contig", "separate"), (None, "zlib"), "<>"
    ):
        common = {"compression": compression, "byteorder": order}
        colour = {**common, "photometric": "rgb", "planarconfig": planes}
        name = f"{bits} {planes} {compression} {order}"
        yield pytest.param(bits, 3, None, colour, id=f"{name} RGB")
        for extra in ("unassalpha", "assocalpha", "unspecified"):
            if (bits, planes, compression) != (8, "separate", None):  # which Pillow does not read
                yield pytest.param(bits, 4, extra, colour, id=f"{name} {extra}")
        if planes == "contig" and (bits, order) != (16, ">"):
            for kind in ("minisblack", "miniswhite"):
                grey = {**common, "photometric": kind}
                yield pytest.param(bits, 1, None, grey, id=f"{name} {kind}")


@pytest.mark.parametrize(("bits", "channels", "extra", "options"), tiffs())
def test_tiffs_of_all_kinds_are_read_as_written(bits, channels, extra, options):
    top = 2**bits - 1
    samples = RGBA[..., :channels].astype(f"u{bits // 8}") * (top // 255)
    stored = samples[..., 0] if channels == 1 else samples
    if options.get("planarconfig") == "separate":
        stored = np.moveaxis(samples, -1, 0).copy()
    extras = {} if extra is None else {"extrasamples": [extra]}
    data = tiff(stored, **options, **extras)
    again = tifffile.imread(io.BytesIO(data))
    np.testing.assert_array_equal(again.squeeze(), stored)
    rgb = np.broadcast_to(samples[..., :3].astype(float), (13, 19, 3))
    rgb = top - rgb if options["photometric"] == "miniswhite" else rgb
    alpha = samples[..., 3] if extra in ("unassalpha", "assocalpha") else None
    if extra == "assocalpha":
        rgb = np.minimum(rgb * top / np.maximum(samples[..., 3:], 1), top)
    check(data, rgb, alpha, tolerance=1)


@pytest.mark.parametrize(
    ("samples", "options"),
    [
        (RGB.astype(np.float32) / 255, {"photometric": "rgb"}),
        (RGB[..., 0].astype(np.float16), {"photometric": "minisblack"}),
        (RGB[..., 0].astype(np.int8), {"photometric": "minisblack"}),
        (RGB.astype(np.uint32), {"photometric": "rgb"}),
    ],
)
def test_a_tiff_of_a_kind_that_is_not_read_is_refused(samples, options):
    with pytest.raises(ValueError, match="save it as a PNG") as caught:
        decode(tiff(samples, **options), "a")
    assert caught.value.reason == "unsupported"  # type: ignore[attr-defined]


# ------------------------------------------------------------------------------------ other formats


def of_more_than_8_bits(kind: str, bits: int, channels: int) -> bytes:
    levels = np.dstack([SMOOTH, SMOOTH[..., 1]])[..., :channels].astype(np.uint16) << (bits - 8)
    if kind == "AVIF":
        if not cv2.haveImageWriter(".avif"):
            pytest.skip("OpenCV is built without AVIF")
        options = [cv2.IMWRITE_AVIF_DEPTH, bits, cv2.IMWRITE_AVIF_QUALITY, 100]
        stored = levels[..., [2, 1, 0, 3][:channels]] if channels > 1 else levels
        return bytes(cv2.imencode(".avif", stored, options)[1])
    heif = pytest.importorskip("pillow_heif")
    buffer = io.BytesIO()
    stored = (levels << (16 - bits)).tobytes()
    heif.from_bytes("RGB;16", (64, 48), stored).save(buffer, quality=-1, chroma=444)
    return buffer.getvalue()


def by_ffmpeg(data: bytes, channels: int, deep: bool) -> Array:
    av = pytest.importorskip("av")
    frame = next(av.open(io.BytesIO(data)).decode(video=0))
    names = {(3, False): "rgb24", (4, False): "rgba", (3, True): "rgb48le", (4, True): "rgba64le"}
    return frame.to_ndarray(format=names[channels, deep])


@pytest.mark.parametrize(
    ("kind", "image", "options"),
    [
        ("GIF", Image.fromarray(RGB).quantize(64), {}),
        ("GIF", Image.fromarray(RGB).quantize(64), {"interlace": False, "transparency": 5}),
        ("BMP", Image.fromarray(RGB), {}),
        ("BMP", Image.fromarray(RGB[..., 0]), {}),
        ("BMP", Image.fromarray(RGB[..., 0] > 99), {}),
        ("BMP", Image.fromarray(RGB).quantize(16), {}),
        ("WEBP", Image.fromarray(RGB), {"lossless": True}),
        ("WEBP", Image.fromarray(RGBA), {"lossless": True, "exact": True}),
        ("JPEG", Image.fromarray(SMOOTH), {"quality": 100, "subsampling": 0}),
        ("JPEG", Image.fromarray(SMOOTH), {"quality": 100, "progressive": True, "subsampling": 0}),
        ("JPEG", Image.fromarray(SMOOTH[..., 0]), {"quality": 100}),
        ("AVIF", Image.fromarray(SMOOTH), {"quality": 100, "subsampling": "4:4:4"}),
    ],
)
def test_other_formats_are_read_as_by_ffmpeg(kind, image, options):
    data = encoded(image, kind, **options)
    found = decode(data, "a")
    expected = by_ffmpeg(data, 3 if found.alpha is None else 4, deep=False)
    alpha = None if found.alpha is None else expected[..., 3]
    check(data, expected[..., :3], alpha, 3 if kind in ("JPEG", "AVIF") else 1)


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "GIF", "AVIF"])
def test_the_first_frame_of_an_animation_is_read(kind):
    frames = [Image.fromarray(SMOOTH), Image.new("RGB", (64, 48))]
    options = {} if kind in ("PNG", "GIF") else {"quality": 100}
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    assert decode(data, "a").lost == ("further frames or pages",)
    tolerance = 50 if kind == "GIF" else 8
    assert np.abs(decode(data, "a").rgb.astype(int) - SMOOTH).max() <= tolerance


@pytest.mark.parametrize(
    ("kind", "bits", "channels"),
    [("AVIF", 10, 1), ("AVIF", 10, 3), ("AVIF", 10, 4), ("AVIF", 12, 3), ("HEIF", 10, 3)],
)
def test_more_than_8_bits_are_read_as_16(kind, bits, channels):
    data = of_more_than_8_bits(kind, bits, channels)
    found = decode(data, "a")
    assert found.bit_depth == 16
    expected = by_ffmpeg(data, 3, deep=True)[:48]  # of a HEIC it gives whole blocks
    step = 65536 >> bits
    np.testing.assert_allclose(found.rgb.astype(int), expected, atol=2.5 * step)
    assert (found.alpha is None) == (channels < 4)
    if found.alpha is not None:
        expected = SMOOTH[..., 1].astype(int) * (1 << bits - 8) * 65535 / (2**bits - 1)
        np.testing.assert_allclose(found.alpha.astype(int), expected, atol=2.5 * step)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF", "AVIF", "HEIF"])
def test_images_are_turned_as_by_opencv(kind, orientation):
    if kind == "HEIF":
        pytest.importorskip("pillow_heif").register_heif_opener()
    exif = orientation_exif(orientation)
    data = encoded(Image.fromarray(SMOOTH), kind, exif=exif, quality=100)
    plain = encoded(Image.fromarray(SMOOTH), exif=exif)
    expected = cv2.imdecode(np.frombuffer(plain, np.uint8), cv2.IMREAD_COLOR_RGB)
    check(data, expected, None, 0 if kind in ("PNG", "TIFF") else 30)
    assert read_size(io.BytesIO(data)) == expected.shape[1::-1]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("compression", [None, "lzw", "zlib", "zstd"])
@pytest.mark.parametrize("planes", ["contig", "separate"])
def test_a_16_bit_tiff_is_turned_once(planes, compression, orientation):
    deep = SMOOTH.astype(np.uint16) * 257
    stored = np.moveaxis(deep, -1, 0).copy() if planes == "separate" else deep
    turns = [(274, 3, 1, orientation, True)]
    options = {"photometric": "rgb", "planarconfig": planes, "compression": compression}
    data = tiff(stored, extratags=turns, **options)
    turned = encoded(Image.fromarray(SMOOTH), exif=orientation_exif(orientation))
    expected = cv2.imdecode(np.frombuffer(turned, np.uint8), cv2.IMREAD_COLOR_RGB)
    check(data, expected.astype(np.uint16) * 257, None)
    assert read_size(io.BytesIO(data)) == expected.shape[1::-1]


def orientation_exif(orientation: int) -> bytes:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags.tobytes()


# ------------------------------------------------------------------------ JPEG XL, JPEG 2000, depth

DEEP = SMOOTH.astype(np.uint16) * 257
DEEP_RGBA = np.dstack([DEEP, DEEP[..., 1]])


@pytest.mark.parametrize("pixels", [SMOOTH, SMOOTH[..., 0].copy(), DEEP, DEEP_RGBA])
def test_jpeg_2000_is_read_as_written(pixels):
    data = imagecodecs.jpeg2k_encode(pixels, level=0, codecformat="jp2")
    np.testing.assert_array_equal(decode(data, "a").array(), pixels)
    assert read_size(io.BytesIO(data)) == (64, 48)


@pytest.mark.parametrize("pixels", [SMOOTH, SMOOTH[..., 0].copy(), RGBA])
def test_jpeg_xl_is_read_as_written(pixels):
    pytest.importorskip("pillow_jxl")
    data = imagecodecs.jpegxl_encode(pixels, lossless=True)
    np.testing.assert_array_equal(decode(data, "a").array(), pixels)
    assert read_size(io.BytesIO(data)) == pixels.shape[1::-1]


def test_jpeg_xl_of_16_bits_becomes_8():
    pytest.importorskip("pillow_jxl")
    data = imagecodecs.jpegxl_encode(DEEP, lossless=True)
    found = decode(data, "a").array()
    assert found.dtype == np.uint8
    np.testing.assert_allclose(found, DEEP / 257, atol=1)


@pytest.mark.parametrize("depth", [8, 16])
def test_grey_with_alpha_keeps_its_profile(depth):
    profile = chunk(b"iCCP", b"grey\0\0" + zlib.compress(grey_profile()))
    samples = DRAWS.integers(0, 2**depth, (13, 19, 2))
    image = decode(png(samples, depth, 4, False, profile), "a")
    assert image.grey_icc == grey_profile()


def test_further_channels_of_a_tiff_are_counted():
    samples = np.dstack([RGBA, ALPHA])
    extras = ["unassalpha", "unspecified"]
    data = tiff(samples, photometric="rgb", planarconfig="contig", extrasamples=extras)
    check(data, RGB, ALPHA)
    assert decode(data, "a").lost == ("further channels",)


# --------------------------------------------------------------------------------- what is refused


NOISE = DRAWS.integers(0, 256, (48, 64, 3)).astype(np.uint8)


def coded(kind: str) -> bytes:
    if kind.startswith("TIFF"):
        return tiff(NOISE, photometric="rgb", compression=kind.split()[1])
    if kind == "jpegxl":
        pytest.importorskip("pillow_jxl")
    if kind in ("jpegxl", "jpeg2k"):
        return bytes(getattr(imagecodecs, f"{kind}_encode")(NOISE))
    if kind == "HEIF":
        pytest.importorskip("pillow_heif").register_heif_opener()
    options = {"lossless": True} if kind == "WEBP lossless" else {}
    return encoded(Image.fromarray(NOISE), kind.split()[0], **options)


KINDS = ("JPEG", "PNG", "WEBP", "WEBP lossless", "GIF", "AVIF", "HEIF", "jpegxl", "jpeg2k")
TIFFS = ("zlib", "lzw", "zstd", "packbits", "jpeg", "webp")


@pytest.mark.parametrize("kind", [*KINDS, *(f"TIFF {name}" for name in TIFFS)])
@pytest.mark.parametrize("part", [0.2, 0.5, 0.8])
def test_a_copy_that_ends_in_zeros_is_refused(kind, part):
    data = coded(kind)
    pixels_at = data.rfind(b"mdat") + 4 if b"mdat" in data else len(data) // 4
    kept = pixels_at + int(part * (len(data) - pixels_at))
    with pytest.raises(UnreadableImage):
        decode(data[:kept] + bytes(len(data) - kept), "a")


@pytest.mark.parametrize("shape", [(512, 512, 3), (40, 1000, 3)])
@pytest.mark.parametrize("kind", ["WEBP", "AVIF", "jpegxl", "jpeg2k"])
def test_a_flat_image_is_no_stopped_copy(kind, shape):
    """Lossy WebP codes it in zeros."""
    flat = np.full(shape, 128, np.uint8)
    flat[: shape[0] // 2] = DRAWS.integers(0, 256, flat[: shape[0] // 2].shape)
    if kind.startswith("jpeg"):
        data = bytes(getattr(imagecodecs, f"{kind}_encode")(flat))
    else:
        data = encoded(Image.fromarray(flat), kind, quality=5)
    assert decode(data, "a").rgb.shape == shape


def test_the_checksum_of_a_deflated_tiff_is_compared():
    data = bytearray(tiff(SMOOTH, photometric="rgb", compression="zlib"))
    (start,) = tifffile.TiffFile(io.BytesIO(data)).pages.first.dataoffsets
    (size,) = tifffile.TiffFile(io.BytesIO(data)).pages.first.databytecounts
    data[start + size - 1] ^= 1
    with pytest.raises(UnreadableImage) as caught:
        decode(bytes(data), "a")
    assert caught.value.reason == "damaged"


SENSOR = SMOOTH[..., 0].copy()
DNG_VERSION = (50706, 1, 4, (1, 4, 0, 0), True)


def raw(tags: list[Any], photometric: str | int) -> bytes:
    """Return a thumbnail whose sub-directory has the sensor's samples, as cameras write."""
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer) as file:
        file.write(SMOOTH, photometric="rgb", subfiletype=1, subifds=1, extratags=tags)
        file.write(SENSOR, photometric=photometric)
    return buffer.getvalue()


RAWS = {
    "DNG": raw([DNG_VERSION], "minisblack"),
    "NEF, ARW": raw([], "cfa"),
    "CR2": b"II*\0\x10\0\0\0CR\x02\0" + bytes(99),
    "RAF": b"FUJIFILMCCD-RAW 0201FF383501" + bytes(99),
    "CR3": b"\0\0\0\x18ftypcrx \0\0\0\1crx isom" + bytes(99),
    "ORF": b"IIRO\x08\0\0\0" + bytes(99),
    "RW2": b"IIU\0\x18\0\0\0" + bytes(99),
}


@pytest.mark.parametrize("kind", RAWS)
def test_a_raw_file_of_a_camera_is_not_its_thumbnail(kind):
    for read in (lambda data: decode(data, "a"), lambda data: read_size(io.BytesIO(data))):
        with pytest.raises(UnreadableImage, match="develop it first") as caught:
            read(RAWS[kind])
        assert caught.value.reason == "unsupported"
