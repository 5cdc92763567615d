"""Metrics of whole sets: a distance between all outputs and all references, such as FID.

class MeanColor(SetMetric):
    name = "mean_color"

    def protocol(self) -> MetricProtocol:
        return {"implementation": "mine 1", "color": "rgb"}

    def features(self, images: Tensor, batch: Batch) -> Tensor:
        return images.mean((2, 3))

    def distance(self, sr: Tensor, hr: Tensor) -> float:
        return float((sr.mean(0) - hr.mean(0)).norm())
"""

from __future__ import annotations

import logging
import math
from abc import abstractmethod
from collections import ChainMap
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import xxhash
from lightning.pytorch import LightningModule, Trainer
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from callbacks.base import Measured, Metric, Record
from callbacks.evaluation import Stage
from callbacks.finite_pixels import are_finite
from callbacks.processes import on_first
from callbacks.reference import find_reference
from callbacks.reference_files import Reference
from callbacks.tensorboard import MetricProtocol
from degradations.base import ieee_float32
from degradations.draws import CODING

if TYPE_CHECKING:
    from datamodules.base import Batch

log = logging.getLogger(__name__)

# Features of the current batch's images, so that FID and KID of one preset compute them once.
_SEEN: Any = WeakTensorKeyDictionary()


class SetMetric(Metric):
    """A distance between the set of outputs and that of their HR images, or of other references.

    Features are computed image by image as batches come; those of references are kept for the next
    validation while their pixels stay the same. At the end they are gathered by key on the first
    process, sorted, so that each image counts once and the number depends neither on batches nor on
    processes nor on the order; there the distance is computed in float64.

    Args:
        every_n: In ``fit``, compute at the first validation and at every n-th after it.
        limit: Use only the first images of each dataset, this many; all of them by default.
        label: Name in logs and results, if one metric is used twice.
        control: Also measure the bicubic enlargement of the same LR: the row ``bicubic`` of the
            results.
        reference: Compare the outputs with these instead of their HR images: a folder of
            images, or a file made by ``python -m callbacks.reference``.
    """

    higher_is_better = False
    minimum = 2  # images needed for a number
    enough = 0  # images needed for a number without a remark
    remark = ""  # what the remark adds

    def __init__(
        self,
        every_n: int = 1,
        limit: int | None = None,
        label: str | None = None,
        control: bool = False,
        reference: str | None = None,
    ) -> None:
        super().__init__(every_n, limit, label, control)
        self.reference, self.needs_hr = reference, reference is None
        self._reference: Reference | None = None  # on the first process only, which compares
        self._known: dict[bytes, NDArray[Any]] = {}  # features of references seen before, ...
        self._used: dict[bytes, NDArray[Any]] = {}  # ... and in the current evaluation

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
        """Return the number by its name, and any further ones. Args as above."""
        return {self.name: self.distance(sr, hr)}

    def features_protocol(self) -> MetricProtocol:
        """Return the part of the protocol that features, and files of references, depend on."""
        return self.protocol()

    @staticmethod
    def once(images: Tensor, what: object, work: Callable[[], Tensor]) -> Tensor:
        """Return features, computed once for all metrics of the run that need them.

        Args:
            images: The batch's images.
            what: Identifies the features: network, its weights, preparation.
            work: Computes them.
        """
        seen = _SEEN.setdefault(images, {})
        if what not in seen:
            seen[what] = work()
        return seen[what].clone()

    # ---------------------------------------------------------------------------------- the work

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Set up as all metrics, and find the references, if they are not the HR images.

        Raises:
            ValueError: If they are missing, broken, too few, or of another protocol.
        """
        super().setup(trainer, pl_module, stage)
        if self.reference is not None and self._loaded and not self._off:
            on_first(self._find_reference)

    def measure(self, sr: Tensor, hr: Tensor, batch: Batch) -> Tensor:
        """Return (B, 2, ...) features of output and HR; (B, 1, ...) with other references."""
        return self._paired(self.finite_features(sr, batch), hr, batch)

    def measure_control(self, sr: Tensor, hr: Tensor, batch: Batch) -> Tensor:
        """Measure bicubic likewise, cached: the next validation has the same pixels."""
        return self._paired(self._remembered(sr, batch), hr, batch)

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
        self._refuse_few(dataset, len(images))
        bad = [key for key, features in images.items() if not np.isfinite(features).all()]
        if bad:
            return [self.undefined(dataset, bad, len(images))]
        sets = list(torch.from_numpy(np.stack(list(images.values()), 1)).to(torch.float64))
        if self._reference is not None:
            sets.append(torch.from_numpy(self._reference.features).to(torch.float64))
        found = self.distances(*sets)
        return [self.record(dataset, value, len(images), name) for name, value in found.items()]

    def record(self, dataset: Any, value: float, n: int, name: str | None = None) -> Record:
        """Return one number with its protocol, and a remark if the images are few."""
        record = super().record(dataset, value, n, name)
        if self._reference is not None:
            known = self._reference
            record["protocol"]["reference"] = f"{known.name}, {known.pictures}, {known.content}"
            record["protocol"]["reference_n"] = len(known.features)
            n = min(n, len(known.features))
        if n < self.enough:
            meaning = f": {self.remark}" if self.remark else ""
            record["protocol"]["remark"] = f"few images (below {self.enough}){meaning}"
        return record

    # Old features are dropped only at the end of an evaluation: after an interrupted one, the next
    # must not compute all of them again.
    def _start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super()._start(trainer, pl_module)
        self._used = {}

    def _add(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Batch,
        dataloader_idx: int,
    ) -> None:
        if not self._off and (self.target in batch or not self.needs_hr):
            # Before anything is measured, also in the sanity check, and not after hours.
            dataset = self._datasets[dataloader_idx]
            self._refuse_few(dataset, len(dataset.keys[: self.limit]))
        super()._add(trainer, pl_module, outputs, batch, dataloader_idx)

    def _finish(self, trainer: Trainer, pl_module: LightningModule, stage: Stage) -> None:
        if self._active:
            self._known = self._used
        super()._finish(trainer, pl_module, stage)

    def _refuse_few(self, dataset: Any, n: int) -> None:
        if n < self.minimum:
            raise ValueError(
                f"{self.name} of {dataset.name!r} has {n} image{'' if n == 1 else 's'}; a "
                f"{type(self).__name__} needs at least {self.minimum}: give the dataset more, or "
                "take the metric out of trainer.callbacks"
            )

    def _find_reference(self) -> None:
        if self._reference is None and self.reference is not None:
            found = find_reference(self, self.reference)
            if len(found.features) < self.minimum:
                raise ValueError(
                    f"`reference` of {type(self).__name__}, {self.reference!r}, has "
                    f"{len(found.features)} images; it needs at least {self.minimum}"
                )
            self._reference = found

    def _paired(self, features: Tensor, hr: Tensor, batch: Batch) -> Tensor:
        if self.reference is not None:
            return features[:, None]
        return torch.stack([features, self._remembered(hr, batch)], 1)

    def finite_features(self, images: Tensor, batch: Batch) -> Tensor:
        """Return features on the CPU; NaN if pixels are not finite, which rounding would hide.

        Args:
            images: (B, 3, H, W) in [0, 1].
            batch: The rest of the batch; references have a ``key`` only.
        """
        device = images.device
        with torch.no_grad(), torch.autocast(device.type, enabled=False), ieee_float32(device):
            features = self.features(images.float(), batch)
        finite = are_finite(images)
        if not finite.all():
            features[~finite] = math.nan
        return features.detach().cpu()

    def _remembered(self, images: Tensor, batch: Batch) -> Tensor:
        """Return the features, cached by pixels and key."""
        digests = [
            xxhash.xxh3_128_digest(key.encode(*CODING) + pixels.tobytes())
            for key, pixels in zip(batch["key"], images.cpu().numpy(), strict=True)
        ]
        have: Mapping[bytes, NDArray[Any]] = ChainMap(self._used, self._known)
        if not all(digest in have for digest in digests):
            have = dict(zip(digests, self.finite_features(images, batch).numpy(), strict=True))
        self._used.update((digest, have[digest]) for digest in digests)
        return torch.from_numpy(np.stack([have[digest] for digest in digests]))
