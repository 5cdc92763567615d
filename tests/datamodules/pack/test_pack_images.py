"""Processing by the packer: encodings, crops, and refused images."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from PIL import Image, ImageCms
from PIL.JpegImagePlugin import get_sampling

from datamodules.files.roles import roles_of
from datamodules.pack.images import KEEP, Encoding, Recipe, process, square_starts
from datamodules.pack.inputs import find_inputs
from datamodules.pack.places import Entry, File
from files.images.decode import decode
from files.images.encoders import png_of_16_bits, with_chunks
from tests.datamodules.image_files import encoded, pixels, save

PNG, WEBP, JPEG = Encoding("png"), Encoding("webp"), Encoding("jpeg", 95)


def outcome(path, recipe=None, lr=None):
    suffix = path.suffix.removeprefix(".")
    members = {suffix: File(str(path))}
    if lr is not None:
        members = {f"hr.{suffix}": File(str(path)), f"lr.{lr.suffix[1:]}": File(str(lr))}
    return process(recipe or Recipe(), Entry(path.stem, members))


def only(found):
    assert found.refused is None, found.refused
    [(key, members)] = found.samples
    return key, members


def image(members, role=""):
    suffix = roles_of(tuple(members)).members[role.removesuffix(".") or "hr"]
    assert suffix.startswith(role)
    return decode(members[suffix], "packed")


def wide_profile():
    """An RGB profile far from sRGB: its green is sRGB's red."""
    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    at = {bytes(data[n : n + 4]): n for n in range(128, 128 + 12 * 20, 4)}
    red, green = at[b"rXYZ"], at[b"gXYZ"]
    data[red : red + 4], data[green : green + 4] = b"gXYZ", b"rXYZ"
    return bytes(data)


# ---------------------------------------------------------------------------------------- encodings


@pytest.mark.parametrize("encoding", [PNG, WEBP])
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P", "CMYK", "turned", "profile"])
def test_lossless_kinds_lose_nothing(tmp_path, encoding, mode):
    """Every reader sees the same colours, with and without profiles."""
    image = Image.fromarray(pixels((9, 7)))
    path, options = tmp_path / "a.tif", {}
    if mode == "RGBA":
        image.putalpha(Image.fromarray(pixels((9, 7), 1)[..., 0] // 128 * 255))
    elif mode == "turned":
        path, options = tmp_path / "a.jpg", {"exif": Image.Exif()}
        options["exif"][0x0112] = 6
    elif mode == "profile":
        options["icc_profile"] = wide_profile()
    else:
        image = image.convert(mode)
    image.save(path, **options)
    original = path.read_bytes()
    _, members = only(outcome(path, Recipe(encode=encoding)))
    assert list(members) == [encoding.kind]
    for srgb in (False, True):
        before, after = decode(original, "before", srgb), decode(members[encoding.kind], "", srgb)
        np.testing.assert_array_equal(before.rgb, after.rgb)
        if mode == "RGBA":
            np.testing.assert_array_equal(before.alpha, after.alpha)
    if mode == "profile":
        plain = decode(original, "", srgb=False).rgb
        assert (decode(original, "", srgb=True).rgb != plain).any()  # else this tests nothing


def test_sixteen_bits(tmp_path):
    import cv2

    deep = np.random.default_rng(0).integers(0, 65536, (40, 30, 3), dtype=np.uint16)
    cv2.imwrite(str(tmp_path / "a.png"), deep)
    cv2.imwrite(str(tmp_path / "b.tiff"), deep)
    _, members = only(outcome(tmp_path / "b.tiff", Recipe(encode=PNG)))
    np.testing.assert_array_equal(image(members).rgb, deep[..., ::-1])
    _, members = outcome(tmp_path / "a.png", Recipe(crop=30, step=30)).samples[0]
    np.testing.assert_array_equal(image(members).rgb, deep[:30, :, ::-1])
    for encoding in (WEBP, JPEG):
        found = outcome(tmp_path / "a.png", Recipe(encode=encoding))
        assert found.refused.reason.startswith("impossible as")
        assert "--encode png" in found.refused.message


@pytest.mark.parametrize("deep", [False, True])
def test_colours_of_hdr(tmp_path, deep):
    rgb, points = pixels((9, 7)), bytes([9, 16, 0, 1])
    png = png_of_16_bits(rgb.astype(np.uint16) * 257) if deep else encoded(rgb)
    path = tmp_path / "a.png"
    path.write_bytes(with_chunks(png, b"cICP" + points))
    [(_, members), *_] = outcome(path, Recipe(crop=5)).samples
    assert image(members).cicp == points
    if not deep:
        for encoding in (WEBP, JPEG):
            (note,) = outcome(path, Recipe(encode=encoding)).notes
            assert note.startswith("images that lost their colours (cICP code points, as of HDR)")


@pytest.mark.parametrize("encode", [KEEP, PNG])
def test_only_the_first_frame_is_used(tmp_path, encode):
    frames = [Image.fromarray(pixels((9, 7), seed)) for seed in (0, 1)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    found = outcome(tmp_path / "a.gif", Recipe(encode=encode))
    assert "images that are read without their further frames or pages" in found.notes


def test_what_is_of_the_kind_already_is_kept(tmp_path):
    webp = save(tmp_path / "a.webp")  # lossy
    assert only(outcome(webp, Recipe(encode=WEBP)))[1] == {"webp": webp.read_bytes()}
    _, members = only(outcome(webp, Recipe(encode=PNG)))
    np.testing.assert_array_equal(image(members).rgb, decode(webp.read_bytes(), "").rgb)


def test_jpeg_has_the_quality_and_srgb(tmp_path):
    smooth = np.asarray(Image.fromarray(pixels((5, 4))).resize((120, 90), Image.Resampling.BICUBIC))
    path = tmp_path / "a.png"
    path.write_bytes(encoded(smooth, icc_profile=wide_profile()))
    sizes = {}
    for quality in (30, 97):
        _, members = only(outcome(path, Recipe(encode=Encoding("jpeg", quality))))
        sizes[quality] = len(members["jpg"])
    assert sizes[30] < sizes[97]
    assert get_sampling(Image.open(io.BytesIO(members["jpg"]))) == 0  # colours of all pixels
    packed = decode(members["jpg"], "")
    assert packed.icc is None
    expected = decode(path.read_bytes(), "", srgb=True).rgb.astype(int)
    assert np.abs(packed.rgb - expected).mean() < 3


# ----------------------------------------------------------------------------------------- cutting


@pytest.mark.parametrize(
    ("length", "side", "step", "expected"),
    [
        (2040, 480, 240, [0, 240, 480, 720, 960, 1200, 1440, 1560]),  # DIV2K, as BasicSR
        (960, 480, 240, [0, 240, 480]),
        (961, 480, 240, [0, 240, 480, 481]),
        (5, 5, 3, [0]),
    ],
)
def test_places_are_those_of_basicsr(length, side, step, expected):
    assert square_starts(length, side, step) == expected


@pytest.mark.parametrize("size", [(12, 8), (13, 9)])  # and pixels that readers cut off
def test_pairs_are_cut_alike(tmp_path, size):
    hr, lr = save(tmp_path / "a.png", size, 1), save(tmp_path / "lr" / "a.png", (6, 4), 2)
    recipe = Recipe(scale=2.0, crop=4, step=4, encode=JPEG)
    found = outcome(hr, recipe, lr)
    assert len(found.samples) == 6
    for number, (_, members) in enumerate(found.samples):
        row, column = divmod(number, 3)
        assert list(members) == ["hr.jpg", "lr.png"]  # an LR is lossless
        expected = pixels((6, 4), 2)[2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
        np.testing.assert_array_equal(image(members, "lr.").rgb, expected)
    lossless = Recipe(scale=2.0, crop=4, step=4)
    _, members = outcome(hr, lossless, lr).samples[5]
    np.testing.assert_array_equal(image(members, "hr.").rgb, pixels(size, 1)[4:8, 8:12])


def test_pairs_of_other_sizes(tmp_path):
    hr, lr = save(tmp_path / "a.png", (12, 8)), save(tmp_path / "lr" / "a.png", (6, 5))
    found = outcome(hr, Recipe(scale=2.0), lr)
    assert found.refused.reason == "sizes of the pair"
    assert "HR 12x8, LR 6x5, expected HR 12x10" in found.refused.message
    assert outcome(hr, Recipe(crop=4, step=4), lr).refused.reason == "sizes of the pair"


# ------------------------------------------------------------------------------ captions, metadata


def with_texts(path, recipe=None):
    """Pack the only image of a folder, with the texts beside it."""
    [entry] = find_inputs(str(path.parent)).entries
    return process(recipe or Recipe(), entry)


def test_texts_beside_an_image(tmp_path):
    path = save(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("\ufeffa red barn \r\n", encoding="utf-8")
    (tmp_path / "a.json").write_text('{"caption": "a blue barn", "year": 1900}')
    _, members = only(with_texts(path))
    assert members["txt"] == b"a red barn"
    assert json.loads(members["json"])["year"] == 1900
    cut = with_texts(path, Recipe(crop=4, step=4)).samples
    assert all(members["txt"] == b"a red barn" for _, members in cut)


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.txt", b"\xff"), ("a.json", b'{"caption": '), ("a.json", b"[" * 100_000)],
)
def test_broken_sidecars(tmp_path, name, content):
    path = save(tmp_path / "a.png")
    (tmp_path / name).write_bytes(content)
    found = with_texts(path)
    assert found.refused.reason == "damaged"
    assert str(path) in found.refused.message
