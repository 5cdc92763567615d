"""The scales of a next-scale model: images, PSNR and use of bits after each scale."""

from __future__ import annotations

import json
import logging
import math
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor
from torch.nn import functional

from callbacks.evaluation import (
    EvaluationCallback,
    Stage,
    evaluated_datasets,
    gather,
)
from callbacks.metrics.base import as_float64
from callbacks.metrics.pixels import psnr, to_pixels
from callbacks.predict.files import Extras, write_image
from callbacks.report.images import Pixels, stacked
from files.method import BitwiseMethod
from files.numbers import PositiveInt
from files.owned import write_whole

if TYPE_CHECKING:
    from files.batch import Batch

log = logging.getLogger(__name__)


class ScaleReport(EvaluationCallback):
    """Decode the output after each scale, for the first images of each dataset, and measure it.

    In ``samples`` of the run's directory a strip of images, ``scales-<what>.png``, and
    ``scales-<what>.json`` with, for each scale of each dataset,

    psnr          of the output decoded after it, to HR, in dB (Y, 8 bit, no border)
    bit_accuracy  share of its bits equal to those of the part of HR that earlier scales lack
    bits_used     information of a bit over the places of all images, the mean over channels: 1
                  if it is 1 as often as 0, 0 if it never changes

    Without HR there are only the strip and ``bits_used``. The means over all bits are logged as
    ``val/bit_accuracy`` and ``val/bits_used``, with several datasets as ``val/<dataset>/...``.
    Models without bits are skipped, and so are images that are enlarged in tiles.

    Args:
        images: Number of images of each dataset; their outputs are computed once more.
        shown: Number of images of each dataset in the strip.
        zoom: Enlarge each shown pixel to a square of this side.
        every_n: In ``fit``, run at the first validation and at every n-th after it.
    """

    def __init__(
        self,
        images: PositiveInt = 16,
        shown: PositiveInt = 4,
        zoom: PositiveInt = 2,
        every_n: PositiveInt = 1,
    ) -> None:
        super().__init__(every_n)
        self.images, self.shown, self.zoom = images, shown, zoom
        self._active = False
        self._wanted: list[str] = []
        self._drawn: set[str] = set()
        self._names: list[str] = []  # of the datasets
        self._strips: dict[str, Pixels] = {}  # (H, W, 3) by key
        self._found: list[tuple[str, dict[str, Any]]] = []  # dataset, and numbers of an image

    def _start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._active = isinstance(pl_module, BitwiseMethod) and self._due(trainer)
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
        model = cast(BitwiseMethod, pl_module)
        measured, strips = list[dict[str, Any]](), dict[str, Tensor]()
        for n, key in enumerate(batch["key"]):
            if key not in self._wanted:
                continue
            one = cast("Batch", {k: _only(v, n) for k, v in batch.items()})
            with trainer.precision_plugin.forward_context():  # as the outputs were made
                codes = model.bits_of(one)
                if codes is None:
                    continue
                f = model.encoded(one["hr"]) if "hr" in one else None
                images = [
                    model.decoded(total).float().clamp(0, 1) for total in cumulative_sums(codes)
                ]
            measured.append(_measured(codes, images, f, one.get("hr")))
            if key in self._drawn:
                row = torch.cat([*images, one["hr"]] if "hr" in one else images, 3)
                strips[key] = zoomed(row, self.zoom)[0]
        # Two copies for the whole batch: the host waits for each.
        self._found += [(self._names[dataloader_idx], each) for each in _on_host(measured)]
        if strips:
            rows = torch.stack(list(strips.values())).cpu().numpy()
            self._strips.update(zip(strips, rows, strict=True))

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
            dataset: {"images": len(each), "scales": summarise_scales(each)}
            for dataset, each in by_dataset.items()
            if each
        }
        if trainer.is_global_zero:
            step = f"-{trainer.global_step:08d}"
            name = stage + step * (trainer.state.fn == TrainerFn.FITTING)
            rows = [strips[key] for key in self._wanted if key in strips]
            try:
                self._write(Path(trainer.default_root_dir, "samples"), name, rows, summaries)
            except OSError as error:  # must not end the run
                log.warning("scales-%s could not be written (%s)", name, error)
        for dataset, summary in summaries.items():
            middle = f"{dataset}/" if len(self._names) > 1 else ""
            for key, value in _over_all_bits(summary["scales"]).items():
                pl_module.log(f"{stage}/{middle}{key}", value, rank_zero_only=True)

    def _write(
        self, folder: Path, name: str, rows: list[Pixels], summaries: dict[str, Any]
    ) -> None:
        path = folder / f"scales-{name}.png"
        write_image(path, stacked(rows), Extras(), "png", quality=100)
        write_whole(path.with_suffix(".json"), json.dumps(summaries, indent=1) + "\n")
        log.info("images after each scale: %s", path)


def zoomed(images: Tensor, zoom: int) -> Tensor:
    """Return (B, H zoom, W zoom, 3) uint8 of (B, 3, H, W) in about [0, 1], on their device."""
    rounded = (images.float().clamp(0, 1) * 255).round().to(torch.uint8)
    squares = rounded.repeat_interleave(zoom, dim=2).repeat_interleave(zoom, dim=3)
    return squares.permute(0, 2, 3, 1)


def _over_all_bits(scales: list[dict[str, Any]]) -> dict[str, float]:
    bits = sum(scale["bits"] for scale in scales)
    return {
        key: sum(scale[key] * scale["bits"] for scale in scales) / bits
        for key in ("bit_accuracy", "bits_used")
        if key in scales[0]
    }


def cumulative_sums(codes: list[Tensor]) -> list[Tensor]:
    """Return cumulative sums of the codes at full size, (B, d, h, w) for each scale."""
    size = codes[-1].shape[-2:]
    full = [
        functional.interpolate(code, size, mode="bilinear") if code.shape[-2:] != size else code
        for code in codes
    ]
    return list(accumulate(full))


def summarise_scales(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the numbers of each scale over all images.

    Args:
        found: For each image, by scale: the number of places, how often each bit is 1, and, with
            HR, the number of correct bits and the squared error.
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
    codes: list[Tensor], images: list[Tensor], f: Tensor | None, hr: Tensor | None
) -> dict[str, Any]:
    # For one image, in tensors on its device; see `_on_host`.
    signs = [code > 0 for code in codes]
    found: dict[str, Any] = {
        "sizes": [[code.shape[-2], code.shape[-1]] for code in codes],
        "places": [code.shape[-2] * code.shape[-1] for code in codes],
        "said": torch.stack([(code != 0).any() for code in codes]),
        "ones": torch.stack([sign[0].flatten(1).sum(1) for sign in signs]),
    }
    if f is None or hr is None:
        return found
    after = cumulative_sums(codes)
    before = [torch.zeros_like(after[0]), *after[:-1]]
    left = [
        functional.interpolate(f - total, code.shape[-2:], mode="area")
        for total, code in zip(before, codes, strict=True)
    ]
    found["right"] = torch.stack([((r > 0) == s).sum() for r, s in zip(left, signs, strict=True)])
    y = to_pixels(hr, "y")
    found["psnr"] = torch.cat([psnr(to_pixels(image, "y"), y) for image in images])
    return found


def _on_host(measured: list[dict[str, Any]]) -> list[dict[str, Any]]:
    # Plain numbers and small tensors that processes can exchange, copied at once: counts are exact
    # in any type of floating-point numbers.
    tensors = [x for each in measured for x in each.values() if isinstance(x, Tensor)]
    if not tensors:
        return []
    flat = torch.cat([as_float64(x).flatten() for x in tensors]).cpu()
    parts = iter(torch.split(flat, [x.numel() for x in tensors]))
    found = []
    for each in measured:
        values = {
            k: next(parts).view(v.shape) if isinstance(v, Tensor) else v for k, v in each.items()
        }
        values["said"] = values["said"].bool().tolist()
        values["ones"] = list(values["ones"])
        for name, kind in (("right", int), ("psnr", float)):
            if name in values:
                values[name] = [kind(x) for x in values[name].tolist()]
        found.append(values)
    return found


def _information(share: Tensor) -> Tensor:
    # Entropy of a coin, in bits.
    nats = -(torch.xlogy(share, share) + torch.xlogy(1 - share, 1 - share))
    return nats / math.log(2)


def _only(value: Any, n: int) -> Any:
    # The n-th sample of a batch's value.
    return value[n : n + 1] if isinstance(value, Tensor | list) else value
