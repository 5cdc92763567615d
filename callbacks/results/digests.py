"""Digests: whether two numbers were measured on the same images.

A digest is a hash of HR (of a clip's frames, or of LR without HR), then a space and the detail of
LR, which tells degradations apart.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import xxhash
from torch import Tensor
from torch.nn import functional

from degradations.draws import GAMMA
from degradations.stages.noise import mixed, signed

ALIKE = 0.01  # two details of LR that differ by this share may be of one degradation


def hashes_of(images: Tensor) -> Tensor:
    """Return a hash of each image's 8-bit levels, equal on all devices; nothing waits for them.

    Args:
        images: (B, ..., W) in [0, 1].

    Returns:
        (B,) int64 in [0, 2**32).
    """
    levels = (images.float() * 255).round().to(torch.uint8).flatten(1)
    missing = -levels.shape[1] % 8
    words = functional.pad(levels, (0, missing)).view(torch.int64)  # 8 levels each
    # From W on, so that images of other sides differ, too, where all levels are equal.
    width = images.shape[-1]
    places = width + torch.arange(words.shape[1], device=words.device)
    hashes = mixed(words + places * signed(GAMMA))
    return hashes.sum(1) & 0xFFFFFFFF


def detail_of(images: Tensor) -> Tensor:
    """Return what tells degradations apart: how much neighbours in a row differ on average.

    Unlike a hash, it is nearly the same where devices round differently.

    Args:
        images: (B, ..., W) in [0, 1], LR.

    Returns:
        (B,) float32 in levels of 8 bits.
    """
    steps = images.float().diff(dim=-1).abs()
    mean_step = steps.flatten(1).mean(1)
    return mean_step.nan_to_num() * 255  # NaN of images that are one pixel wide


def digest_of_set(digests: Mapping[str, str]) -> str | None:
    """Return the digest of a set of images: a hash of all names and hashes, and the mean detail.

    Args:
        digests: Of the images, by name.

    Returns:
        The digest; None without images.
    """
    if not digests:
        return None
    hashes = []
    details = []
    for name, digest in sorted(digests.items()):
        of_hr, detail = digest.split()
        hashes.append(f"{name} {of_hr}")
        details.append(float(detail))
    of_all = xxhash.xxh32_hexdigest("\n".join(hashes).encode())
    return f"{of_all} {sum(details) / len(details):.4f}"


def are_unlike(*digests: str | None) -> bool:
    """Return whether some of the digests of an image are of other HR, or of LR made otherwise."""
    parts = [digest.split() for digest in digests if digest]
    hashes = {part[0] for part in parts}
    if len(hashes) > 1:
        return True
    details = [float(part[1]) for part in parts if len(part) > 1]
    return bool(details) and max(details) - min(details) > ALIKE * max(details)
