"""Crops by restart markers are bit-equal to the whole image; unfit files are refused."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from datamodules.files.decode import UnreadableImage, decode
from datamodules.files.jpeg import read_header
from datamodules.files.restart import Box, decode_crop, encode_jpeg, restart_offsets


def smooth(height, width, seed=0):
    """Smooth colours with some noise, so that chroma interpolation matters."""
    generator = np.random.default_rng(seed)
    colours = generator.integers(0, 256, (7, 9, 3), dtype=np.uint8)
    image = np.asarray(Image.fromarray(colours).resize((width, height), Image.Resampling.BICUBIC))
    noise = generator.integers(-20, 21, image.shape)
    return np.clip(image.astype(int) + noise, 0, 255).astype(np.uint8)


def saved(pixels, kind="JPEG", **options):
    buffer = io.BytesIO()
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def boxes(height, width):
    """(top, left, height, width) inside an image, often at its edges."""
    rows = st.tuples(st.integers(0, height - 1), st.integers(0, height - 1))
    columns = st.tuples(st.integers(0, width - 1), st.integers(0, width - 1))
    return st.tuples(rows, columns).map(
        lambda pair: (
            min(pair[0]),
            min(pair[1]),
            max(pair[0]) - min(pair[0]) + 1,
            max(pair[1]) - min(pair[1]) + 1,
        )
    )


# ------------------------------------------------------------------------------------------- crops


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_crop_is_a_slice_of_the_whole(data):
    height, width = data.draw(st.integers(1, 120)), data.draw(st.integers(1, 180))
    quality, blocks = data.draw(st.integers(5, 100)), data.draw(st.integers(1, 9))
    pixels = smooth(height, width, data.draw(st.integers(0, 9)))
    file = encode_jpeg(pixels, quality, blocks)
    whole = decode(file, "a").rgb
    assert whole.shape == pixels.shape
    box = Box(*data.draw(boxes(height, width)))
    crop = decode_crop(file, restart_offsets(file), box)
    rows, columns = slice(box.top, box.top + box.height), slice(box.left, box.left + box.width)
    np.testing.assert_array_equal(crop, whole[rows, columns])


def test_pillow_sees_the_true_image():
    pixels = smooth(45, 150)
    file = encode_jpeg(pixels, 95)
    whole = np.asarray(Image.open(io.BytesIO(file)))
    assert whole.shape == pixels.shape
    np.testing.assert_allclose(whole.astype(float).mean(), pixels.mean(), atol=1)
    np.testing.assert_array_equal(whole, decode(file, "a").rgb)


def test_what_is_broken_elsewhere_does_not_matter():
    file = encode_jpeg(smooth(200, 512), 90)
    offsets = restart_offsets(file)
    whole = decode(file, "a").rgb
    broken = bytearray(file)
    broken[offsets[-3] + 2 : offsets[-2]] = bytes(int(offsets[-2] - offsets[-3]) - 2)
    np.testing.assert_array_equal(
        decode_crop(bytes(broken), offsets, Box(0, 0, 64, 64)), whole[:64, :64]
    )


@pytest.mark.parametrize(
    ("width", "blocks", "interval"),
    [
        (2048, 8, 8),
        (2040, 8, 8),  # 128 blocks, the last of them half outside
        (1200, 8, 5),  # 75 blocks
        (1936, 8, 11),  # 121 blocks
        (976, 8, 1),  # 61 blocks, a prime number
        (481, 8, 31),  # 31 blocks, few enough to be one segment
        (2048, 16, 16),
        (3, 8, 1),
    ],
)
def test_segments_never_straddle_rows(width, blocks, interval):
    file = encode_jpeg(smooth(33, width), 80, blocks)
    assert read_header(file).interval == interval
    assert len(restart_offsets(file)) == 2 + 3 * (-(-width // 16) // interval)


def test_a_file_with_exif_is_decoded_whole():
    exif = Image.Exif()
    exif[0x0112] = 6
    file = saved(smooth(64, 128), exif=exif, restart_marker_blocks=4)
    assert decode_crop(file, np.zeros(0, np.uint32), Box(0, 0, 8, 8)) is None


# --------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("file", "reason"),
    [
        (saved(smooth(32, 32)), "no restart markers"),
        (saved(smooth(32, 32), progressive=True, restart_marker_blocks=1), "no restart markers"),
        (b"", "no restart markers"),
        (encode_jpeg(smooth(64, 64), 90, 1)[:-200], "not in order"),
        (
            encode_jpeg(smooth(64, 64), 90, 1).replace(b"\xff\xd3", b"\xff\xd4"),
            "not in order",
        ),
    ],
)
def test_files_without_usable_markers(file, reason):
    with pytest.raises(ValueError, match=reason):
        restart_offsets(file)


def unfit():
    file = encode_jpeg(smooth(64, 128), 90, blocks=1)
    offsets = restart_offsets(file)
    other = encode_jpeg(smooth(64, 128, seed=1), 90, blocks=1)
    moved = offsets.copy()
    moved[10] += 1
    early = offsets.copy()
    early[9] = early[2]
    hole = bytearray(file)
    hole[offsets[9] + 2 : offsets[10]] = bytes(int(offsets[10] - offsets[9]) - 2)
    return {
        "another file's": (file, restart_offsets(other), "damaged", "markers|another file"),
        "too few": (file, offsets[:-1], "damaged", "another file"),
        "none": (file, offsets[:0], "damaged", "another file"),
        "moved": (file, moved, "damaged", "not where its offsets say"),
        "out of order": (file, early, "damaged", "not where its offsets say"),
        "cut": (file[: offsets[12]], offsets, "truncated", "ends before"),
        "cut in the header": (file[:100], offsets, "damaged", "header"),
        "empty": (b"", offsets, "damaged", "header"),
        "without markers": (
            saved(smooth(64, 128)),
            offsets,
            "damaged",
            "no longer has restart markers",
        ),
        "damaged": (bytes(hole), offsets, "damaged", "Corrupt"),
    }


@pytest.mark.parametrize("case", unfit())
def test_offsets_that_do_not_fit(case):
    file, offsets, reason, message = unfit()[case]
    with pytest.raises(UnreadableImage, match=rf"^a\.jpg: .*({message})") as caught:
        decode_crop(file, offsets, Box(8, 8, 48, 100), name="a.jpg")
    assert caught.value.reason == reason
