"""Latents that ``main.py encode`` has written into shards, so that training need not encode.

Beside the shards lies ``encode.json``: whose latents they are, and how they were made. A sample has
``latent.npy``, (C, h, w) float16 or float32 as the autoencoder gives it, not standardised; with
pairs also the LR picture, ``lr.png``, and the latent of its enlargement, ``lr_latent.npy``; with
pictures HR itself, ``png``; with texts what an encoder says of the caption, ``text_features.npy``,
(n, W) of any n.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from pathlib import Path
from typing import Any, cast

from datamodules.arrays import array_of
from datamodules.cache import DiskCache
from datamodules.cutting import SampleDraws
from datamodules.decode import decode
from datamodules.pictures import TrainingPictures
from datamodules.shard_index import load_index
from datamodules.shard_reader import Tar
from datamodules.shard_table import Table, table_of
from datamodules.shard_urls import is_remote, list_shards
from datamodules.shards import Shards
from datamodules.source import Pixels, Sample

ABOUT = "encode.json"  # beside the shards, when all of them are written
LATENTS = ("latent", "lr_latent")
TEXT = "text_features"


class Latents(Shards):
    """Samples that ``main.py encode`` has written; for ``data.init_args.train`` alone.

    They are taken as they are: ``data.init_args.crop_size``, ``flips`` and ``small`` have no effect
    on them. The model refuses them when its autoencoder is another one.

    Args:
        urls: Tars: a path with ``{000..099}`` or ``*`` for several, or a list of these. May hold
            environment variables.
        index_cache: Folder for the indices of shards whose own folder cannot be written.
    """

    def __init__(
        self, urls: str | list[str], index_cache: str = "~/.cache/enlarger/shards"
    ) -> None:
        super().__init__(urls, index_cache=index_cache)
        self.about: dict[str, Any] = {}

    def prepare(self, scale: float) -> None:
        """Read the indices, and whose latents they are. Args as ``Source.prepare``.

        Raises:
            ValueError: No shard, a broken one, or not all of the set was written; or the LR that
                they hold is of another scale.
        """
        names = list_shards(self.urls, False, self.patience)
        far = [name for name in names if is_remote(name)]
        if far:
            raise ValueError(f"Latents.urls: {far[0]} is far away; copy the shards to this host")
        self.about = _about(Path(names[0]).parent / ABOUT)
        made = self.about["scale"]
        if made is not None and made != scale:
            raise ValueError(
                f"Latents.urls: {names[0]} holds LR pictures of scale {made:g}, and "
                f"data.init_args.scale is {scale:g}: set that, or encode anew"
            )
        super().prepare(scale)

    def _place(self, tars: Any, folder: Path) -> Path:
        place = super()._place(tars, folder)
        return place.with_name(f"latents-{place.name}")  # another table than that of the pictures

    def _part(self, tar: Tar, folder: Path, cache: DiskCache | None) -> Table:
        return table_of(tar.name, load_index(Path(tar.path), folder), needed="latent")

    def _advice(self, where: list[str]) -> str:
        return "list each tar once; to train on several sets, encode them together"

    def size(self, index: int) -> tuple[int, int] | None:
        """None: nothing is cut."""
        return None

    def read(self, index: int) -> Sample:
        """The sample ``keys[index]``, whole.

        Raises:
            UnreadableImage: A part of it is broken, or its checksum differs.
            ValueError: A shard is not the one that was indexed.
        """
        tar = self._tars[bisect_right(self._ends, index)]
        sample: dict[str, Any] = {}
        for field, column in self._table.columns.items():
            name = f"{tar.name}: {self._table.keys[index]} ({field})"
            if field in LATENTS:
                sample[field] = array_of(self._bytes(column, tar, index, name), name, 3)
            elif field == TEXT and column.sizes[index]:
                sample[field] = array_of(self._bytes(column, tar, index, name), name, 2)
            elif field in ("hr", "lr"):
                data = self._bytes(column, tar, index, name)
                sample[field] = decode(data, name, self.srgb).rgb
        return cast(Sample, sample)


class TrainingLatents(TrainingPictures):
    """``Latents`` as the DataLoader of training sees them; args as ``TrainingPictures``."""

    def __getitems__(self, items: list[Any]) -> Any:
        """A batch of samples."""
        if self.augment is not None:
            raise ValueError("data.init_args.crops.augment changes pictures, not latents: unset it")
        return [self._sample(item, None) for item in items]

    def _crop(self, index: int, draws: SampleDraws, out: Pixels | None) -> Sample:
        return self.read(index)

    def _checked(self, given: Sample, index: int) -> Sample:
        return given


def add_latents(batch: dict[str, Any], source: Any) -> None:
    """Complete a batch of latents: float32, the size of its pictures, and whose latents they are.

    Args:
        batch: On its device.
        source: The ``Latents``.
    """
    for name in LATENTS:
        if name in batch:
            batch[name] = batch[name].float()
    factor = source.about["factor"]
    batch["size"] = tuple(factor * n for n in batch["latent"].shape[-2:])
    batch["space"] = source.about["space"]


def _about(path: Path) -> dict[str, Any]:
    try:
        about: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        missing = {"space", "factor", "scale"} - about.keys()
    except FileNotFoundError as error:
        raise ValueError(
            f"there is no {path}, which main.py encode writes when all is done: give the same "
            "encode command again, and it goes on; or set Latents.urls to other shards"
        ) from error
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{path} is damaged ({error}): encode anew") from error
    if missing:
        raise ValueError(f"{path} does not say {', '.join(sorted(missing))}: encode anew")
    return about
