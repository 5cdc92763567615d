"""Processing by the packer: encodings, crops, captions."""

import io

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from PIL import Image
from PIL.JpegImagePlugin import get_sampling

from datamodules.files.roles import roles_of
from datamodules.pack.images import Encoding, Recipe, process, square_starts
from datamodules.pack.inputs import find_inputs
from datamodules.pack.places import Entry, File
from files.images.decode import decode
from files.images.encoders import png_of_16_bits, with_chunks
from tests.datamodules.image_files import encoded, pixels, save
from tests.datamodules.profiles import rgb_profile

PNG = Encoding("png")
WEBP = Encoding("webp")
JPEG = Encoding("jpeg", 95)


def packed(path, lr=None, **recipe):
    """What the packer makes of one image, or of a pair."""
    suffix = path.suffix.removeprefix(".")
    members = {suffix: File(str(path))}
    if lr is not None:
        members = {f"hr.{suffix}": File(str(path)), f"lr.{lr.suffix[1:]}": File(str(lr))}
    return process(Recipe(**recipe), Entry(path.stem, members))


def members_of(outcome):
    """The members of the only sample."""
    assert outcome.refused is None
    [(_, members)] = outcome.samples
    return members


def image(members, role="hr"):
    return decode(members[roles_of(tuple(members)).members[role]], "packed")


# -------------------------------------------------------------------------------------- encodings


def save_as(path, mode):
    """Save random pixels in a mode of Pillow, or with a profile."""
    image = Image.fromarray(pixels((9, 7)))
    if mode == "RGBA":
        image.putalpha(Image.fromarray(pixels((9, 7), 1)[..., 0] // 128 * 255))
        image.save(path)
    elif mode == "profile":
        image.save(path, icc_profile=rgb_profile())
    else:
        image.convert(mode).save(path)


@pytest.mark.parametrize("encoding", [PNG, WEBP])
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P", "CMYK", "profile"])
@pytest.mark.parametrize("srgb", [False, True])
def test_lossless_encodings_lose_nothing(tmp_path, encoding, mode, srgb):
    """Readers that convert to sRGB and those that do not see the same colours as before."""
    save_as(tmp_path / "a.tif", mode)
    members = members_of(packed(tmp_path / "a.tif", encode=encoding))
    before = decode((tmp_path / "a.tif").read_bytes(), "before", srgb)
    after = decode(members[encoding.kind], "after", srgb)
    assert_array_equal(before.rgb, after.rgb)
    assert_array_equal(before.alpha, after.alpha)


def test_sixteen_bits_stay_in_png_and_are_refused_by_others(tmp_path):
    deep = np.random.default_rng(0).integers(0, 65536, (40, 30, 3), dtype=np.uint16)
    path = tmp_path / "a.png"
    path.write_bytes(png_of_16_bits(deep))

    whole = members_of(packed(path, encode=PNG))
    _, crop = packed(path, crop=30, step=30).samples[0]

    assert_array_equal(image(whole).rgb, deep)
    assert_array_equal(image(crop).rgb, deep[:30])
    for encoding in (WEBP, JPEG):
        assert "--encode png" in packed(path, encode=encoding).refused.message


@pytest.mark.parametrize("deep", [False, True])
def test_png_keeps_the_colours_of_hdr(tmp_path, deep):
    points = bytes([9, 16, 0, 1])  # BT.2020, PQ (ITU-T H.273)
    png = png_of_16_bits(pixels().astype(np.uint16)) if deep else encoded(pixels())
    path = tmp_path / "a.png"
    path.write_bytes(with_chunks(png, b"cICP" + points))
    _, crop = packed(path, crop=5).samples[0]
    assert image(crop).cicp == points


@pytest.mark.parametrize("encoding", [WEBP, JPEG])
def test_other_encodings_tell_that_the_colours_of_hdr_are_lost(tmp_path, encoding):
    path = tmp_path / "a.png"
    path.write_bytes(with_chunks(encoded(pixels()), b"cICP" + bytes([9, 16, 0, 1])))
    (note,) = packed(path, encode=encoding).notes
    assert note.startswith("images that lost their colours (cICP code points, as of HDR)")


def test_a_file_of_the_wanted_kind_keeps_its_bytes(tmp_path):
    webp = save(tmp_path / "a.webp")  # lossy
    as_png = members_of(packed(webp, encode=PNG))
    assert members_of(packed(webp, encode=WEBP)) == {"webp": webp.read_bytes()}
    assert_array_equal(image(as_png).rgb, decode(webp.read_bytes(), "").rgb)


@pytest.mark.parametrize("kind", ["png", "webp"])
def test_a_jpeg_with_a_truncated_header_segment_is_encoded(tmp_path, kind):
    """Decoders take such a file."""
    path = tmp_path / "a.jpg"
    data = encoded(pixels(), "JPEG")
    jfif = data[2:20]  # the first segment: its marker, and 16 bytes, which its length counts
    path.write_bytes(data.replace(jfif, b"\xff\xe0\x00\x07JFIF\0"))  # 7: length and name alone
    members = members_of(packed(path, encode=Encoding(kind)))
    assert_array_equal(image(members).rgb, decode(data, "original").rgb)


def test_a_jpeg_has_its_quality_full_chroma_and_the_colours_of_srgb(tmp_path):
    """Readers of shards may ignore profiles, and halved chroma would be an artefact to learn."""
    smooth = np.asarray(Image.fromarray(pixels((5, 4))).resize((120, 90), Image.Resampling.BICUBIC))
    path = tmp_path / "a.png"
    path.write_bytes(encoded(smooth, icc_profile=rgb_profile()))

    low = members_of(packed(path, encode=Encoding("jpeg", quality=30)))["jpg"]
    high = members_of(packed(path, encode=Encoding("jpeg", quality=97)))["jpg"]

    assert len(low) < len(high)
    assert get_sampling(Image.open(io.BytesIO(high))) == 0  # Pillow's number of 4:4:4
    assert decode(high, "").icc is None
    expected = decode(path.read_bytes(), "", srgb=True).rgb.astype(int)
    assert np.abs(decode(high, "").rgb - expected).mean() < 3  # levels lost at quality 97


def test_a_jpeg_of_too_many_pixels_is_refused(tmp_path):
    path = tmp_path / "a.png"
    Image.new("RGB", (65501, 1)).save(path)  # libjpeg's limit is 65500
    assert packed(path, encode=JPEG).refused.reason == "impossible as jpeg"


# ---------------------------------------------------------------------------------------- cutting


@pytest.mark.parametrize(
    ("length", "side", "step", "expected"),
    [
        pytest.param(2040, 480, 240, [0, 240, 480, 720, 960, 1200, 1440, 1560], id="DIV2K"),
        pytest.param(960, 480, 240, [0, 240, 480], id="the third square ends at the border"),
        pytest.param(961, 480, 240, [0, 240, 480, 481], id="one pixel is left: a fourth square"),
        pytest.param(5, 5, 3, [0], id="as long as a square"),
    ],
)
def test_squares_start_every_step_and_the_last_one_ends_at_the_border(length, side, step, expected):
    """As in BasicSR's `extract_subimages`."""
    assert square_starts(length, side, step) == expected


@pytest.mark.parametrize("size", [(12, 8), (13, 9)], ids=["twice LR", "1 more, which is cut off"])
def test_hr_and_lr_of_a_pair_are_cut_at_the_same_places(tmp_path, size):
    hr = save(tmp_path / "a.png", size, seed=1)
    lr = save(tmp_path / "lr" / "a.png", (6, 4), seed=2)

    samples = packed(hr, lr, scale=2.0, crop=4, step=4, encode=PNG).samples
    _, fifth = samples[4]  # the middle one of the lower row

    assert len(samples) == 6  # two rows of three squares of 4 pixels in 12x8
    assert_array_equal(image(fifth, "hr").rgb, pixels(size, seed=1)[4:8, 4:8])
    assert_array_equal(image(fifth, "lr").rgb, pixels((6, 4), seed=2)[2:4, 2:4])


def test_of_a_pair_only_hr_becomes_a_jpeg(tmp_path):
    """Encoded again, LR would have artefacts that are not of its degradation."""
    hr = save(tmp_path / "a.png", (8, 8))
    lr = save(tmp_path / "lr" / "a.png", (4, 4))

    members = members_of(packed(hr, lr, scale=2.0, crop=8, encode=JPEG))

    assert list(members) == ["hr.jpg", "lr.png"]
    assert_array_equal(image(members, "lr").rgb, pixels((4, 4)))


@pytest.mark.parametrize(
    "content", [b'{"caption": ', b"[" * 100_000], ids=["cut off", "too deep for a parser"]
)
def test_broken_json_is_refused(tmp_path, content):
    save(tmp_path / "a.png")
    (tmp_path / "a.json").write_bytes(content)
    [entry] = find_inputs(str(tmp_path)).entries
    refused = process(Recipe(), entry).refused
    assert refused.reason == "damaged"
    assert str(tmp_path / "a.png") in refused.message
