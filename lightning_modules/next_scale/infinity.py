"""Infinity: images from text, scale by scale, bit by bit; the base of NSARM.

Han et al., CVPR 2025 (arXiv 2412.04431). A tokenizer encodes an image as bits at many scales
(``lightning_modules.Tokenizer``); a transformer predicts the bits of each scale from the previous
ones. Symbols as in ``next_scale.py``.

Released models use tau 0.5 and guidance 4 (2B), or tau 1 and guidance 3 (8B). Their images are
truncated to 8 bits; here they are rounded.
"""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor

from degradations.device import copy_to
from files.batch import Batch
from files.numbers import NonNegativeInt, UnitInterval
from lightning_modules.backbone.bitwise import BitwiseSpace
from lightning_modules.base import Generator
from lightning_modules.latents import hr_latent
from lightning_modules.networks.bsq import total_after
from lightning_modules.networks.infinity import InfinityTransformer, from_official
from lightning_modules.next_scale.next_scale import (
    NextScale,
    adamw,
    bit_losses,
    sample,
    scale_weights,
    self_correction,
    teacher_forcing,
)
from lightning_modules.noise import Noise


class Infinity(NextScale, Generator):
    """Train a next-scale transformer, and generate images with it.

    Args:
        scale: Unused, since the output size is requested; set by ``data.init_args.scale``.
        space: The frozen tokenizer, with its scales.
        transformer: The network to train.
        flip_strength: Largest share of bits that are flipped in training.
        flip_scales: Number of first scales in which bits are flipped.
        optimizer: Makes the optimiser of the trainable parameters.
    """

    def __init__(
        self,
        scale: float,
        space: BitwiseSpace,
        transformer: InfinityTransformer,
        flip_strength: UnitInterval = 0.3,
        flip_scales: NonNegativeInt = 13,
        optimizer: OptimizerCallable = adamw,
        **kwargs: Any,
    ) -> None:
        super().__init__(scale, optimizer=optimizer, **kwargs)
        self.space, self.transformer = space, transformer
        self.flip_strength, self.flip_scales = flip_strength, flip_scales

    # ------------------------------------------------------------------------------------- training

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the cross-entropy of the bits of all scales, with self-correction."""
        f = self.latent(batch)
        scales = self.space.scales((f.shape[-2], f.shape[-1]))
        forced = teacher_forcing(f, scales, self_correction(self.flip_strength, self.flip_scales))
        logits = self.predicted(batch, forced.inputs, scales)
        weights = copy_to(scale_weights(scales, 0, self.reweight), f.device)
        losses = bit_losses(logits, forced.bits)
        loss = (losses * weights).sum(1).mean()
        self.log("train/loss", loss, prog_bar=True)
        self.log_scales(scales, losses, logits, forced.bits)
        return loss

    def latent(self, batch: Batch) -> Tensor:
        """Return f, (B, d, h, w): from the batch, or encoded from its images."""
        return hr_latent(self.space, batch)

    # ------------------------------------------------------------------------------------- sampling

    @torch.no_grad()
    def generate(self, batch: Batch, noise: Noise) -> Tensor:
        """Generate from one token to the whole image.

        Raises:
            ValueError: If there are no scales for the size.
        """
        H, W = batch["size"]
        factor = self.space.factor
        scales = self.space.scales((H // factor, W // factor))
        text, how = self.sampling(batch)
        codes = sample(self.transformer, scales, text, noise, how)
        return self.space.images(total_after(codes))

    # -------------------------------------------------------------------------------------- weights

    def import_official(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Map a released file, which has only the transformer; other parts stay."""
        rows = len(self.transformer.no_text)
        return self.with_parts(transformer=from_official(tensors, rows))
