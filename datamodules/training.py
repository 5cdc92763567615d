"""Make the dataset of a Source, and the order of training."""

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
    """Return the dataset for validation and test. Args as ``Pictures``."""
    kind = TripletPictures if isinstance(source, Triplets) else Pictures
    kind = ClipPictures if isinstance(source, ClipSource) else kind
    return kind(source, name, scale)


def training_pictures(
    source: Source, settings: tuple[Any, ...], order: tuple[int, int, int, int]
) -> tuple[TrainingPictures, str]:
    """Return the training dataset with its plan, and the fingerprint of its images.

    Args:
        source: The prepared source.
        settings: Arguments of ``TrainingPictures`` after the source.
        order: Seed, batch size, streams, and crops per image.

    Raises:
        ValueError: If there are too few images for one batch.
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
