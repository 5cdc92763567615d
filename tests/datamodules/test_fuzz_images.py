"""Mutated image files give an error or an image: never a crash, a hang or excessive memory.

The mutations run in a separate process with limited memory, whose death is noticed.
"""

from __future__ import annotations

import io
import json
import random
import resource
import struct
import subprocess
import sys
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from datamodules.files.decode import REASONS, UnreadableImage, decode
from datamodules.files.restart import decode_crop, encode_jpeg, restart_offsets

REPO = Path(__file__).resolve().parents[2]
MEMORY = 1 << 30  # beyond the process's memory after its imports
SECONDS = 300  # for all mutations, which take three
HEIGHT, WIDTH = 40, 56
CHECKED = ("png", "png of 16 bits")  # the formats with a checksum of every byte


def pixels(dtype=np.uint8):
    """Noise over a gradient, so that a shifted image differs."""
    noise = np.random.default_rng(0).integers(0, 32, (HEIGHT, WIDTH, 3))
    gradient = np.linspace(0, 200, HEIGHT * WIDTH * 3).reshape(HEIGHT, WIDTH, 3)
    return ((noise + gradient) * np.iinfo(dtype).max / 255).astype(dtype)


def encoded(kind, **options):
    buffer = io.BytesIO()
    Image.fromarray(pixels()).save(buffer, kind, **options)
    return buffer.getvalue()


def tiff_16(**options):
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, pixels(np.uint16), photometric="rgb", **options)
    return buffer.getvalue()


def png_16():
    def chunk(name, content):
        body = name + content
        return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels(np.uint16))
    header = struct.pack(">IIBBBBB", WIDTH, HEIGHT, 16, 2, 0, 0, 0)
    chunks = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def files():
    tags = Image.Exif()
    tags[0x0112] = 6
    return {
        "jpeg": encoded("JPEG", quality=90),
        "progressive jpeg": encoded("JPEG", progressive=True),
        "jpeg with EXIF": encoded("JPEG", exif=tags),
        "png": encoded("PNG"),
        "png of 16 bits": png_16(),
        "webp": encoded("WEBP"),
        "lossless webp": encoded("WEBP", lossless=True),
        "tiff": encoded("TIFF"),
        "tiff with zlib": encoded("TIFF", compression="tiff_adobe_deflate"),
        "tiff of 16 bits": tiff_16(),
        "bmp": encoded("BMP"),
        "gif": encoded("GIF"),
    }


# --------------------------------------------------------------------------------------- mutations


def truncated(data, draw):
    return data[: draw.randrange(len(data))]


def flipped(data, draw):
    changed = bytearray(data)
    for _ in range(draw.choice((1, 1, 4, 40))):
        changed[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    return bytes(changed)


def flipped_header(data, draw):
    changed = bytearray(data)
    changed[draw.randrange(min(len(data), 64))] ^= 1 << draw.randrange(8)
    return bytes(changed)


def emptied(data, draw):
    return b""


def wrong_magic(data, draw):
    return (
        draw.choice((b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"BM", b"II*\0", b"GIF89a")) + data[4:]
    )


def huge(data, draw):
    """An enormous size in the header, at every place and in both byte orders."""
    for kind, most in (("H", 65535), ("I", draw.choice((0x7FFFFFFF, 0xFFFFFFF0, 100_000)))):
        for order in "<>":
            for side in (HEIGHT, WIDTH):
                old, new = struct.pack(order + kind, side), struct.pack(order + kind, most)
                head = data[:400].replace(old, new, 1) if kind == "I" else data[:400]
                if kind == "H" and data[:2] in (b"\xff\xd8", b"GI"):
                    head = head.replace(old, new, 1)
                data = head + data[400:]
    return data


def hole(data, draw):
    start = draw.randrange(len(data))
    return data[:start] + bytes(min(64, len(data) - start)) + data[start + 64 :]


def cut_out(data, draw):
    start = draw.randrange(len(data))
    return data[:start] + data[start + draw.randrange(1, 200) :]


def repeated(data, draw):
    start = draw.randrange(len(data))
    return data[: start + 50] + data[start:]


MUTATIONS = (
    truncated,
    flipped,
    flipped_header,
    emptied,
    wrong_magic,
    huge,
    hole,
    cut_out,
    repeated,
)


# ------------------------------------------------------------------------------------- the process


def image_or_reason(data):
    try:
        return decode(data, "a")
    except UnreadableImage as error:
        return error.reason if str(error).startswith("a: ") else f"no name in {error}"


def mutated_images(rounds):
    outcomes = Counter()
    for kind, data in files().items():
        whole = decode(data, "a").rgb
        for number in range(rounds):
            mutate = MUTATIONS[number % len(MUTATIONS)]
            changed = mutate(data, random.Random(f"{kind} {number}"))
            print(kind, mutate.__name__, number, file=sys.stderr, flush=True)
            result = image_or_reason(changed)
            if isinstance(result, str):
                assert result in REASONS, (kind, number, result)
                outcomes[result] += 1
                continue
            outcomes["an image"] += 1
            declared = Image.open(io.BytesIO(changed)).size
            assert sorted(result.rgb.shape[:2]) == sorted(declared), (kind, number)
            if kind in CHECKED:
                assert np.array_equal(result.rgb, whole), (kind, number, "a wrong pixel")
    return outcomes


def mutated_crops(rounds):
    outcomes = Counter()
    data = encode_jpeg(pixels(), 90, blocks=1)
    offsets = restart_offsets(data)
    for number in range(rounds):
        draw = random.Random(f"crop {number}")
        changed, moved = data, offsets
        if number % 2:
            changed = MUTATIONS[number // 2 % len(MUTATIONS)](data, draw)
        else:
            moved = np.frombuffer(flipped(offsets.tobytes(), draw), np.uint32)
            moved = moved[: draw.randrange(len(moved) + 1)] if number % 8 == 0 else moved
        print("crop", number, file=sys.stderr, flush=True)
        height, width = draw.randrange(1, HEIGHT), draw.randrange(1, WIDTH)
        box = draw.randrange(HEIGHT - height), draw.randrange(WIDTH - width), height, width
        try:
            crop = decode_crop(changed, moved, *box)
        except ValueError as error:
            outcomes[getattr(error, "reason", "not inside")] += 1
            continue
        assert crop.shape == (height, width, 3), number
        outcomes["an image"] += 1
        if changed is data:  # wrong offsets are detected, or were not needed
            whole = decode(data, "a").rgb
            top, left = box[:2]
            assert np.array_equal(crop, whole[top : top + height, left : left + width]), number
    return outcomes


def limited(run, rounds):
    import cv2  # noqa: F401  (before the limit: libraries need room for themselves)

    for data in files().values():
        decode(data, "a")
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    print(json.dumps(run(rounds)))


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize(
    ("run", "rounds", "seen"),
    [
        ("mutated_images", 27, {"truncated", "damaged", "empty", "not an image", "too large"}),
        ("mutated_crops", 300, {"truncated", "damaged"}),
    ],
)
def test_mutated_files(run, rounds, seen):
    code = (
        "import sys; sys.path[:0] = ['.', 'tests/datamodules']; "
        f"import test_fuzz_images as fuzz; fuzz.limited(fuzz.{run}, {rounds})"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        cwd=REPO,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=SECONDS,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    outcomes = json.loads(done.stdout)
    assert seen | {"an image"} <= set(outcomes), outcomes
    assert sum(outcomes.values()) >= 300
