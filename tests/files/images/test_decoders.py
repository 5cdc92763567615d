"""Our decoder agrees with others, alpha included: files of all kinds, made here.

PNG is compared with the samples that were written, by the rules of its specification; TIFF, JPEG XL
and JPEG 2000 with what was written, too; other formats with FFmpeg, and orientation with OpenCV.
"""

import io
import zlib

import cv2
import imagecodecs
import numpy as np
import pytest
import tifffile
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image

from files.images.decode import UnreadableImage, decode, read_size
from tests.datamodules.image_files import chunk, encoded, png
from tests.datamodules.profiles import grey_profile

DRAWS = np.random.default_rng(0)
RGBA = DRAWS.integers(0, 256, (13, 19, 4), dtype=np.uint8)
RGB = RGBA[..., :3].copy()
ALPHA = RGBA[..., 3]
SMOOTH = cv2.resize(RGB[:3, :3], (64, 48), interpolation=cv2.INTER_CUBIC)
DEEP = SMOOTH.astype(np.uint16) * 257
DEEP_RGBA = RGBA.astype(np.uint16) * 257


def check(data, rgb, alpha=None, tolerance=0):
    """Compare with the decoded file, where its pixels are not transparent."""
    image = decode(data, "a")
    if alpha is None:
        assert image.alpha is None
        assert_allclose(image.rgb.astype(int), rgb, atol=tolerance)
    else:
        assert_allclose(image.alpha.astype(int), alpha, atol=tolerance)
        assert_allclose(image.rgb[alpha > 0].astype(int), rgb[alpha > 0], atol=tolerance)


# --------------------------------------------------------------------------------------------- PNG

# Colour types of PNG.
GREY = 0
TRUE_COLOUR = 2
PALETTE = 3
GREY_ALPHA = 4
COLOUR_ALPHA = 6
interlaced_or_not = pytest.mark.parametrize("interlaced", [False, True])


def draw(depth, channels):
    """Samples of some bits, and the factor by which they fill 8 or 16 bits."""
    samples = DRAWS.integers(0, 2**depth, (13, 19, channels))
    return samples, (65535 if depth == 16 else 255) // (2**depth - 1)


@interlaced_or_not
@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
def test_grey_pngs_are_read_as_written(depth, interlaced):
    samples, factor = draw(depth, channels=1)
    check(png(samples, depth, GREY, interlaced=interlaced), np.repeat(samples * factor, 3, axis=2))


@interlaced_or_not
@pytest.mark.parametrize("depth", [8, 16])
def test_colour_pngs_are_read_as_written(depth, interlaced):
    samples, _ = draw(depth, channels=3)
    check(png(samples, depth, TRUE_COLOUR, interlaced=interlaced), samples)


@interlaced_or_not
@pytest.mark.parametrize("depth", [8, 16])
def test_pngs_with_alpha_are_read_as_written(depth, interlaced):
    samples, _ = draw(depth, channels=4)
    grey = samples[..., [0, 0, 0]]
    alpha = samples[..., 3]
    check(png(samples, depth, COLOUR_ALPHA, interlaced=interlaced), samples[..., :3], alpha)
    check(png(samples[..., [0, 3]], depth, GREY_ALPHA, interlaced=interlaced), grey, alpha)


@interlaced_or_not
@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_pngs_with_a_palette_are_read_as_written(depth, interlaced):
    samples, _ = draw(depth, channels=1)
    colours = DRAWS.integers(0, 256, (2**depth, 3), dtype=np.uint8)
    alphas = DRAWS.integers(0, 256, 2**depth, dtype=np.uint8)
    alphas[-1] = 255  # that of a colour which the chunk leaves out
    palette = chunk(b"PLTE", colours.tobytes())
    transparency = chunk(b"tRNS", alphas[:-1].tobytes())
    rgb = colours[samples[..., 0]]
    alpha = alphas[samples[..., 0]]

    transparent = png(samples, depth, PALETTE, palette, transparency, interlaced=interlaced)
    check(png(samples, depth, PALETTE, palette, interlaced=interlaced), rgb)
    check(transparent, rgb, alpha)


@pytest.mark.parametrize(
    ("colours", "channels", "depth"),
    [(GREY, 1, 2), (GREY, 1, 8), (GREY, 1, 16), (TRUE_COLOUR, 3, 8), (TRUE_COLOUR, 3, 16)],
)
def test_pngs_with_a_transparent_colour_are_read_as_written(colours, channels, depth):
    samples, factor = draw(depth, channels)
    transparency = chunk(b"tRNS", samples[3, 4].astype(">u2").tobytes())
    hidden = (samples == samples[3, 4]).all(axis=2)
    rgb = np.broadcast_to(samples * factor, (13, 19, 3))
    alpha = np.where(hidden, 0, 65535 if depth == 16 else 255)
    check(png(samples, depth, colours, transparency), rgb, alpha)


@pytest.mark.parametrize("depth", [8, 16])
def test_grey_with_alpha_keeps_its_profile(depth):
    samples, _ = draw(depth, channels=2)
    profile = chunk(b"iCCP", b"grey\0\0" + zlib.compress(grey_profile()))
    data = png(samples, depth, GREY_ALPHA, profile)
    assert decode(data, "a").grey_icc == grey_profile()


# -------------------------------------------------------------------------------------------- TIFF


def tiff(samples, **options):
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, samples, metadata=None, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("compression", [None, "lzw", "zlib"])
@pytest.mark.parametrize("planes", ["contig", "separate"])
@pytest.mark.parametrize("pixels", [SMOOTH, DEEP], ids=["8 bits", "16 bits"])
def test_colour_tiffs_are_read_as_written(pixels, planes, compression, order):
    stored = pixels if planes == "contig" else np.moveaxis(pixels, 2, 0).copy()
    options = {"planarconfig": planes, "compression": compression, "byteorder": order}
    check(tiff(stored, photometric="rgb", **options), pixels)


@pytest.mark.parametrize("planes", ["contig", "separate"])
@pytest.mark.parametrize("pixels", [RGBA, DEEP_RGBA], ids=["8 bits", "16 bits"])
def test_tiffs_with_alpha_are_read_by_the_kind_of_their_alpha(pixels, planes):
    stored = pixels if planes == "contig" else np.moveaxis(pixels, 2, 0).copy()
    options = {"photometric": "rgb", "planarconfig": planes, "compression": "zlib"}
    colours = pixels[..., :3].astype(float)
    alpha = pixels[..., 3]
    top = np.iinfo(pixels.dtype).max
    # Associated alpha: colours were multiplied by it, and are divided again.
    divided = np.minimum(colours * top / np.maximum(pixels[..., 3:], 1), top)

    check(tiff(stored, extrasamples=["unspecified"], **options), colours)  # no alpha
    check(tiff(stored, extrasamples=["unassalpha"], **options), colours, alpha)
    check(tiff(stored, extrasamples=["assocalpha"], **options), divided, alpha, tolerance=1)


@pytest.mark.parametrize("grey", [SMOOTH[..., 0], DEEP[..., 0]], ids=["8 bits", "16 bits"])
def test_grey_tiffs_are_read_whichever_end_is_white(grey):
    inverse = np.iinfo(grey.dtype).max - grey
    expected = np.stack([grey] * 3, axis=2)
    check(tiff(grey, photometric="minisblack"), expected)
    check(tiff(inverse, photometric="miniswhite"), expected)


@pytest.mark.parametrize(
    ("samples", "photometric"),
    [
        (RGB.astype(np.float32) / 255, "rgb"),
        (RGB[..., 0].astype(np.int8), "minisblack"),
        (RGB.astype(np.uint32), "rgb"),
    ],
    ids=["floats", "signed", "32 bits"],
)
def test_a_tiff_of_a_kind_that_is_not_read_is_refused(samples, photometric):
    with pytest.raises(UnreadableImage, match="save it as a PNG") as caught:
        decode(tiff(samples, photometric=photometric), "a")
    assert caught.value.reason == "unsupported"


def test_further_channels_of_a_tiff_are_named_as_lost():
    samples = np.dstack([RGBA, 255 - ALPHA])
    extras = ["unassalpha", "unspecified"]
    data = tiff(samples, photometric="rgb", planarconfig="contig", extrasamples=extras)
    check(data, RGB, ALPHA)
    assert decode(data, "a").lost == ("further channels",)


# ------------------------------------------------------------------------------------ other formats


def by_ffmpeg(data, kind):
    av = pytest.importorskip("av")
    frame = next(av.open(io.BytesIO(data)).decode(video=0))
    return frame.to_ndarray(format=kind)


WHOLE_CHROMA = {"quality": 100, "subsampling": "4:4:4"}
OTHERS = {
    "GIF, interlaced": ("GIF", Image.fromarray(SMOOTH).quantize(64), {}),  # from 16 rows on
    "GIF, transparent": ("GIF", Image.fromarray(RGB).quantize(64), {"transparency": 5}),
    "BMP, colour": ("BMP", RGB, {}),
    "BMP, grey": ("BMP", RGB[..., 0], {}),
    "BMP, palette": ("BMP", Image.fromarray(RGB).quantize(16), {}),
    "WebP": ("WEBP", RGB, {"lossless": True}),
    "WebP, alpha": ("WEBP", RGBA, {"lossless": True, "exact": True}),
    "JPEG, progressive": ("JPEG", SMOOTH, {"progressive": True, **WHOLE_CHROMA}),
    "JPEG, grey": ("JPEG", SMOOTH[..., 0], {"quality": 100}),
    "AVIF": ("AVIF", SMOOTH, WHOLE_CHROMA),
}


@pytest.mark.parametrize(("kind", "pixels", "options"), OTHERS.values(), ids=OTHERS)
def test_other_formats_are_read_as_by_ffmpeg(kind, pixels, options):
    data = encoded(pixels, kind, **options)
    tolerance = 3 if kind in ("JPEG", "AVIF") else 1  # decoders of lossy files round differently
    if decode(data, "a").alpha is None:
        check(data, by_ffmpeg(data, "rgb24"), None, tolerance)
    else:
        expected = by_ffmpeg(data, "rgba")
        check(data, expected[..., :3], expected[..., 3], tolerance)


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "GIF", "AVIF"])
def test_the_first_frame_of_an_animation_is_read(kind):
    black = Image.new("RGB", (64, 48))
    data = encoded(Image.fromarray(SMOOTH), kind, save_all=True, append_images=[black])
    image = decode(data, "a")
    assert image.lost == ("further frames or pages",)
    assert_allclose(image.rgb.astype(int), SMOOTH, atol=50)  # lossy, or 256 colours; not black


@pytest.mark.parametrize(("bits", "channels"), [(10, 1), (10, 3), (10, 4), (12, 3)])
def test_avif_of_more_than_8_bits_is_read_as_16(bits, channels):
    if not cv2.haveImageWriter(".avif"):
        pytest.skip("OpenCV is built without AVIF")
    levels = np.dstack([SMOOTH, SMOOTH[..., 1]])[..., :channels].astype(np.uint16) << (bits - 8)
    options = [cv2.IMWRITE_AVIF_DEPTH, bits, cv2.IMWRITE_AVIF_QUALITY, 100]
    data = cv2.imencode(".avif", levels, options)[1].tobytes()

    image = decode(data, "a")

    step = 65536 >> bits  # one level of the file, in 16 bits; decoders round differently
    assert_allclose(image.rgb.astype(int), by_ffmpeg(data, "rgb48le"), atol=2 * step)
    if channels < 4:
        assert image.alpha is None
    else:
        alpha = levels[..., 3] * (65535 / (2**bits - 1))
        assert_allclose(image.alpha.astype(int), alpha, atol=2 * step)


def test_heif_of_10_bits_is_read_as_16():
    heif = pytest.importorskip("pillow_heif")
    buffer = io.BytesIO()
    image = heif.from_bytes("RGB;16", (64, 48), DEEP.tobytes())
    image.save(buffer, quality=-1, chroma=444)  # -1: lossless
    image = decode(buffer.getvalue(), "a")
    expected = by_ffmpeg(buffer.getvalue(), "rgb48le")[:48]  # FFmpeg adds rows to a whole block
    step = 65536 >> 10  # one level of the file, in 16 bits; decoders round differently
    assert_allclose(image.rgb.astype(int), expected, atol=2 * step)


@pytest.mark.parametrize(
    "pixels",
    [SMOOTH, SMOOTH[..., 0].copy(), DEEP, DEEP_RGBA],
    ids=["colour", "grey", "16 bits", "16 bits with alpha"],
)
def test_jpeg_2000_is_read_as_written(pixels):
    data = imagecodecs.jpeg2k_encode(pixels, level=0, codecformat="jp2")
    assert_array_equal(decode(data, "a").array(), pixels)
    assert read_size(io.BytesIO(data)) == pixels.shape[1::-1]


@pytest.mark.parametrize(
    "pixels", [SMOOTH, SMOOTH[..., 0].copy(), RGBA], ids=["colour", "grey", "alpha"]
)
def test_jpeg_xl_is_read_as_written(pixels):
    pytest.importorskip("pillow_jxl")
    data = imagecodecs.jpegxl_encode(pixels, lossless=True)
    assert_array_equal(decode(data, "a").array(), pixels)
    assert read_size(io.BytesIO(data)) == pixels.shape[1::-1]


# ------------------------------------------------------------------------------------- orientation


def by_opencv(orientation):
    """The smooth image as a PNG of this orientation is shown."""
    data = encoded(Image.fromarray(SMOOTH), exif=exif(orientation))
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)


def exif(orientation):
    tags = Image.Exif()
    tags[0x0112] = orientation  # the tag Orientation
    return tags.tobytes()


@pytest.mark.parametrize("orientation", [0, 9])
def test_an_unknown_orientation_is_read_as_upright(orientation):
    data = encoded(Image.fromarray(SMOOTH), exif=exif(orientation))
    assert_array_equal(decode(data, "a").rgb, SMOOTH)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF", "AVIF", "HEIF"])
def test_images_are_turned_as_by_opencv(kind, orientation):
    if kind == "HEIF":
        pytest.importorskip("pillow_heif").register_heif_opener()
    data = encoded(Image.fromarray(SMOOTH), kind, exif=exif(orientation), quality=100)
    expected = by_opencv(orientation)
    # A lossy file is far off at edges, but not as far as a turned image.
    check(data, expected, tolerance=0 if kind in ("PNG", "TIFF") else 30)
    assert read_size(io.BytesIO(data)) == expected.shape[1::-1]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("compression", [None, "lzw", "zlib", "zstd"])
def test_16_bit_tiffs_are_turned_as_by_opencv(compression, orientation):
    """Each compression has a decoder of its own; one that turned, too, would turn them twice."""
    tags = [(274, 3, 1, orientation, True)]  # Orientation, one 16-bit number
    data = tiff(DEEP, photometric="rgb", compression=compression, extratags=tags)
    check(data, by_opencv(orientation).astype(int) * 257)


# --------------------------------------------------------------------------------- what is refused


NOISE = DRAWS.integers(0, 256, (48, 64, 3), dtype=np.uint8)


def coded(kind, pixels, **options):
    """A file of one of Pillow's formats, of JPEG XL or 2000, or a TIFF of some compression."""
    if kind.startswith("TIFF"):
        return tiff(pixels, photometric="rgb", compression=kind.split()[1])
    if kind == "JPEG XL":
        pytest.importorskip("pillow_jxl")
        return bytes(imagecodecs.jpegxl_encode(pixels))
    if kind == "JPEG 2000":
        return bytes(imagecodecs.jpeg2k_encode(pixels))
    if kind == "HEIF":
        pytest.importorskip("pillow_heif").register_heif_opener()
    return encoded(pixels, kind.removesuffix(" lossless"), lossless="lossless" in kind, **options)


KINDS = ["JPEG", "PNG", "WEBP", "WEBP lossless", "GIF", "AVIF", "HEIF", "JPEG XL", "JPEG 2000"]
TIFFS = ["TIFF zlib", "TIFF lzw", "TIFF zstd", "TIFF packbits", "TIFF jpeg", "TIFF webp"]


@pytest.mark.parametrize("kind", KINDS + TIFFS)
@pytest.mark.parametrize("part", [0.2, 0.8])
def test_a_file_whose_end_is_zeros_is_refused(kind, part):
    """As a copy that was broken off leaves it; `part` of the pixels are there."""
    data = coded(kind, NOISE)
    # AVIF and HEIF hold pixels in the box mdat; in others they begin in the first quarter.
    pixels_at = data.rfind(b"mdat") + 4 if b"mdat" in data else len(data) // 4
    kept = pixels_at + int(part * (len(data) - pixels_at))
    with pytest.raises(UnreadableImage):
        decode(data[:kept] + bytes(len(data) - kept), "a")


@pytest.mark.parametrize("kind", ["WEBP", "AVIF", "JPEG XL", "JPEG 2000"])
def test_an_image_whose_lower_half_is_flat_is_not_refused_for_zeros_at_its_end(kind):
    """Lossy WebP codes a flat half in zeros."""
    image = np.full((512, 512, 3), 128, np.uint8)
    image[:256] = DRAWS.integers(0, 256, (256, 512, 3))
    assert decode(coded(kind, image, quality=5), "a").rgb.shape == (512, 512, 3)


def test_the_checksum_of_a_deflated_tiff_is_compared():
    data = bytearray(tiff(SMOOTH, photometric="rgb", compression="zlib"))
    page = tifffile.TiffFile(io.BytesIO(data)).pages.first
    data[page.dataoffsets[0] + page.databytecounts[0] - 1] ^= 1  # the end is the checksum
    with pytest.raises(UnreadableImage) as caught:
        decode(bytes(data), "a")
    assert caught.value.reason == "damaged"


DNG_VERSION = (50706, 1, 4, (1, 4, 0, 0), True)  # the tag DNGVersion: 1.4.0.0


def raw(tags, photometric):
    """A thumbnail whose sub-directory has the sensor's samples, as cameras write."""
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer) as file:
        file.write(SMOOTH, photometric="rgb", subfiletype=1, subifds=1, extratags=tags)
        file.write(SMOOTH[..., 0].copy(), photometric=photometric)
    return buffer.getvalue()


RAWS = {
    "DNG": raw([DNG_VERSION], "minisblack"),
    "NEF, ARW": raw([], "cfa"),
    "CR2": b"II*\0\x10\0\0\0CR\x02\0",
    "RAF": b"FUJIFILMCCD-RAW 0201FF383501",
    "CR3": b"\0\0\0\x18ftypcrx \0\0\0\1crx isom",
    "ORF": b"IIRO\x08\0\0\0",
    "RW2": b"IIU\0\x18\0\0\0",
}


@pytest.mark.parametrize("data", RAWS.values(), ids=RAWS)
def test_a_raw_file_of_a_camera_is_refused_instead_of_read_as_its_thumbnail(data):
    with pytest.raises(UnreadableImage, match="develop it first") as caught:
        decode(data + bytes(99), "a")
    assert caught.value.reason == "unsupported"
    with pytest.raises(UnreadableImage, match="develop it first"):
        read_size(io.BytesIO(data + bytes(99)))
