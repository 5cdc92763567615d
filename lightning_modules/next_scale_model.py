"""Shared parts of Infinity and NSARM: tokenizer, texts, optimiser groups and logs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lightning_modules.backbone.bitwise import BitwiseSpace
from lightning_modules.backbone.texts import Texts, text_of
from lightning_modules.image_model import ImageModel
from lightning_modules.networks.infinity import InfinityTransformer, Text, decay_groups
from lightning_modules.networks.scales import Scales
from lightning_modules.next_scale import Bitwise

if TYPE_CHECKING:
    from datamodules.base import Batch


def adamw(parameters: Iterable[Tensor]) -> torch.optim.Optimizer:
    """AdamW as for Infinity; 6e-5 is for batches of 4,096."""
    return torch.optim.AdamW(parameters, lr=6e-5, betas=(0.9, 0.97), weight_decay=0.005, fused=True)


class NextScale(ImageModel):
    """A method whose transformer predicts the bits of a frozen tokenizer, scale by scale."""

    space: BitwiseSpace
    space_weights: str | None
    transformer: InfinityTransformer | None
    encoder: Texts | None
    prompt: str | None
    text_dropout: float
    bits: Bitwise

    def check_parts(self) -> None:
        """Raise if the parts do not fit together.

        Raises:
            ValueError: If transformer and space have different numbers of bits, a prompt has no
                encoder, or a number is out of range.
        """
        if not 0 <= self.text_dropout <= 1:
            raise ValueError(
                f"model.init_args.text_dropout is {self.text_dropout}; expected 0 to 1"
            )
        reads = self.encoder is not None and self.encoder.reads
        if self.prompt is not None and not (reads and self.prompt.strip()):
            raise ValueError(
                f"model.init_args.prompt is {self.prompt!r}, and "
                f"{'it is empty' if reads else 'an encoder is missing'}: set "
                f"{'it to a text, or to null' if reads else 'model.init_args.encoder'}"
            )
        if self.transformer is None:
            return
        if self.transformer.bits != self.space.bits:
            raise ValueError(
                f"model.init_args.transformer is for {self.transformer.bits} bits a token and the "
                f"space has {self.space.bits}: set the transformer's bits, or the space's vae and "
                "patch"
            )
        after, blocks = self.bits.guidance_after, len(self.transformer.blocks)
        if after is not None and not 0 <= after <= blocks:
            raise ValueError(
                f"model.init_args.bits.init_args.guidance_after is {after}; expected the number of "
                f"a block, 0 to {blocks}"
            )

    # ---------------------------------------------------------------------------------- the network

    def text(self, batch: Batch) -> Text | None:
        """Return the text of a batch; None without text. Raises as ``text_of``."""
        width = self._network.no_text.shape[1]
        return text_of(batch, self.encoder, self.prompt, width)

    def predicted(self, batch: Batch, inputs: Tensor, scales: Scales) -> Tensor:
        """Return logits of all scales, (B, n, bits, 2), with captions dropped as in training.

        Args:
            batch: Batch with captions.
            inputs: Inputs of ``next_scale.forced``.
            scales: Scales of the images.
        """
        network, count = self._network, len(inputs)
        known, none = _text_or_none(network, self.text(batch), count)
        dropped = torch.rand(count, device=inputs.device) < self.text_dropout
        encoded = network.encode_text(network.without_text(known, none | dropped))
        logits: Tensor = network(inputs, scales, encoded)
        return logits

    def sampling(self, batch: Batch) -> tuple[Text, Bitwise]:
        """Return the text for ``next_scale.sample``, with guidance also the empty one, and bits.

        Args:
            batch: Batch with captions.

        Raises:
            ValueError: If there is guidance without text.
        """
        network, found = self._network, self.text(batch)
        known, none = _text_or_none(network, found, len(batch["key"]))
        with_it = network.without_text(known, none)
        if self.bits.guidance == 1:
            return with_it, self.bits
        if found is None:
            raise ValueError(
                f"model.init_args.bits.init_args.guidance is {self.bits.guidance:g}, and there is "
                "no text: set model.init_args.encoder, or guidance to 1"
            )
        without = network.without_text(known, ~none)
        both = Text(*(torch.cat(pair) for pair in zip(with_it, without, strict=True)))
        return both, self.bits

    @property
    def _network(self) -> InfinityTransformer:
        if self.transformer is None:
            raise ValueError(f"{type(self).__name__} has no transformer")
        return self.transformer

    def log_scales(
        self, scales: Scales, losses: Tensor, logits: Tensor, bits: Tensor, first: int = 0
    ) -> None:
        """Log the loss of each scale, and the share of correct bits.

        Args:
            scales: Scales of the images.
            losses: (B, n), of tokens from scale ``first`` on.
            logits: (B, n, bits, 2), of the same tokens.
            bits: (B, n, bits), of the same tokens.
            first: Number of the first scale.
        """
        right = (logits[..., 1] > logits[..., 0]) == (bits > 0.5)
        self.log("train/bit_accuracy", right.float().mean(), prog_bar=True)
        start = scales.spans[first].start
        for number, span in enumerate(scales.spans[first:], first + 1):
            here = slice(span.start - start, span.stop - start)
            self.log(f"train/loss_scale_{number}", losses[:, here].detach().mean())

    def optimized(self) -> list[dict[str, Any]]:
        """Parameter groups: norms, biases and tables without weight decay."""
        return decay_groups(self)

    # -------------------------------------------------------------------------------------- latents

    @torch.no_grad()
    def decoded(self, total: Tensor) -> Tensor:
        """Decode the sum of codes (B, d, h, w) to images (B, 3, H, W)."""
        return self.space.images(total)

    @torch.no_grad()
    def encoded(self, images: Tensor) -> Tensor:
        """Encode images to latents (B, d, h, w), not quantised."""
        return self.space.encode(images)

    @property
    def options(self) -> dict[str, str | int | float]:
        """Settings that change outputs of the same weights: drawing of bits, and text."""
        found: dict[str, str | int | float] = {**getattr(super(), "options", {})}
        found |= self.bits.options
        if self.encoder is not None:
            found["encoder"] = self.encoder.source or type(self.encoder).__name__
        if self.prompt is not None:
            found["prompt"] = self.prompt
        return found

    # -------------------------------------------------------------------------------------- weights

    def load_parts(self, find: Callable[[str, str], Path]) -> None:
        """Load the tokenizer's weights."""
        if self.space_weights is not None:
            self.space.load_official(find("space_weights", self.space_weights))

    @property
    def unchecked(self) -> tuple[str, ...]:
        """Prefixes of parts that may differ, with the encoder if none reads captions."""
        reads = self.encoder is not None and self.encoder.reads
        return (*self.training_only, *(() if reads else ("encoder.",)))

    def setup(self, stage: str) -> None:
        """Raise if the tokenizer has random weights.

        Raises:
            ValueError: If so.
        """
        super().setup(stage)
        if not self.space.source:
            raise ValueError(
                "the tokenizer of model.init_args.space has random weights: set "
                "model.init_args.space_weights to the run that trained it, or to a released file"
            )


def _text_or_none(
    network: InfinityTransformer, text: Text | None, count: int
) -> tuple[Text, Tensor]:
    # Features, and a mask of those to replace: all of them without text.
    table = network.no_text
    none = torch.full((count,), text is None, device=table.device)
    if text is not None:
        return text, none
    ones = torch.ones(count, dtype=torch.long, device=table.device)
    return Text(torch.zeros(count, 1, table.shape[1], device=table.device), ones), none
