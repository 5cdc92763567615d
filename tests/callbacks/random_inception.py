"""A file of Inception with random weights, which the real loading code finds and verifies."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
import yaml
from torch import nn
from torch_fidelity import feature_extractor_inceptionv3 as library

from callbacks.metrics import fid
from files import manifest

NAME = "weights-inception-2015-12-05-6726825d.pth"


MADE: dict[str, Path] = {}  # once, whichever modules import these fixtures


@pytest.fixture(scope="session")
def inception_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights under the official name, alone in their folder."""
    if "file" not in MADE:
        MADE["file"] = tmp_path_factory.mktemp("weights") / NAME
        _save(MADE["file"])
    return MADE["file"]


def _save(path: Path) -> None:
    extractor = library.FeatureExtractorInceptionV3
    with (
        mock.patch.object(library, "load_state_dict_from_url"),  # no download
        mock.patch.object(extractor, "load_state_dict"),
        torch.random.fork_rng(),
    ):
        torch.manual_seed(0)
        net = extractor("random", ["2048"], verbose=False)
        for module in net.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)
            if isinstance(module, nn.BatchNorm2d):  # not the identity
                module.running_mean.uniform_(-0.2, 0.2)  # type: ignore[union-attr]
                module.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.uniform_(module.bias, -0.2, 0.2)
    torch.save(net.state_dict(), path)


@pytest.fixture
def inception(
    inception_file: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """Put that file where the project searches, and its hash into the manifest."""
    if "manifest" not in MADE:
        MADE["manifest"] = tmp_path_factory.mktemp("manifest") / "weights.yaml"
        entries: dict[str, Any] = yaml.safe_load(manifest.MANIFEST.read_text())
        digest = hashlib.sha256(inception_file.read_bytes()).hexdigest()
        entries["fid-inception"] |= {"sha256": digest}
        MADE["manifest"].write_text(yaml.safe_dump(entries))
    monkeypatch.setattr(manifest, "MANIFEST", MADE["manifest"])
    monkeypatch.setenv("ENLARGER_WEIGHTS", str(inception_file.parent))
    return inception_file


@pytest.fixture
def small_inception(inception: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same network sees an eighth of the pixels, in an eighth of the time."""
    monkeypatch.setattr(fid, "SIDE", 107)
    return inception
