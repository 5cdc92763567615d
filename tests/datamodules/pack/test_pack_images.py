"""Processing by the packer: encodings, crops, captions."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image, ImageCms
from PIL.JpegImagePlugin import get_sampling

from datamodules.files.roles import roles_of
from datamodules.pack.images import Encoding, Recipe, process, square_starts
from datamodules.pack.inputs import find_inputs
from datamodules.pack.places import Entry, File
from files.images.decode import decode
from files.images.encoders import png_of_16_bits, with_chunks
from tests.datamodules.image_files import encoded, pixels, save

PNG = Encoding("png")
WEBP = Encoding("webp")
JPEG = Encoding("jpeg", 95)


def packed(path: Path, lr: Path | None = None, **recipe: Any) -> Any:
    """What the packer makes of one image, or of a pair."""
    suffix = path.suffix.removeprefix(".")
    members = {suffix: File(str(path))}
    if lr is not None:
        members = {f"hr.{suffix}": File(str(path)), f"lr.{lr.suffix[1:]}": File(str(lr))}
    return process(Recipe(**recipe), Entry(path.stem, members))


def members_of(outcome: Any) -> dict[str, bytes]:
    assert outcome.refused is None, outcome.refused
    [(_, members)] = outcome.samples
    return members


def image(members: dict[str, bytes], role: str = "hr") -> Any:
    return decode(members[roles_of(tuple(members)).members[role]], "packed")


def wide_profile() -> bytes:
    """An RGB profile far from sRGB: its green is sRGB's red."""
    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    places = {bytes(data[n : n + 4]): n for n in range(128, 128 + 12 * 20, 4)}
    red = places[b"rXYZ"]
    green = places[b"gXYZ"]
    data[red : red + 4] = b"gXYZ"
    data[green : green + 4] = b"rXYZ"
    return bytes(data)


# -------------------------------------------------------------------------------------- encodings


@pytest.mark.parametrize("encoding", [PNG, WEBP])
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P", "CMYK", "turned", "profile"])
def test_lossless_encodings_lose_nothing(tmp_path, encoding, mode):
    """Every reader sees the same colours, with and without profiles."""
    image = Image.fromarray(pixels((9, 7)))
    path = tmp_path / "a.tif"
    options = {}
    if mode == "RGBA":
        image.putalpha(Image.fromarray(pixels((9, 7), 1)[..., 0] // 128 * 255))
    elif mode == "turned":
        path = tmp_path / "a.jpg"
        options["exif"] = Image.Exif()
        options["exif"][0x0112] = 6
    elif mode == "profile":
        options["icc_profile"] = wide_profile()
    else:
        image = image.convert(mode)
    image.save(path, **options)

    members = members_of(packed(path, encode=encoding))

    assert list(members) == [encoding.kind]
    for srgb in (False, True):
        before = decode(path.read_bytes(), "before", srgb)
        after = decode(members[encoding.kind], "after", srgb)
        np.testing.assert_array_equal(before.rgb, after.rgb)
        if mode == "RGBA":
            np.testing.assert_array_equal(before.alpha, after.alpha)
    if mode == "profile":
        plain = decode(path.read_bytes(), "before", srgb=False)
        assert (before.rgb != plain.rgb).any()  # else this tests nothing


def test_sixteen_bits_stay_in_png_and_are_refused_by_others(tmp_path):
    deep = np.random.default_rng(0).integers(0, 65536, (40, 30, 3), dtype=np.uint16)
    cv2.imwrite(str(tmp_path / "a.png"), deep[..., ::-1])
    cv2.imwrite(str(tmp_path / "b.tiff"), deep[..., ::-1])

    whole = members_of(packed(tmp_path / "b.tiff", encode=PNG))
    _, crop = packed(tmp_path / "a.png", crop=30, step=30).samples[0]

    np.testing.assert_array_equal(image(whole).rgb, deep)
    np.testing.assert_array_equal(image(crop).rgb, deep[:30])
    for encoding in (WEBP, JPEG):
        refused = packed(tmp_path / "a.png", encode=encoding).refused
        assert "--encode png" in refused.message


@pytest.mark.parametrize("deep", [False, True])
def test_png_keeps_the_colours_of_hdr(tmp_path, deep):
    rgb = pixels((9, 7))
    points = bytes([9, 16, 0, 1])  # BT.2020, PQ (ITU-T H.273)
    png = png_of_16_bits(rgb.astype(np.uint16) * 257) if deep else encoded(rgb)
    path = tmp_path / "a.png"
    path.write_bytes(with_chunks(png, b"cICP" + points))
    [(_, members), *_] = packed(path, crop=5).samples
    assert image(members).cicp == points
    if not deep:
        for encoding in (WEBP, JPEG):
            (note,) = packed(path, encode=encoding).notes
            assert note.startswith("images that lost their colours (cICP code points, as of HDR)")


def test_a_file_of_the_wanted_kind_keeps_its_bytes(tmp_path):
    webp = save(tmp_path / "a.webp")  # lossy
    assert members_of(packed(webp, encode=WEBP)) == {"webp": webp.read_bytes()}
    as_png = members_of(packed(webp, encode=PNG))
    np.testing.assert_array_equal(image(as_png).rgb, decode(webp.read_bytes(), "").rgb)


def test_jpeg_has_the_quality_and_srgb(tmp_path):
    smooth = np.asarray(Image.fromarray(pixels((5, 4))).resize((120, 90), Image.Resampling.BICUBIC))
    path = tmp_path / "a.png"
    path.write_bytes(encoded(smooth, icc_profile=wide_profile()))

    low = members_of(packed(path, encode=Encoding("jpeg", 30)))["jpg"]
    high = members_of(packed(path, encode=Encoding("jpeg", 97)))["jpg"]

    assert len(low) < len(high)
    assert get_sampling(Image.open(io.BytesIO(high))) == 0  # colours of all pixels
    assert decode(high, "").icc is None
    expected = decode(path.read_bytes(), "", srgb=True).rgb.astype(int)
    assert np.abs(decode(high, "").rgb - expected).mean() < 3


# ---------------------------------------------------------------------------------------- cutting


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
    hr = save(tmp_path / "a.png", size, 1)
    lr = save(tmp_path / "lr" / "a.png", (6, 4), 2)

    lossy = packed(hr, lr, scale=2.0, crop=4, step=4, encode=JPEG).samples
    lossless = packed(hr, lr, scale=2.0, crop=4, step=4).samples

    assert len(lossy) == len(lossless) == 6
    for number, (_, members) in enumerate(lossy):
        row, column = divmod(number, 3)
        assert list(members) == ["hr.jpg", "lr.png"]  # an LR is lossless
        expected = pixels((6, 4), 2)[2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
        np.testing.assert_array_equal(image(members, "lr").rgb, expected)
    _, last = lossless[5]
    np.testing.assert_array_equal(image(last).rgb, pixels(size, 1)[4:8, 8:12])


# ------------------------------------------------------------------------------ captions, metadata


def with_texts(path: Path, **recipe: Any) -> Any:
    """Pack the only image of a folder, with the texts beside it."""
    [entry] = find_inputs(str(path.parent)).entries
    return process(Recipe(**recipe), entry)


def test_texts_beside_an_image_go_with_it_and_with_its_crops(tmp_path):
    path = save(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("\ufeffa red barn \r\n", encoding="utf-8")
    (tmp_path / "a.json").write_text('{"caption": "a blue barn", "year": 1900}')
    members = members_of(with_texts(path))
    assert members["txt"] == b"a red barn"
    assert json.loads(members["json"])["year"] == 1900
    for _, members in with_texts(path, crop=4, step=4).samples:
        assert members["txt"] == b"a red barn"


@pytest.mark.parametrize("content", [b'{"caption": ', b"[" * 100_000])
def test_broken_json_is_refused(tmp_path, content):
    path = save(tmp_path / "a.png")
    (tmp_path / "a.json").write_bytes(content)
    refused = with_texts(path).refused
    assert refused.reason == "damaged"
    assert str(path) in refused.message
