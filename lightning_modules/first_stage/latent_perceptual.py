"""LPIPS in latents, trained on human judgements: required by InvSR's loss, and unreleased.

Zhang et al., CVPR 2018 (arXiv 1801.03924), section 3, "tune": the network and the weights of its
channels learn which of two distorted images people find nearer to a reference; here from latents,
as in InvSR (Yue et al., CVPR 2025; arXiv 2412.09013).

x, x_0, x_1   reference and distortions, as latents       h   share of people who found x_1 nearer
d_0, d_1      distances from the reference                G   from both distances to h

Differs from the paper in: latents; the first three poolings, see ``networks.latent_lpips``; the
channels' weights begin as those of the released LPIPS; the learning rate of the shipped
configuration falls on a cosine; in the paper it is constant for five epochs and falls linearly for
five more. Patches of BAPPS have 64 pixels, so 8 positions in a latent of factor 8.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor, nn
from torch.nn import functional

from files.batch import Batch
from files.weights import load_strictly
from lightning_modules.backbone.space import Space
from lightning_modules.latents import InLatents
from lightning_modules.networks.latent_lpips import VGG16, LatentDistance, from_imagenet

_DIVISOR_OFFSET = 0.1  # against division by 0, as in the released LPIPS


def adam(parameters: Iterable[Tensor]) -> torch.optim.Optimizer:
    """Adam with a learning rate of 1e-4 and a first momentum of 0.5, as for LPIPS."""
    return torch.optim.Adam(parameters, lr=1e-4, betas=(0.5, 0.999))


class LatentPerceptual(InLatents):
    """Train a distance of latents, for ``LatentLPIPS.load``. It outputs no images.

    ``val/2afc`` is the share of people that the distance agrees with, from 0 to 1: the score of the
    paper's tables.

    Args:
        scale: Unused; set ``data.init_args.scale`` to 1.
        space: Space of the latents: that of the method that will train with the distance.
        widths: Channels of the network's five stages; other than VGG16's require ``vgg16`` null.
        vgg16: Initial weights of the network: torchvision's file, or its name in
            ``configs/weights.yaml``; null for random weights ("scratch" in the paper).
        optimizer: Makes the optimiser of the trainable parameters.
    """

    half_outputs = False
    trained_parts = ("network", "ranking")
    part_files: ClassVar[Mapping[str, str]] = {**InLatents.part_files, "vgg16": "load_vgg16"}

    def __init__(
        self,
        scale: float,
        space: Space,
        widths: Sequence[int] = VGG16,
        vgg16: str | None = "vgg16",
        optimizer: OptimizerCallable = adam,
        **kwargs: Any,
    ) -> None:
        super().__init__(scale, optimizer=optimizer, **kwargs)
        self.space = space
        self.vgg16 = vgg16
        self.network = LatentDistance(space.channels, widths)
        self.ranking = Ranking()

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the binary cross-entropy between G(d_0, d_1) and h."""
        d_0, d_1 = self.distances(batch)
        loss = functional.binary_cross_entropy_with_logits(self.ranking(d_0, d_1), batch["judge"])
        self.log("train/loss", loss)
        self.log("train/2afc", agreement(d_0, d_1, batch["judge"]).mean())
        return loss

    def distances(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return d_0 and d_1, (B,) each.

        Args:
            batch: Batch with ``ref``, ``p0``, ``p1`` (B, 3, H, W) in [0, 1].
        """
        with torch.no_grad():
            # One call for all three images.
            z = self.space.encode(torch.cat([batch["ref"], batch["p0"], batch["p1"]]))
        stages = [features.chunk(3) for features in self.network.features(z)]
        x, x_0, x_1 = zip(*stages, strict=True)
        return self.network.distances(x, x_0), self.network.distances(x, x_1)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Step, then clamp the channels' weights to at least 0, as in the paper."""
        super().optimizer_step(*args, **kwargs)
        self.network.keep_positive()

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Log the two-alternative forced choice: how often people chose as the distances do."""
        d_0, d_1 = self.distances(batch)
        score = agreement(d_0, d_1, batch["judge"]).mean()
        self.log("val/2afc", score, batch_size=len(d_0), prog_bar=True, sync_dist=True)

    # -------------------------------------------------------------------------------- frozen parts

    def load_vgg16(self, path: Path) -> None:
        """Load the network's initial weights."""
        tensors = from_imagenet(path, self.space.channels)
        load_strictly(self.network, tensors, f"{path} and of LPIPS")


class Ranking(nn.Module):
    """G: two layers of 32 units, from both distances to the logit of h.

    Source: Zhang et al. 2018, section 3; its inputs of differences and ratios are from the released
    code, whose ReLUs are leaky.
    """

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(5, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 1)
        )

    def forward(self, d_0: Tensor, d_1: Tensor) -> Tensor:
        """Return the (B,) logits of (B,) distances."""
        ratio = d_0 / (d_1 + _DIVISOR_OFFSET)
        inverse = d_1 / (d_0 + _DIVISOR_OFFSET)
        return self.layers(torch.stack([d_0, d_1, d_0 - d_1, ratio, inverse], 1)).squeeze(1)


def agreement(d_0: Tensor, d_1: Tensor, judge: Tensor) -> Tensor:
    """Return the (B,) shares of people who agree with the distances; 0.5 for equal distances.

    Args:
        d_0: (B,) distances of the first distortion.
        d_1: (B,) of the second.
        judge: (B,) shares of people who found the second nearer.
    """
    prefers_second = ((d_0 - d_1).sign() + 1) / 2  # 0, 1, or 0.5
    return prefers_second * judge + (1 - prefers_second) * (1 - judge)
