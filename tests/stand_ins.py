"""Files that stand for published weights: random or empty, where nobody has the real ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor

from callbacks.metrics.niqe import FEATURES
from files import manifest as published
from files.checksums import file_hash
from lightning_modules.networks.imdn import IMDN


def save_niqe_model(path: Path, mean: Tensor, covariance: Tensor) -> None:
    """Write a model of NIQE as its authors release it.

    Args:
        path: The file.
        mean: (36,).
        covariance: (36, 36).
    """
    np.savez(path, mu_pris_param=mean[None].numpy(), cov_pris_param=covariance.numpy())


def stand_in(folder: Path, patch: pytest.MonkeyPatch) -> None:
    """Have IMDN's weights for x2 and NIQE's model found by their names, as if published.

    Args:
        folder: Where they are written; `$ENLARGER_WEIGHTS` from then on.
        patch: What undoes it: the hashes in configs/weights.yaml are theirs meanwhile.
    """
    folder.mkdir(exist_ok=True)
    entries = published.manifest()
    imdn, niqe = (entries[name] for name in ("imdn-x2", "niqe-pristine"))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        state = IMDN(2).state_dict()
    official = {f"module.{name}": tensor for name, tensor in state.items()}
    torch.save(official, folder / imdn["file"])
    mean = torch.zeros(FEATURES, dtype=torch.float64)
    save_niqe_model(folder / niqe["file"], mean, torch.eye(FEATURES, dtype=torch.float64))
    for entry in (imdn, niqe):
        entry["sha256"] = file_hash(folder / entry["file"])
    manifest = folder / "weights.yaml"
    manifest.write_text(yaml.safe_dump(entries))
    patch.setattr(published, "MANIFEST", manifest)
    patch.setenv("ENLARGER_WEIGHTS", str(folder))
