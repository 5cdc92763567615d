"""SetMetric: a number for a whole set; reference features, which are kept.

To add a metric, write one small class:

    class MeanColor(SetMetric):
        name = "mean_color"

        def protocol(self) -> MetricProtocol:
            return {"implementation": "mine 1", "color": "rgb"}

        def features(self, images: Tensor, batch: Batch) -> Tensor:
            return images.mean((2, 3))

        def distance(self, sr: Tensor, hr: Tensor) -> float:
            return float((sr.mean(0) - hr.mean(0)).norm())

The argument ``reference`` names a folder of other images than HR. Their features are kept under the
hash of the images' content and of the metric's protocol.

Not torchmetrics' states: they would gather all features on all processes, and count the images
twice that a sampler repeats.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
from abc import abstractmethod
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import xxhash
from lightning.pytorch import LightningModule, Trainer
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary
from tqdm import tqdm

from callbacks.evaluation import MetricProtocol, are_finite, is_distributed, on_first
from callbacks.metrics.base import Measured, Metric, Record, TooSmall
from degradations.base import ieee_float32
from degradations.draws import CODING
from files.batch import Batch
from files.images import decode
from files.images.deep import eight_bits
from files.owned import whole_file
from files.paths import expand_path, images_by_key
from files.words import first_of

log = logging.getLogger(__name__)
CACHE = "~/.cache/enlarger/references"
BATCH = 8
READING = 5  # version of image reading: since 5 as training reads them
READERS = 4
MANY = 5000  # images: more may take a CPU over half an hour, the time that other processes wait

# Features of the current batch's images, so that FID and KID of one preset compute them once.
_FEATURES: Any = WeakTensorKeyDictionary()


def read_image(path: Path) -> Tensor:
    """Read an image upright, in 8-bit sRGB as outputs are, grey as RGB and without alpha.

    Returns:
        (1, 3, H, W) float32 in [0, 1].

    Raises:
        UnreadableImage: The file is damaged or not an image.
    """
    pixels = eight_bits(decode.read_image(path, srgb=True).rgb) / np.float32(255)
    return torch.from_numpy(pixels).permute(2, 0, 1).unsqueeze(0)


class Reference(NamedTuple):
    """Features of a set of images.

    features: (N, ...) float32, one entry per image.
    name: Name of the set, for readers.
    content: Hash of the images' names and bytes.
    """

    features: NDArray[np.float32]
    name: str
    content: str


def content_hash(images: Iterable[tuple[str, Path]]) -> str:
    """Return a hash of the names and bytes of image files, independent of their folder."""
    digest = xxhash.xxh3_128()
    for name, path in sorted(images):
        with path.open("rb") as file:
            of_file = hashlib.file_digest(file, xxhash.xxh3_128).hexdigest()
        digest.update(f"{len(name)} {name} {of_file} ".encode(*CODING))
    return digest.hexdigest()


def find_reference(metric: SetMetric, place: str) -> Reference:
    """Return the features of a metric's argument ``reference``: stored ones, or compute them.

    Args:
        metric: Ready to compute features.
        place: A folder of images; environment variables are expanded.

    Raises:
        ValueError: If the folder is missing, an image is broken, or other processes would wait too
            long for the features.
    """
    argument = f"`reference` of {type(metric).__name__}"
    folder = Path(expand_path(place, argument))
    images = images_by_key(folder, argument)
    content = content_hash(images.items())
    described = json.dumps([metric.features_protocol(), READING], sort_keys=True)
    protocol = xxhash.xxh3_64_hexdigest(described.encode())
    cache = Path(CACHE).expanduser() / f"{content}-{protocol}.npy"
    features = _cached_features(cache)
    if features is None:
        if is_distributed() and len(images) > MANY:
            raise ValueError(
                f"{argument} is {place!r}, {len(images)} images, for which all other processes "
                "would wait: run the command once on one process, which keeps their features"
            )
        features = compute_features(metric, images)
        with whole_file(cache) as file:
            np.save(file, features)
    # Bytes of a name that are not UTF-8, which no table can show, are spelled as \xff.
    name = os.fsencode(folder.resolve().name).decode("utf-8", "backslashreplace")
    return Reference(features, name, content)


def _cached_features(path: Path) -> Any:
    """Return the features that an earlier run stored; None without them."""
    if not path.exists():
        return None
    try:
        return np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:  # a damaged file must not stop the run
        log.warning("computed again: %s: %s", path, error)
        return None


def compute_features(metric: SetMetric, images: dict[str, Path]) -> NDArray[np.float32]:
    """Return the (N, ...) features of image files, sorted by name.

    Args:
        metric: Ready to compute features.
        images: The files by name.

    Raises:
        ValueError: If an image is broken or too small: a set that is quoted by its name must be
            complete.
    """
    features: dict[str, NDArray[np.float32]] = {}
    names = sorted(images)
    batches = [names[start : start + BATCH] for start in range(0, len(names), BATCH)]
    with ThreadPoolExecutor(READERS) as pool:
        for batch in tqdm(batches, unit_scale=BATCH, unit="image", disable=None):
            tensors = pool.map(read_image, [images[name] for name in batch])
            pairs = zip(batch, tensors, strict=True)
            for _, of_one_size in groupby(pairs, lambda pair: pair[1].shape):
                keys, same_size = zip(*of_one_size, strict=True)
                on_device = torch.cat(same_size).to(device_of(metric))
                try:
                    computed = metric.finite_features(on_device, {"key": list(keys)})
                except TooSmall as error:
                    raise ValueError(f"{images[keys[0]]}: {error}; remove it") from error
                features.update(zip(keys, computed.float().numpy(), strict=True))
    return np.stack([features[name] for name in names])


def device_of(metric: SetMetric) -> torch.device:
    """Return the device of the metric's networks; the CPU if it has none."""
    for value in vars(metric).values():
        if isinstance(value, nn.Module):
            for parameter in value.parameters():
                return parameter.device
    return torch.device("cpu")


class SetMetric(Metric):
    """A distance between the set of outputs and that of their HR images, or of other references.

    Features are computed image by image as batches come. At the end they are gathered by key on the
    first process, sorted, so that each image counts once and the number depends neither on batches
    nor on processes nor on the order; there the distance is computed in float64.

    Args:
        reference: Compare the outputs with the images of this folder, not with their HR images.
    """

    higher_is_better = False
    minimum = 2  # images needed for a number
    enough = 0  # images needed for a number without a remark
    remark = ""  # what few images do to it

    def __init__(self, reference: str | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.reference = reference
        self.needs_hr = reference is None
        self._reference: Reference | None = None  # on the first process only, which compares

    @abstractmethod
    def features(self, images: Tensor, batch: Batch) -> Tensor:
        """Compute the features of each image.

        Args:
            images: (B, 3, H, W) float32 in [0, 1], outputs or references.
            batch: The rest of the batch: ``key``, ``seed``, ...

        Returns:
            (B, D), or (B, K, D) for K crops of each; they must not depend on the rest of the batch.
        """

    @abstractmethod
    def distance(self, sr: Tensor, hr: Tensor) -> float:
        """Return the number.

        Args:
            sr: (N, ...) float64 on the CPU, the features of all outputs.
            hr: (M, ...) float64 on the CPU, those of all references.
        """

    def distances(self, sr: Tensor, hr: Tensor) -> dict[str, float]:
        """Return the number by its name, and any further ones. Args as for ``distance``."""
        return {self.name: self.distance(sr, hr)}

    def features_protocol(self) -> MetricProtocol:
        """Return the part of the protocol that features, and files of references, depend on."""
        return self.protocol()

    @staticmethod
    def cached(images: Tensor, name: object, compute: Callable[[], Tensor]) -> Tensor:
        """Return features, computed once for all metrics of the run that need them.

        Args:
            images: The batch's images, (B, 3, H, W) in [0, 1]; for clips (B, F, 3, H, W).
            name: Identifies the features: network, its weights, preparation.
            compute: Computes them, (B, ...).
        """
        of_images = _FEATURES.setdefault(images, {})
        if name not in of_images:
            of_images[name] = compute()
        return of_images[name].clone()

    # ---------------------------------------------------------------------------------- the work

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Set up as all metrics, and find the references, if they are not the HR images.

        Raises:
            ValueError: If they are missing, broken, too few, or of another protocol.
        """
        super().setup(trainer, pl_module, stage)
        if self.reference is not None and self._loaded and not self._off:
            on_first(self._find_reference)  # each time: images may be others by now

    def measure(self, sr: Tensor, hr: Tensor, batch: Batch) -> Tensor:
        """Return (B, 2, ...) features of output and HR; (B, 1, ...) with other references."""
        sets = [sr, hr] if self.reference is None else [sr]
        return torch.stack([self.finite_features(images, batch) for images in sets], 1)

    def _are_enough(self, dataset: Any, count: int, small: int) -> bool:
        if not small or count >= self.minimum:
            return count > 0
        if count:  # a dataset without any has its own warning
            message = "no %s of %s: %d of its images is large enough, and it needs %d"
            log.warning(message, self.name, dataset.name, count, self.minimum)
        return False

    def summarise(self, dataset: Any, images: Measured) -> list[Record]:
        """Return the distances; all are NaN if an image is not finite.

        Raises:
            ValueError: If the images are too few for any number.
        """
        count = len(images)
        self._refuse_few(repr(dataset.name), count)
        features = torch.from_numpy(np.stack(list(images.values()), 1)).to(torch.float64)
        sr = features[0]
        if self._reference is None:
            hr = features[1]
        else:
            hr = torch.from_numpy(self._reference.features).to(torch.float64)
        bad = [key for key, values in images.items() if not np.isfinite(values).all()]
        if not bad:
            numbers = self.distances(sr, hr)
            return [self.record(dataset, value, count, name) for name, value in numbers.items()]
        message = "%s of %s is not finite, because %d of %d images are not: %s"
        log.warning(message, self.name, dataset.name, len(bad), count, first_of(bad))
        records = []
        for name in self.distances(sr.nan_to_num(0, 0, 0), hr.nan_to_num(0, 0, 0)):
            record = self.record(dataset, math.nan, count, name)
            record["not_finite"] = len(bad)
            records.append(record)
        return records

    def record(self, dataset: Any, value: float, n: int, name: str | None = None) -> Record:
        """Return one number with its protocol, and a remark if the images are few."""
        record = super().record(dataset, value, n, name)
        if self._reference is not None:
            reference = self._reference
            of_reference = f"{reference.name}, as they are, {reference.content}"
            record["protocol"]["reference"] = of_reference
            record["protocol"]["reference_n"] = len(reference.features)
            n = min(n, len(reference.features))
        if n < self.enough:
            record["protocol"]["remark"] = f"few images (below {self.enough}): {self.remark}"
        return record

    def _add(self, outputs: Any, batch: Batch, dataloader_idx: int) -> None:
        if not self._off and (self.target in batch or not self.needs_hr):
            # Before anything is measured, also in the sanity check, and not after hours.
            dataset = self._datasets[dataloader_idx]
            self._refuse_few(repr(dataset.name), len(dataset.keys))
        super()._add(outputs, batch, dataloader_idx)

    def _refuse_few(self, images: str, count: int) -> None:
        if count < self.minimum:
            raise ValueError(
                f"{self.name} needs at least {self.minimum} images, but {images} has {count}: give "
                "it more, or take the metric out of trainer.callbacks"
            )

    def _find_reference(self) -> None:
        reference = find_reference(self, str(self.reference))
        self._refuse_few(f"`reference` {self.reference!r}", len(reference.features))
        self._reference = reference

    def finite_features(self, images: Tensor, batch: Batch) -> Tensor:
        """Return features on the CPU; NaN if pixels are not finite, which rounding would hide.

        Args:
            images: (B, 3, H, W) in [0, 1].
            batch: The rest of the batch; references have a ``key`` only.
        """
        with torch.no_grad(), ieee_float32(images.device):
            features = self.features(images, batch)
        finite = are_finite(images).to(features.device)
        finite = finite.view(-1, *[1] * (features.ndim - 1))
        return torch.where(finite, features, math.nan).detach().cpu()
