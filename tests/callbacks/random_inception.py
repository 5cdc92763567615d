"""A file of Inception with random weights, which the real loading code finds and verifies."""

from __future__ import annotations

from pathlib import Path
from unittest import mock

import pytest
import torch
import yaml
from torch import nn
from torch_fidelity import feature_extractor_inceptionv3 as library

from callbacks.metrics import fid
from files import manifest
from files.checksums import file_hash

NAME = "weights-inception-2015-12-05-6726825d.pth"


MADE: dict[str, Path] = {}  # once, whichever modules import these fixtures


@pytest.fixture(scope="session")
def inception_file(tmp_path_factory):
    """Random weights under the official name, alone in their folder."""
    if "file" not in MADE:
        MADE["file"] = tmp_path_factory.mktemp("weights") / NAME
        _save(MADE["file"])
    return MADE["file"]


def _save(path):
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
                module.running_mean.uniform_(-0.2, 0.2)
                module.running_var.uniform_(0.5, 2)
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.uniform_(module.bias, -0.2, 0.2)
    torch.save(net.state_dict(), path)


@pytest.fixture
def inception(inception_file, tmp_path_factory, monkeypatch):
    """Put that file where the project searches, and its hash into the manifest."""
    if "manifest" not in MADE:
        MADE["manifest"] = tmp_path_factory.mktemp("manifest") / "weights.yaml"
        entries = yaml.safe_load(manifest.MANIFEST.read_text())
        entries["fid-inception"]["sha256"] = file_hash(inception_file)
        MADE["manifest"].write_text(yaml.safe_dump(entries))
    monkeypatch.setattr(manifest, "MANIFEST", MADE["manifest"])
    monkeypatch.setenv("ENLARGER_WEIGHTS", str(inception_file.parent))
    return inception_file


@pytest.fixture
def small_inception(inception, monkeypatch):
    """The same network sees an eighth of the pixels, in an eighth of the time."""
    monkeypatch.setattr(fid, "SIDE", 107)
    return inception
