"""Latents that ``main.py encode`` has written into shards, so that training need not encode.

``encode.json`` beside the shards names the autoencoder and the settings. A sample has
``latent.npy``, (C, h, w) float16 or float32 as the autoencoder gives it, not standardised; with
pairs also the LR image, ``lr.png``, and the latent of its enlargement, ``lr_latent.npy``; with
images HR itself, ``png``; with texts the text encoder's features of the caption,
``text_features.npy``, (n, W) with any n.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, cast

from datamodules.files.members import parse_floats, parse_member
from datamodules.samples import SampleDraws, TrainingImages
from datamodules.shards.cache import ShardCache
from datamodules.shards.reader import Tar
from datamodules.shards.shards import Shards
from datamodules.shards.table import Table, table_of
from datamodules.shards.urls import list_shards
from datamodules.source import Sample
from files.images.decode import decode
from files.json import read_json_object

ABOUT = "encode.json"  # beside the shards, written after all of them
LATENTS = ("latent", "lr_latent")
TEXT = "text_features"
ALIKE = ("space", "factor", "scale", "lr_enlarged", "texts")  # what sets must share


class Latents(Shards):
    """Samples that ``main.py encode`` has written; for ``data.init_args.train`` only.

    They are used as they are: ``data.init_args.crop_size``, ``crops.flips`` and ``crops.small``
    have no effect on them. The model refuses latents of another autoencoder.

    Args:
        urls: Tars: a path with ``{000..099}`` or ``*`` for several, or a list of these. May contain
            environment variables.
        index_cache: Folder for the indices of shards in folders that are not writable.
    """

    def __init__(
        self, urls: str | list[str], index_cache: str = "~/.cache/enlarger/shards"
    ) -> None:
        super().__init__(urls, index_cache=index_cache)
        self.about: dict[str, Any] = {}

    def prepare(self, scale: float) -> None:
        """Read the indices, and the description of the latents. Args as ``Source.prepare``.

        Raises:
            ValueError: If there is no shard, a broken one, or a set is incomplete; or its LR has
                another scale, or two sets were not encoded alike.
        """
        names = list_shards(self.urls, "Latents.urls")
        paths = dict.fromkeys(Path(name).with_name(ABOUT) for name in names)
        abouts = {path: _read_about(path) for path in paths}
        first, self.about = next(iter(abouts.items()))
        for path, about in abouts.items():
            different = [key for key in ALIKE if about.get(key) != self.about.get(key)]
            if different:
                raise ValueError(
                    f"Latents.urls: {', '.join(different)} differ in {first} and {path}: encode "
                    "both with the same settings, or train on one"
                )
        if self.about["scale"] not in (None, scale):
            raise ValueError(
                f"Latents.urls: {first} says that LR images have scale {self.about['scale']:g}, "
                f"but data.init_args.scale is {scale:g}: set that, or encode again"
            )
        super().prepare(scale)

    def _table_of_shard(self, tar: Tar, cache: ShardCache | None) -> Table:
        """Return the samples of a shard that have a latent."""
        return table_of(tar.name, self._load_index(tar, cache), needed="latent")

    def size(self, index: int) -> tuple[int, int] | None:
        """Return None: latents are not cropped."""
        return None

    def read(self, index: int) -> Sample:
        """Return the sample ``keys[index]``, uncropped.

        Raises:
            UnreadableImage: If a part of it is broken, or its checksum differs.
            ValueError: If a shard changed after it was indexed.
        """
        tar = self._tar_of_sample(index)
        sample: dict[str, Any] = {}
        for field in self._table.columns:
            name = f"{tar.name}: {self._table.keys[index]} ({field})"
            data = self._read_field(field, tar, index, name)
            if field in LATENTS:
                sample[field] = parse_member(partial(parse_floats, dimensions=3), data, name)
            elif field == TEXT and data:
                sample[field] = parse_member(partial(parse_floats, dimensions=2), data, name)
            elif field in ("hr", "lr"):
                sample[field] = decode(data, name, self.srgb).rgb
        return cast(Sample, sample)


class TrainingLatents(TrainingImages):
    """Dataset of ``Latents`` for training; args as ``TrainingImages``."""

    needed = ("latent",)

    def _read_and_crop(self, index: int, draws: SampleDraws) -> Sample:
        """Return the whole sample: latents are crops already."""
        return self.read(index)


Latents.training_dataset = TrainingLatents


def add_latents(batch: dict[str, Any], source: Any) -> None:
    """Complete a batch of latents: float32, the size of its images, and the latents' space.

    Args:
        batch: The batch on its device.
        source: The ``Latents``.
    """
    for name in LATENTS:
        if name in batch:
            batch[name] = batch[name].float()
    factor = source.about["factor"]
    batch["size"] = tuple(factor * n for n in batch["latent"].shape[-2:])
    batch["space"] = source.about["space"]


def _read_about(path: Path) -> dict[str, Any]:
    """Return the content of ``encode.json``, which describes the latents beside it.

    Raises:
        ValueError: If it is missing or damaged.
    """
    about = read_json_object(path) if path.is_file() else None
    if about is None or not {"space", "factor", "scale"} <= about.keys():
        raise ValueError(
            f"{path}, which main.py encode writes at its end, is missing or damaged: run the same "
            "encode command again, or set Latents.urls to other shards (of this host)"
        )
    return about
