"""Which dataset there is for a Source, and the order in which training goes through it."""

from __future__ import annotations

from typing import Any

from datamodules.clips import ClipPictures, ClipSource, TrainingClips
from datamodules.keys import digest_of
from datamodules.latents import Latents, TrainingLatents
from datamodules.order_state import new_plan
from datamodules.pictures import Pictures, TrainingPictures
from datamodules.source import Source
from datamodules.stream import Stream, StreamPictures
from datamodules.triplets import TrainingTriplets, TripletPictures, Triplets


def evaluation_pictures(source: Source, name: str, scale: float) -> Pictures:
    """The dataset of validation and test. Args as ``Pictures``."""
    kind = TripletPictures if isinstance(source, Triplets) else Pictures
    kind = ClipPictures if isinstance(source, ClipSource) else kind
    return kind(source, name, scale)


def training_pictures(
    source: Source, settings: tuple[Any, ...], order: tuple[int, int, int, int]
) -> tuple[TrainingPictures, str]:
    """The dataset, with its plan, and the fingerprint of its pictures.

    Args:
        source: Prepared.
        settings: Arguments of ``TrainingPictures`` after the source.
        order: Seed, batch size, streams, and crops of each picture.

    Raises:
        ValueError: There are too few pictures for one batch.
    """
    pictures: TrainingPictures
    if isinstance(source, Stream):
        pictures = StreamPictures(source, *settings)
        pictures.plan = source.plan(*order)
        return pictures, digest_of(source.shards)
    kind = TrainingLatents if isinstance(source, Latents) else TrainingPictures
    kind = TrainingTriplets if isinstance(source, Triplets) else kind
    kind = TrainingClips if isinstance(source, ClipSource) else kind
    pictures = kind(source, *settings)
    pictures.plan = new_plan(source, *order)
    return pictures, digest_of(pictures.keys)
