"""Crops of large JPEGs with restart markers against decoding the whole of them.

The images are real: photographs side by side, cut to size. Both kinds of shard come from the
packer, out of the same PNG files, at one quality.
"""

from __future__ import annotations

import io
import random
import statistics
import tarfile
from functools import partial
from pathlib import Path
from typing import Any, cast

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from simplejpeg import decode_jpeg
from tqdm import tqdm

from benchmarks.timing import in_turns, ratio, seconds
from datamodules.base import CropSettings, SRDataModule
from datamodules.files.restart import Box, decode_crop
from datamodules.pack import __main__ as pack
from datamodules.shards.shards import Shards

SIZES = {"0.15 MP": (321, 481), "1 MP": (896, 1152), "2K, 2.8 MP": (1356, 2040)}
IMAGES, QUALITY, CROP, BATCH = 16, 95, 256, 16
CROPS = 4  # of each image in a turn
Pixels = NDArray[np.uint8]


def mosaic(photographs: list[Pixels], height: int, width: int, chance: random.Random) -> Pixels:
    """Photographs side by side, as many as it takes, cut at random to (height, width, 3)."""
    least = min(photograph.shape[0] for photograph in photographs)
    rows: list[Pixels] = []
    while sum(len(row) for row in rows) < height + least:
        row: list[Pixels] = []
        while sum(part.shape[1] for part in row) < width + least:
            row.append(chance.choice(photographs)[:least])
        length = width + least
        rows.append(np.concatenate(row, axis=1)[:, :length])
    whole = np.concatenate(rows)
    top, left = chance.randrange(least), chance.randrange(least)
    return whole[top : top + height, left : left + width]


def members(folder: Path) -> dict[str, dict[str, bytes]]:
    """Members of all samples in the tars of a folder, by suffix."""
    found: dict[str, dict[str, bytes]] = {}
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                file = tar.extractfile(member)
                if file is not None:
                    key, _, suffix = member.name.partition(".")
                    found.setdefault(key, {})[suffix] = file.read()
    return found


def write(folder: Path, out: Path, *options: str) -> dict[str, dict[str, bytes]]:
    """Pack a folder of PNG files as JPEG; gives what is in the shards.

    Raises:
        RuntimeError: The packer refused some.
    """
    if pack.main([str(folder), str(out), "--encode", f"jpeg:{QUALITY}", *options]):
        raise RuntimeError(f"not all of {folder} could be packed")
    return members(out)


def loader(out: Path) -> SRDataModule:
    """Our training loader."""
    data = SRDataModule(
        4,
        train=Shards(str(out / "shard-*.tar")),
        batch_size=BATCH,
        crop_size=CROP,
        crops=CropSettings(per_image=CROPS, flips=False),
        workers=0,
    )
    data.setup("fit")
    return data


def compare_size(
    photographs: list[Pixels], size: tuple[int, int], place: Path, turns: int
) -> dict[str, Any]:
    """Both ways, in turns: the decoder alone, and the whole loader."""
    chance = random.Random(0)
    (place / "png").mkdir(parents=True)
    for number in range(IMAGES):
        image = mosaic(photographs, *size, chance)
        cv2.imwrite(str(place / "png" / f"{number:04d}.png"), image[..., ::-1])
    plain = write(place / "png", place / "plain")
    marked = write(place / "png", place / "marked", "--restart-markers")
    whole = [sample["jpg"] for sample in plain.values()]
    pairs = [(s["jpg"], np.frombuffer(s["rst"], "<u4")) for s in marked.values()]
    spots = [
        (number, *(chance.randrange(side - CROP + 1) for side in size))
        for number in range(IMAGES)
        for _ in range(CROPS)
    ]

    def crop_of(number: int, top: int, left: int) -> Pixels:
        return cast("Pixels", decode_crop(*pairs[number], Box(top, left, CROP, CROP)))

    for number, top, left in spots[::CROPS]:
        wanted = decode_jpeg(pairs[number][0])[top : top + CROP, left : left + CROP]
        part = crop_of(number, top, left)
        if not np.array_equal(part, wanted):
            raise RuntimeError(f"the crop of image {number} differs from that of the whole")

    def decode_whole() -> None:
        for number, top, left in spots:
            decode_jpeg(whole[number])[top : top + CROP, left : left + CROP].copy()

    def decode_crops() -> None:
        for number, top, left in spots:
            crop_of(number, top, left).copy()

    def epoch(data: SRDataModule) -> None:
        for _ in data.train_dataloader():
            pass

    plain_loader, marked_loader = loader(place / "plain"), loader(place / "marked")
    columns = {
        "whole": lambda _: seconds(decode_whole),
        "crops": lambda _: seconds(decode_crops),
        "loader, whole": lambda _: seconds(partial(epoch, plain_loader)),
        "loader, crops": lambda _: seconds(partial(epoch, marked_loader)),
    }
    times = in_turns(columns, turns)
    with_markers = sum(len(data) for sample in marked.values() for data in sample.values())
    without = sum(len(_without_markers(place / "png" / f"{key}.png")) for key in marked)
    return {
        "size": f"{size[1]}x{size[0]}",
        "decoding_whole_us": _median(times["whole"], len(spots)),
        "decoding_the_crop_us": _median(times["crops"], len(spots)),
        "times_as_fast": round(ratio(times["whole"], times["crops"]), 2),
        "loader_whole_us": _median(times["loader, whole"], len(spots)),
        "loader_crops_us": _median(times["loader, crops"], len(spots)),
        "loader_times_as_fast": round(ratio(times["loader, whole"], times["loader, crops"]), 2),
        "bytes_more_by_markers": round(with_markers / without - 1, 4),
    }


def _without_markers(path: Path) -> bytes:
    file = io.BytesIO()  # with all the options of `encode_jpeg` but this one
    Image.open(path).save(file, "JPEG", quality=QUALITY, subsampling="4:2:0", optimize=True)
    return file.getvalue()


def _median(times: list[float], count: int) -> float:
    return round(statistics.median(times) / count * 1e6, 1)


def compare(folder: Path, place: Path, turns: int) -> dict[str, Any]:
    """All sizes.

    Args:
        folder: Images that the large ones are put together from, of one size or the other way.
        place: Folder for what is made.
        turns: Turns of each size.

    Raises:
        ValueError: The folder holds no images.
    """
    paths = [path for path in sorted(folder.iterdir()) if path.suffix in (".png", ".jpg")]
    photographs = [np.asarray(Image.open(path).convert("RGB")) for path in paths]
    if not photographs:
        raise ValueError(f"{folder} holds no .png or .jpg files")
    return {
        "crop": CROP,
        "quality": QUALITY,
        **{
            name: compare_size(photographs, size, place / str(number), turns)
            for number, (name, size) in enumerate(tqdm(SIZES.items(), desc="crops", disable=None))
        },
    }
