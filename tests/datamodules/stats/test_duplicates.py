"""Equal and similar images: planted ones are found, others not, in any room."""

from __future__ import annotations

import io

import cv2
import numpy as np
import pytest
from PIL import Image

from datamodules.sources.photos import photo_path
from datamodules.stats.duplicates import IMAGE, find_duplicates, masks_of
from datamodules.stats.measure import measured


def records(phash, digest=None, flat=None):
    found = np.zeros(len(phash), IMAGE)
    found["number"] = np.arange(len(phash))
    found["phash"] = phash
    found["digest"][:, 0] = np.arange(len(phash)) if digest is None else digest
    found["flat"] = False if flat is None else flat
    return found


def groups(images, folder, distance=4, room=1 << 20, pieces=7):
    folder.mkdir(exist_ok=True)
    split = np.array_split(images, pieces)
    equal, similar = find_duplicates(iter(split), len(images), distance, folder, room)
    return equal, similar


def flipped(phash, bits, generator):
    for bit in generator.choice(64, bits, replace=False).tolist():
        phash ^= 1 << bit
    return phash


@pytest.fixture(scope="module")
def planted():
    """Random hashes, of which some have a neighbour at a known distance."""
    generator = np.random.default_rng(0)
    hashes = generator.integers(0, 1 << 64, 3000, dtype=np.uint64).tolist()
    for distance in range(7):
        for n in range(20):
            hashes.append(flipped(hashes[distance * 20 + n], distance, generator))
    return np.array(hashes, np.uint64)


@pytest.mark.parametrize(
    ("distance", "room"), [(0, 200), (1, 1 << 20), (4, 200), (4, 1 << 20), (6, 1 << 20)]
)  # all in memory, and in 16 files
def test_all_pairs_and_no_others(planted, tmp_path, distance, room):
    equal, similar = groups(records(planted), tmp_path / "a", distance, room)
    assert (equal.groups, equal.images) == (0, 0)
    assert similar.groups == 20 * (distance + 1)
    expected = [[n, 3000 + n] for n in range(20 * (distance + 1))]
    assert [group.numbers for group in similar.largest] == expected
    assert [group.distance for group in similar.largest] == [n // 20 for n, _ in expected]


def test_equal_images_count_once_among_similar_ones(tmp_path):
    one, generator = 0x0123456789ABCDEF, np.random.default_rng(1)
    other = 0xFEDCBA9876543210
    phash = [one, one, flipped(one, 2, generator), other, other, other, 77]
    images = records(np.array(phash, np.uint64), [5, 5, 6, 7, 7, 7, 8])
    equal, similar = groups(images, tmp_path)
    assert [(g.images, g.numbers) for g in equal.largest] == [(3, [3, 4, 5]), (2, [0, 1])]
    assert [(g.images, g.numbers, g.distance) for g in similar.largest] == [(2, [0, 2], 2)]


def test_flat_images_are_not_similar(tmp_path):
    images = records(np.zeros(9, np.uint64), flat=[True] * 7 + [False] * 2)
    _, similar = groups(images, tmp_path)
    assert [g.numbers for g in similar.largest] == [[7, 8]]


def test_chains_are_one_group(tmp_path):
    phash = np.array([0, 0b1111, 0b11111111, 1 << 60, 0xFFFFFFFF00000000], np.uint64)
    _, similar = groups(records(phash), tmp_path)
    assert [g.numbers for g in similar.largest] == [[0, 1, 2, 3]]


def test_a_thousand_copies_take_no_time_of_pairs(tmp_path):
    phash = np.full(200_000, 12345, np.uint64)
    _, similar = groups(records(phash), tmp_path)
    (group,) = similar.largest
    assert (group.images, group.numbers[:3], len(group.numbers)) == (200_000, [0, 1, 2], 100)


@pytest.mark.parametrize("count", [10, 10**6, 10**9])
@pytest.mark.parametrize("distance", [0, 2, 4, 6])
def test_masks_find_any_pair_and_keep_most_hashes_apart(count, distance):
    masks = masks_of(distance, count)
    assert min(int(mask).bit_count() for mask in masks) >= np.log2(count) - 1
    generator = np.random.default_rng(2)
    for _ in range(50):
        difference = flipped(0, distance, generator)
        assert any(not int(mask) & difference for mask in masks)


def test_photographs_encoded_again_are_similar_and_others_are_not(tmp_path):
    rows, names = [], ("chelsea", "rocket", "flower", "china")
    for name in names:
        photo = Image.open(photo_path(name)).convert("RGB")
        half = Image.fromarray(cv2.resize(np.asarray(photo), None, fx=0.5, fy=0.5))
        for image, options in ((photo, {}), (photo, {"quality": 40}), (half, {"quality": 75})):
            file = io.BytesIO()
            image.save(file, "JPEG" if options else "PNG", compress_level=0, **options)
            rows.append(measured(file.getvalue(), name)[0])
    images = np.zeros(len(rows), IMAGE)
    for field in ("digest", "phash", "flat"):
        images[field] = [row[field] for row in rows]
    images["number"] = np.arange(len(rows))
    equal, similar = groups(images, tmp_path)
    assert equal.groups == 0
    assert [g.numbers for g in similar.largest] == [
        [3 * n, 3 * n + 1, 3 * n + 2] for n in range(len(names))
    ]
