"""Samples put together into one batch, and the check that it is as the contract has it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from torch.utils.data import default_collate, get_worker_info

from datamodules.clock import Preparation
from datamodules.source import Batch, Pixels

PICTURES = ("hr", "lr", "ref", "p0", "p1")  # of a batch, where they are
CLIP = "clip"
WHOLE = ("text", "meta", "error")  # lists as they are
COMMON = ("size", "frames")  # equal for all of a batch
TEXTS = ("text_features", "text_lengths")  # of captions of differing lengths


class Crops(list[dict[str, Any]]):
    """Training samples whose ``hr`` lie together already.

    Args:
        count: How many there will be.
        side: Of each, in pixels.
    """

    def __init__(self, count: int, side: int) -> None:
        super().__init__()
        self.clock = Preparation()
        size = (count, side, side, 3)
        if get_worker_info() is None:
            self.hr = torch.empty(size, dtype=torch.uint8)
        else:  # shared at once: what a worker sends would be copied
            memory = cast(Any, torch.UntypedStorage)._new_shared(count * side * side * 3)
            self.hr = torch.empty(0, dtype=torch.uint8).set_(memory).view(size)
        self.rows: NDArray[np.uint8] = self.hr.numpy()

    def add(self, sample: dict[str, Any]) -> None:
        """The next sample; its ``hr`` is copied unless it is in its place."""
        self.append(sample)
        row, hr = self.rows[len(self) - 1], sample["hr"]
        if hr.dtype == np.uint8 and hr is not row:
            row[...] = hr
            sample["hr"] = row

    def together(self) -> Tensor | None:
        """(B, 3, side, side); None where some have 16 bits."""
        if any(sample["hr"].dtype != np.uint8 for sample in self):
            return None
        return self.hr.permute(0, 3, 1, 2)


def collate(samples: list[dict[str, Any]]) -> dict[str, Any]:
    """Put samples together into one batch.

    Args:
        samples: As the datasets above give them.

    Returns:
        Pictures as uint8 tensors or, where one of them has 16 bits, as float32 in [0, 1]; (B, 3, H,
        W), but not contiguous: in memory colours come last, as they were decoded.

    Raises:
        ValueError: Pictures of differing sizes, or samples with and without LR (or text).
    """
    keys = [s["key"] for s in samples]
    batch: dict[str, Any] = {
        "key": keys,
        "seed": torch.tensor([s["seed"] for s in samples], dtype=torch.int64),
    }
    for name in (*WHOLE, *COMMON, *PICTURES, CLIP, "judge", "latent", "lr_latent", TEXTS[0]):
        values = [s[name] for s in samples if name in s]
        if not values:
            continue
        if len(values) < len(samples):
            raise ValueError(
                f"only {len(values)} of {len(samples)} samples in one batch ({', '.join(keys[:3])}"
                f", ...) have {name!r}: a Source gives it for all pictures, or for none"
            )
        ready = samples.together() if name == "hr" and isinstance(samples, Crops) else None
        if ready is not None:
            batch[name] = ready
            continue
        if name in PICTURES or name == CLIP:
            batch[name] = _stack(values, keys)
        elif name in COMMON:
            batch[name] = _equal(values, keys, "lengths" if name == "frames" else "sizes")
        elif name == "judge":
            batch[name] = torch.tensor(values, dtype=torch.float32)
        elif name == TEXTS[0]:
            batch[name] = _filled([torch.from_numpy(value) for value in values], keys)
            batch[TEXTS[1]] = torch.tensor([len(value) for value in values])
        else:
            batch[name] = _latents(values, keys) if name.endswith("latent") else values
    skipped = [picture for s in samples for picture in s.get("skipped", [])]
    if skipped:
        batch["skipped"] = skipped
    if "place" in samples[0]:
        batch["place"] = [samples[0]["place"]]  # of the batch, which is one in the plan
    if isinstance(samples, Crops):
        batch["seconds"] = [samples.clock.seconds()]
    return batch


def _equal(values: list[Any], keys: list[str], what: str) -> Any:
    if len(set(values)) > 1:
        raise ValueError(
            f"outputs of differing {what} are wanted in one batch ({', '.join(keys[:3])}, ...): "
            "set data.init_args.eval_batch_size 1"
        )
    return values[0]


def _stack(pictures: list[Pixels], keys: list[str]) -> Tensor:
    shapes = {picture.shape for picture in pictures}
    if len(shapes) > 1:
        raise ValueError(
            f"pictures of differing sizes in one batch ({', '.join(keys[:3])}, ...): set "
            "data.init_args.eval_batch_size 1"
        )
    arrays: list[NDArray[Any]] = list(pictures)
    if any(picture.dtype != np.uint8 for picture in pictures):
        arrays = [picture.astype(np.float32) / np.iinfo(picture.dtype).max for picture in pictures]
    return _stacked(arrays).movedim(-1, -3)


def _latents(values: list[NDArray[Any]], keys: list[str]) -> Tensor:
    if len({value.shape for value in values}) > 1:
        raise ValueError(
            f"latents of differing sizes in one batch ({', '.join(keys[:3])}, ...): encode squares "
            "with --encode.crop, or set data.init_args.batch_size 1"
        )
    return _stacked(values)


def _filled(texts: Sequence[Tensor], keys: list[str]) -> Tensor:
    # (B, n, W) of (n_i, W), with zeros behind the shorter ones.
    if len({text.shape[-1] for text in texts}) > 1:
        raise ValueError(
            f"features of texts of differing widths in one batch ({', '.join(keys[:3])}, ...): "
            "encode all shards with one encoder"
        )
    if not all(text.shape[-2] for text in texts):
        raise ValueError(
            f"a caption of {', '.join(keys[:3])}, ... has no token: leave it out, or encode anew"
        )
    longest = max(text.shape[-2] for text in texts)
    filled = [functional.pad(text, (0, 0, 0, longest - text.shape[-2])) for text in texts]
    return torch.stack(filled)


def _stacked(arrays: list[NDArray[Any]]) -> Tensor:
    arrays = [a if a.flags.writeable else a.copy() for a in arrays]  # torch would warn
    # torch's own function: in a worker it writes to the memory that the processes share.
    stacked: Tensor = default_collate([torch.from_numpy(np.ascontiguousarray(a)) for a in arrays])
    return stacked


def to_floats(batch: dict[str, Any]) -> None:
    """Make the pictures and clips of a batch float32 in [0, 1] and contiguous, where they are."""
    if "size" in batch:
        batch["size"] = tuple(batch["size"])  # pinned memory had made a list of it
    for name in (*PICTURES, CLIP):
        if name in batch:
            image = batch[name]
            # Colours come last in memory until here: one pass converts and sorts them.
            floats = image.to(torch.float32, memory_format=torch.contiguous_format)
            batch[name] = floats.div_(255) if image.dtype == torch.uint8 else floats


def add_size(
    batch: dict[str, Any], output_size: Callable[[Sequence[int]], tuple[int, int]]
) -> None:
    """Say how large the output is, and of how many frames; unless that is what was asked for.

    Args:
        batch: On its device.
        output_size: (H, W) of what is made of an LR of (h, w) that has no HR.
    """
    if "hr" in batch:
        batch["size"] = tuple(batch["hr"].shape[-2:])
    elif CLIP in batch:
        batch["size"], batch["frames"] = tuple(batch[CLIP].shape[-2:]), batch[CLIP].shape[1]
    elif "lr" in batch:
        batch["size"] = output_size(batch["lr"].shape[-2:])


def check_batch(batch: Batch, finite: bool = True) -> None:
    """Check shapes, types and ranges of a batch, once a source.

    Args:
        batch: On its device.
        finite: Whether NaN and infinity are refused, too.

    Raises:
        ValueError: Saying which part of the batch is not as the contract has it.
    """
    count = len(batch["key"])
    for name in (*PICTURES, CLIP):
        image = batch.get(name)
        if image is None:
            continue
        image = cast(Tensor, image)
        ndim, expected = (5, "T, 3, H, W") if name == CLIP else (4, "3, H, W")
        found = (image.dtype, image.ndim, len(image), image.shape[-3])
        if found != (torch.float32, ndim, count, 3):
            raise ValueError(
                f"batch[{name!r}] is {image.dtype} {tuple(image.shape)}; expected float32 "
                f"({count}, {expected}) for {batch['key']}"
            )
        values = image if finite else image.nan_to_num(0.0, 0.0, 0.0)
        low, high = (float(v) for v in values.aminmax())
        if not (low >= 0 and high <= 1):  # also catches NaN
            raise ValueError(
                f"batch[{name!r}] has values in [{low}, {high}]; expected [0, 1] ({batch['key']})"
            )
    seed = batch["seed"]
    if seed.shape != (count,) or seed.dtype != torch.int64 or seed.device.type != "cpu":
        raise ValueError(
            f"batch['seed'] is {seed.dtype} {tuple(seed.shape)} on {seed.device}; expected int64 "
            f"({count},) on the CPU"
        )
