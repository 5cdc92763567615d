"""What each scale of a next-scale model says: pictures, PSNR, and how bits are used."""

from __future__ import annotations

import json
import logging
import math
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor
from torch.nn import functional

from callbacks.evaluation import (
    EvaluationCallback,
    Stage,
    at_least_one,
    evaluated_datasets,
    steps_done,
)
from callbacks.image_file import Extras, write_image
from callbacks.pixels import to_pixels
from callbacks.processes import gather
from callbacks.psnr import psnr
from callbacks.sample_grid import Panel, compose, zoomed_levels
from files.owned import write_whole

if TYPE_CHECKING:
    from datamodules.base import Batch

log = logging.getLogger(__name__)


class SpeaksInBits(Protocol):
    """What a model has to have."""

    def bits_of(self, batch: Batch) -> list[Tensor] | None:
        """(B, d, h_k, w_k) of each scale: the codes of the outputs; 0 where nothing is said.

        None for pictures that are not made in one piece.
        """

    def decoded(self, total: Tensor) -> Tensor:
        """(B, 3, H, W) in about [0, 1] of (B, d, h, w), the sum of codes at full size."""

    def encoded(self, pictures: Tensor) -> Tensor:
        """(B, d, h, w) of (B, 3, H, W), not quantised."""


class ScaleReport(EvaluationCallback):
    """For the first images of each dataset: the output decoded after each scale, and numbers.

    In ``samples`` of the run's directory a strip of pictures, ``scales-<what>.png``, and
    ``scales-<what>.json`` with, for each scale of each dataset,

    psnr          of the output decoded after it, to HR, in dB (Y, 8 bit, no border)
    bit_accuracy  share of its bits that are those of what the scales before left out of HR
    bits_used     information of a bit over the places of all images, the mean over channels: 1
                  where each is as often 1 as 0, 0 where it never changes

    Where there is no HR, only the strip and ``bits_used``. Logged are ``val/bit_accuracy`` and
    ``val/bits_used``, with several datasets as ``val/<dataset>/...``, the means over all bits.
    Models that do not speak in bits are passed over, and pictures that go through tiles.

    Args:
        images: Images of each dataset that are looked at; their outputs are computed once more.
        shown: Images of each dataset in the strip.
        zoom: Enlarge each shown pixel to a square of this side.
        every_n: In ``fit``, at the first validation and at every n-th after it.

    Raises:
        ValueError: A setting below 1.
    """

    def __init__(self, images: int = 16, shown: int = 4, zoom: int = 2, every_n: int = 1) -> None:
        super().__init__(every_n)
        at_least_one(self, images=images, shown=shown, zoom=zoom)
        self.images, self.shown, self.zoom = images, shown, zoom
        self._active = False
        self._wanted: list[str] = []
        self._drawn: set[str] = set()
        self._names: list[str] = []  # of the datasets
        self._strips: dict[str, list[Panel]] = {}
        self._found: list[tuple[str, dict[str, Any]]] = []  # dataset, and numbers of an image

    def _start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._active = hasattr(pl_module, "bits_of") and self._due(trainer)
        datasets = evaluated_datasets(trainer)
        self._names = [dataset.name for dataset in datasets]
        self._wanted = [key for dataset in datasets for key in dataset.keys[: self.images]]
        self._drawn = {key for dataset in datasets for key in dataset.keys[: self.shown]}
        self._strips, self._found = {}, []

    @torch.no_grad()
    def _add(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Batch,
        dataloader_idx: int,
    ) -> None:
        if not self._active:
            return
        model = cast(SpeaksInBits, pl_module)
        for n, key in enumerate(batch["key"]):
            if key not in self._wanted:
                continue
            one = cast("Batch", {k: _only(v, n) for k, v in batch.items()})
            with trainer.precision_plugin.forward_context():  # as the outputs were made
                codes = model.bits_of(one)
                if codes is None:
                    continue
                f = model.encoded(one["hr"]) if "hr" in one else None
                pictures = [model.decoded(total).float().clamp(0, 1) for total in totals(codes)]
            self._found.append(
                (self._names[dataloader_idx], _measured(codes, pictures, f, one.get("hr")))
            )
            if key in self._drawn:
                labels = [f"{code.shape[-2]}x{code.shape[-1]}" for code in codes]
                panels = [
                    (label, zoomed_levels(picture, self.zoom))
                    for label, picture in zip(labels, pictures, strict=True)
                ]
                hr = [("HR", zoomed_levels(one["hr"], self.zoom))] if "hr" in one else []
                self._strips[key] = [*panels, *hr]

    def _finish(self, trainer: Trainer, pl_module: LightningModule, stage: Stage) -> None:
        if not self._active:
            return
        found = [each for part in gather(self._found) for each in part]
        strips = {key: row for part in gather(self._strips) for key, row in part.items()}
        self._found, self._strips = [], {}
        if not found:
            return
        by_dataset = {dataset: [e for d, e in found if d == dataset] for dataset in self._names}
        summaries: dict[str, Any] = {
            dataset: {"images": len(each), "scales": summarised(each)}
            for dataset, each in by_dataset.items()
            if each
        }
        if trainer.is_global_zero:
            step = f"-{steps_done(trainer, pl_module):08d}"
            name = stage + step * (trainer.state.fn == TrainerFn.FITTING)
            rows = {key: strips[key] for key in self._wanted if key in strips}
            try:
                self._write(Path(trainer.default_root_dir, "samples"), name, rows, summaries)
            except OSError as error:  # pictures to look at are not worth a run
                log.warning("scales-%s could not be written (%s)", name, error)
        for dataset, summary in summaries.items():
            middle = f"{dataset}/" if len(self._names) > 1 else ""
            for key, value in _over_all_bits(summary["scales"]).items():
                pl_module.log(f"{stage}/{middle}{key}", value, rank_zero_only=True)

    def _write(
        self, folder: Path, name: str, rows: dict[str, list[Panel]], summaries: dict[str, Any]
    ) -> None:
        path = folder / f"scales-{name}.png"
        write_image(path, compose(rows), Extras(), "png", quality=100)
        write_whole(path.with_suffix(".json"), json.dumps(summaries, indent=1) + "\n")
        log.info("pictures after each scale: %s", path)


def _over_all_bits(scales: list[dict[str, Any]]) -> dict[str, float]:
    bits = sum(scale["bits"] for scale in scales)
    return {
        key: sum(scale[key] * scale["bits"] for scale in scales) / bits
        for key in ("bit_accuracy", "bits_used")
        if key in scales[0]
    }


def totals(codes: list[Tensor]) -> list[Tensor]:
    """(B, d, h, w), the sum of the codes of the first one, the first two, and so on."""
    size = codes[-1].shape[-2:]
    full = [
        functional.interpolate(code, size, mode="bilinear") if code.shape[-2:] != size else code
        for code in codes
    ]
    return list(accumulate(full))


def summarised(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Numbers of each scale over all images.

    Args:
        found: Of each image, by scale: how many places its bits have, how often each is 1, and,
            where there is HR, how many are right, and its squared error.
    """
    scales = []
    for n in range(len(found[0]["places"])):
        places = sum(each["places"][n] for each in found)
        ones = sum((each["ones"][n] for each in found), torch.zeros_like(found[0]["ones"][n]))
        said = found[0]["said"][n]
        share = ones / places
        scale = {
            "size": found[0]["sizes"][n],
            "bits": len(ones) * places // len(found) if said else 0,
            "bits_used": float(_information(share).mean()) if said else 0.0,
        }
        if "psnr" in found[0]:
            scale["psnr"] = sum(each["psnr"][n] for each in found) / len(found)
            right = sum(each["right"][n] for each in found)
            scale["bit_accuracy"] = right / (places * len(ones)) if said else 0.0
        scales.append(scale)
    return scales


def _measured(
    codes: list[Tensor], pictures: list[Tensor], f: Tensor | None, hr: Tensor | None
) -> dict[str, Any]:
    # Of one image, in plain numbers and small tensors that processes can exchange.
    signs = [code > 0 for code in codes]
    found: dict[str, Any] = {
        "sizes": [[code.shape[-2], code.shape[-1]] for code in codes],
        "said": [bool((code != 0).any()) for code in codes],
        "places": [code.shape[-2] * code.shape[-1] for code in codes],
        "ones": [sign[0].flatten(1).sum(1).double().cpu() for sign in signs],
    }
    if f is None or hr is None:
        return found
    after = totals(codes)
    before = [torch.zeros_like(after[0]), *after[:-1]]
    left = [
        functional.interpolate(f - total, code.shape[-2:], mode="area")
        for total, code in zip(before, codes, strict=True)
    ]
    found["right"] = [int(((r > 0) == s).sum()) for r, s in zip(left, signs, strict=True)]
    y = to_pixels(hr, "y")
    found["psnr"] = [float(psnr(to_pixels(picture, "y"), y)) for picture in pictures]
    return found


def _information(share: Tensor) -> Tensor:
    # Of a coin, in bits.
    nats = -(torch.xlogy(share, share) + torch.xlogy(1 - share, 1 - share))
    return nats / math.log(2)


def _only(value: Any, n: int) -> Any:
    # The n-th sample's part of what a batch has.
    return value[n : n + 1] if isinstance(value, Tensor | list) else value
