"""The pristine model of NIQE: read from a file, or fitted to photographs."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from callbacks.niqe_features import (
    BLOCK,
    FEATURES,
    SHARP,
    block_features,
    gaussian_taps,
    mean_and_covariance,
)
from callbacks.picture_files import read_picture
from callbacks.pixels import to_pixels


def read_model(path: Path) -> tuple[Tensor, Tensor]:
    """Read the mean (36,) and covariance (36, 36) float64 of a pristine model.

    Raises:
        ValueError: If the file is damaged or not such a model.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            mean, covariance = file["mu_pris_param"].ravel(), file["cov_pris_param"]
    except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile, TypeError) as error:
        raise ValueError(f"{path} is no model of NIQE, or damaged: {error}") from error
    if mean.shape != (FEATURES,) or covariance.shape != (FEATURES, FEATURES):
        raise ValueError(
            f"{path} is no model of NIQE: mean {mean.shape}, covariance {covariance.shape}; "
            f"expected ({FEATURES},) and ({FEATURES}, {FEATURES})"
        )
    found = torch.from_numpy(mean).double(), torch.from_numpy(covariance).double()
    if not all(x.isfinite().all() for x in found):
        raise ValueError(f"{path} is no model of NIQE: it holds values that are not finite")
    return found


def fit_model(paths: Sequence[Path]) -> tuple[Tensor, Tensor, int]:
    """Fit a model to the sharp blocks of photographs, as in the paper.

    Args:
        paths: Images, each of at least one block.

    Returns:
        Mean (36,) and covariance (36, 36) float64, and the number of blocks.

    Raises:
        ValueError: If an image is too small or cannot be read, or all of them have too few blocks.
    """
    kept = []
    for path in tqdm(paths, desc="photographs"):
        picture = read_picture(path)
        if min(picture.shape[-2:]) < BLOCK:
            size = "x".join(map(str, picture.shape[:-3:-1]))
            raise ValueError(f"{path} is {size} pixels; a model needs {BLOCK}x{BLOCK} or more")
        features, sharpness = block_features(to_pixels(picture, "y")[:, 0].round())
        kept.append(features[sharpness > SHARP * sharpness.max()])
    features = torch.cat(kept)
    blocks = int((~features.isnan().any(1)).sum())
    if blocks <= FEATURES:
        raise ValueError(
            f"{len(paths)} photographs have {blocks} sharp blocks; a model of {FEATURES} "
            f"statistics needs more than {FEATURES} (the authors' has 125 photographs)"
        )
    mean, covariance = mean_and_covariance(features[None])
    return mean[0], covariance[0], blocks


def save_model(path: Path, mean: Tensor, covariance: Tensor) -> None:
    """Write a model with the names of the authors' release, readable by other programs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(
        path,
        mu_pris_param=mean[None].numpy(),
        cov_pris_param=covariance.numpy(),
        gaussian_window=torch.outer(gaussian_taps(), gaussian_taps()).numpy(),
    )
