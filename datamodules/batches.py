"""Collate samples into a batch, and check a batch against the contract."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import default_collate

from datamodules.source import IMAGES
from files.batch import Batch
from files.images.deep import Pixels

VIDEO_CLIP = "clip"
AS_LISTS = ("text", "meta", "error")
COMMON = ("size", "frames")  # equal in all samples of a batch
LATENTS = ("latent", "lr_latent")


def collate(samples: list[dict[str, Any]]) -> dict[str, Any]:
    """Collate samples into one batch.

    Args:
        samples: Samples of the datasets in ``images.py``.

    Returns:
        Images as uint8 tensors or, if one of them has 16 bits, as float32 in [0, 1]; (B, 3, H, W),
        but not contiguous: in memory the channels come last, as they were decoded.

    Raises:
        ValueError: If images differ in size, or only some samples have LR.
    """
    keys = [sample["key"] for sample in samples]
    seeds = [sample["seed"] for sample in samples]
    batch: dict[str, Any] = {"key": keys, "seed": torch.tensor(seeds, dtype=torch.int64)}
    for name in (*AS_LISTS, *COMMON, *IMAGES, VIDEO_CLIP, *LATENTS, "judge", "text_features"):
        values = [sample[name] for sample in samples if name in sample]
        if not values:
            continue
        if name == "text":  # an image without a caption has an empty one
            values = [sample.get(name, "") for sample in samples]
        if len(values) < len(samples):
            raise ValueError(
                f"only {len(values)} of {len(samples)} samples in one batch ({_first_keys(keys)}) "
                f"have {name!r}: a Source gives it for all images, or for none"
            )
        if name in (*IMAGES, VIDEO_CLIP):
            batch[name] = _stack_images(values, keys)
        elif name in COMMON:
            _check_equal(values, keys)
            batch[name] = values[0]
        elif name in LATENTS:
            _check_equal([value.shape for value in values], keys)
            batch[name] = _stack_arrays(values)
        elif name == "judge":
            batch[name] = torch.tensor(values, dtype=torch.float32)
        elif name == "text_features":
            # (B, n, W) from (n_i, W); shorter ones are padded with zeros.
            texts = [torch.from_numpy(value) for value in values]
            batch[name] = pad_sequence(texts, batch_first=True)
            batch["text_lengths"] = torch.tensor([len(text) for text in texts])
        else:
            batch[name] = values
    skipped = [image for sample in samples for image in sample.get("skipped", [])]
    if skipped:
        batch["skipped"] = skipped
    if "place" in samples[0]:
        batch["place"] = [samples[0]["place"]]  # a batch's samples share its place in the plan
    return batch


def _first_keys(keys: list[str]) -> str:
    """Return the first keys of a batch, for a message."""
    return f"{', '.join(keys[:3])}, ..."


def _check_equal(values: list[Any], keys: list[str]) -> None:
    """Raise if the sizes or lengths of a batch's samples differ."""
    if len(set(values)) > 1:
        raise ValueError(
            f"samples in one batch differ in size or length ({_first_keys(keys)}: {values[:3]}, "
            "...): set data.init_args.eval_batch_size 1 (or, for latents to train on, encode "
            "squares with --encode.crop)"
        )


def _stack_images(images: list[Pixels], keys: list[str]) -> Tensor:
    """Return (B, 3, H, W) from (H, W, 3): uint8 or, if an image has 16 bits, float32 in [0, 1]."""
    _check_equal([image.shape for image in images], keys)
    arrays: list[NDArray[Any]] = list(images)
    if any(image.dtype != np.uint8 for image in images):
        arrays = [image.astype(np.float32) / np.iinfo(image.dtype).max for image in images]
    return _stack_arrays(arrays).movedim(-1, -3)


def _stack_arrays(arrays: list[NDArray[Any]]) -> Tensor:
    """Return arrays of one shape as a batch; in a worker, in memory that processes share."""
    arrays = [a if a.flags.writeable else a.copy() for a in arrays]  # torch would warn
    # torch's own function writes to the shared memory.
    return default_collate([torch.from_numpy(np.ascontiguousarray(a)) for a in arrays])


def to_floats(batch: dict[str, Any], keep_lr: bool = False) -> None:
    """Convert the images and clips of a batch to contiguous float32 in [0, 1], in place.

    Args:
        batch: The batch.
        keep_lr: Leave levels of ``lr`` as they are.
    """
    if "size" in batch:
        batch["size"] = tuple(batch["size"])  # pinning memory made it a list
    for name in (*IMAGES, VIDEO_CLIP):
        if name in batch:
            image = batch[name]
            if keep_lr and name == "lr" and image.dtype == torch.uint8:
                continue
            # Until here channels come last in memory: one pass converts and reorders them.
            floats = image.to(torch.float32, memory_format=torch.contiguous_format)
            batch[name] = floats.div_(255) if image.dtype == torch.uint8 else floats


def add_output_size(
    batch: dict[str, Any], output_size: Callable[[Sequence[int]], tuple[int, int]]
) -> None:
    """Add the output size, and the number of frames, unless the batch asks for its own.

    Args:
        batch: The batch on its device.
        output_size: Returns (H, W) of the output for an LR of (h, w) without HR.
    """
    if "hr" in batch:
        batch["size"] = tuple(batch["hr"].shape[-2:])
    elif VIDEO_CLIP in batch:
        batch["size"], batch["frames"] = (
            tuple(batch[VIDEO_CLIP].shape[-2:]),
            batch[VIDEO_CLIP].shape[1],
        )
    elif "lr" in batch:
        batch["size"] = output_size(batch["lr"].shape[-2:])


def check_batch(batch: Batch, finite: bool = True) -> None:
    """Check the ranges of a batch's images.

    Args:
        batch: The batch on its device.
        finite: Whether to refuse NaN and infinity, too.

    Raises:
        ValueError: If one leaves [0, 1]; the message names it.
    """
    for name in (*IMAGES, VIDEO_CLIP):
        image: Any = batch.get(name)
        has_levels = name == "lr" and image is not None and image.dtype == torch.uint8
        if image is None or has_levels:  # levels come in predict alone
            continue
        values = image if finite else image.nan_to_num(0.0, 0.0, 0.0)
        low, high = (float(v) for v in values.aminmax())
        if not (low >= 0 and high <= 1):  # also catches NaN
            raise ValueError(
                f"batch[{name!r}] has values in [{low}, {high}]; expected [0, 1] ({batch['key']})"
            )
