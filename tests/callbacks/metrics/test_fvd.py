"""FVD and KVD with a small network: its inputs and the numbers."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader

from callbacks.metrics.fid import frechet_distance, polynomial_mmd
from callbacks.metrics.video import FVD, KVD
from tests.callbacks.tiny import Images, Tiny, trainer

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")


class Plain(nn.Module):
    """Mean colours in the two halves of the time: (B, 6)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.unflatten(2, (2, -1)).mean((3, 4, 5)).flatten(1)


class LikeI3D(nn.Module):
    """A network with the arguments of the usual I3D file."""

    def forward(
        self,
        x: Tensor,
        rescale: bool = True,
        resize: bool = True,
        return_features: bool = False,
    ) -> Tensor:
        features = x.mean((3, 4)).flatten(1)
        return features if return_features and not rescale and not resize else features * 0


def saved(net: nn.Module, path: Path) -> str:
    torch.jit.script(net).save(str(path))
    return str(path)


@pytest.fixture
def plain(tmp_path: Path) -> str:
    return saved(Plain(), tmp_path / "net.pt")


class Clips(Images):
    """Clips of 6 frames of 12x10 pixels, and outputs beside them."""

    def __getitem__(self, index: int) -> dict[str, Any]:
        draws = torch.Generator().manual_seed(index)
        clip, sr = torch.rand(2, 6, 3, 12, 10, generator=draws)
        return {"key": self.keys[index], "clip": clip, "sr": sr * 0.8}


def collate(samples: list[dict[str, Any]]) -> dict[str, Any]:
    batch: dict[str, Any] = {"key": [s["key"] for s in samples]}
    return batch | {k: torch.stack([s[k] for s in samples]) for k in ("clip", "sr")}


class Echo(Tiny):
    """Its outputs come with the batch."""

    def validation_step(self, batch: Any, *indices: int) -> dict[str, Tensor]:
        return {"sr": batch["sr"]}


def validate(root: Path, *metrics: Any, n: int = 7, batch_size: int = 2) -> None:
    data = DataLoader(Clips(n), batch_size, collate_fn=collate)
    trainer(root, *metrics).validate(Echo(), data, verbose=False)


def expected(frames: int) -> tuple[Tensor, Tensor]:
    found = []
    for name in ("sr", "clip"):
        clips = torch.stack([Clips()[i][name] for i in range(7)])[:, :frames]
        pixels = (clips * 255).round().flatten(0, 1) / 127.5 - 1
        frames_ = functional.interpolate(pixels, (224, 224), mode="bilinear", antialias=True)
        halves = frames_.mean((2, 3)).view(7, 2, frames // 2, 3).mean(2)  # (7, half, colour)
        found.append(halves.mT.flatten(1).double())
    return found[0], found[1]


def test_the_numbers_of_the_features(tmp_path: Path, plain: str) -> None:
    metrics = [FVD(plain, frames=4), KVD(plain, frames=4)]
    validate(tmp_path, *metrics)
    sr, clip = expected(4)
    assert metrics[0].records[0]["value"] == pytest.approx(frechet_distance(sr, clip), rel=1e-4)
    assert metrics[1].records[0]["value"] == pytest.approx(polynomial_mmd(sr, clip), rel=1e-4)
    protocol = metrics[0].records[0]["protocol"]
    assert protocol["sha256"] == hashlib.sha256(Path(plain).read_bytes()).hexdigest()
    assert (protocol["weights"], protocol["frames"]) == ("net.pt", "the first 4")
    assert protocol["remark"] == "few images (below 2048): biased upward"


def test_a_network_with_the_arguments_of_i3d(tmp_path: Path) -> None:
    metric = FVD(saved(LikeI3D(), tmp_path / "i3d.pt"), frames=6)
    validate(tmp_path, metric)
    assert metric.records[0]["value"] > 0.01  # not features that were rescaled or a softmax


@pytest.mark.parametrize("weights", [None, "$NOWHERE/i3d.pt"])
def test_without_a_network_it_is_off(tmp_path: Path, caplog: Any, weights: str | None) -> None:
    metric = FVD(weights)
    with caplog.at_level(logging.WARNING):
        validate(tmp_path, metric)
    assert metric.records == []
    assert "fvd is off, no number will appear: its network, `weights` of FVD, is n" in caplog.text
    with pytest.raises(FileNotFoundError, match="`weights` of KVD, is n"):
        validate(tmp_path, KVD(weights, strict_weights=True))
