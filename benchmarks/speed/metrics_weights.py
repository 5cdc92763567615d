"""Random weights for `benchmarks.speed.metrics`, with NIQE's real ones."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import yaml
from torch import Tensor, nn

from benchmarks.speed.fid import random_file
from callbacks import weights


@contextmanager
def random_weights(model: Path) -> Iterator[Path]:
    """A folder with files like the published ones, in which the project looks for them.

    Args:
        model: NIQE's pristine model, which is the real one.
    """
    before = weights.MANIFEST, os.environ.get("ENLARGER_WEIGHTS")
    entries = weights.manifest()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        random_file(folder).rename(folder / entries["fid-inception"]["file"])
        torch.save(random_alexnet(), folder / entries["alexnet"]["file"])
        (folder / entries["niqe-pristine"]["file"]).write_bytes(model.read_bytes())
        for key in ("fid-inception", "alexnet", "niqe-pristine"):
            content = (folder / entries[key]["file"]).read_bytes()
            entries[key]["sha256"] = hashlib.sha256(content).hexdigest()
        weights.MANIFEST = folder / "weights.yaml"
        weights.MANIFEST.write_text(yaml.safe_dump(entries), encoding="utf-8")
        os.environ["ENLARGER_WEIGHTS"] = name
        try:
            yield folder
        finally:
            weights.MANIFEST = before[0]
            del os.environ["ENLARGER_WEIGHTS"]
            if before[1] is not None:
                os.environ["ENLARGER_WEIGHTS"] = before[1]


def random_alexnet() -> dict[str, Tensor]:
    """AlexNet's convolutions as torchvision's file has them, with random weights."""
    from torchvision.models import alexnet

    with torch.device("meta"):  # its classifier is not needed
        features = alexnet(weights=None).features
    features.to_empty(device="cpu")
    for parameter in features.parameters():
        nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
    return {f"features.{key}": value for key, value in features.state_dict().items()}
