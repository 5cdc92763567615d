"""Infinity: pictures from text, scale by scale, bit by bit. The base that NSARM tunes.

Han et al., CVPR 2025 (arXiv 2412.04431). A tokenizer says a picture in bits at many scales
(``lightning_modules.tokenizer``); a transformer learns to say the bits of each scale from those
before. Symbols as in ``lightning_modules.next_scale``.

Released models draw with tau 0.5 and guidance 4 (2B), tau 1 and guidance 3 (8B); their pictures are
cut to 8 bits, here they are rounded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor

from lightning_modules.backbone.bitwise import BitwiseSpace
from lightning_modules.backbone.frozen import bare_names
from lightning_modules.backbone.texts import Texts, text_of
from lightning_modules.base import Generator
from lightning_modules.networks.infinity import InfinityTransformer, Text, decay_groups
from lightning_modules.networks.infinity import from_official as from_released
from lightning_modules.networks.scales import Scales
from lightning_modules.next_scale import (
    Bitwise,
    bit_losses,
    forced,
    sample,
    scale_weights,
    self_correction,
    total_after,
)
from lightning_modules.noise import Noise

if TYPE_CHECKING:
    from datamodules.base import Batch


def adamw(parameters: Iterable[Tensor]) -> torch.optim.Optimizer:
    """AdamW as Infinity was trained; 6e-5 is for batches of 4,096."""
    return torch.optim.AdamW(parameters, lr=6e-5, betas=(0.9, 0.97), weight_decay=0.005, fused=True)


class Infinity(Generator):
    """Train a next-scale transformer, and make pictures with it.

    Args:
        scale: Unused, for pictures are as large as is asked; set by ``data.init_args.scale``.
        transformer: What is trained.
        space: The tokenizer, frozen, with its scales.
        space_weights: Its weights: a run of ``Tokenizer``, a released file, or a name of
            ``configs/weights.yaml``.
        encoder: Makes features of captions, or of names of classes; without it, and without cached
            features, pictures are of no text.
        prompt: A caption for all pictures, in place of their own.
        text_dropout: Share of the captions that are left out in training, for guidance.
        flip_strength: Largest share of bits that are said wrong in training.
        flip_scales: First scales in which they are.
        reweight: Whether tokens of fine scales count less, by the square root of their number.
        bits: How they are drawn.
        optimizer: Makes the optimiser of the trainable parameters.
        lr_scheduler: Makes the learning-rate schedule; by default there is none.
        weights: Weights to start from: a file, or a name of ``configs/weights.yaml``.

    Raises:
        ValueError: Transformer and space do not fit, or a share is none.
    """

    def __init__(
        self,
        scale: float,
        transformer: InfinityTransformer,
        space: BitwiseSpace,
        space_weights: str | None = None,
        encoder: Texts | None = None,
        prompt: str | None = None,
        text_dropout: float = 0.1,
        flip_strength: float = 0.3,
        flip_scales: int = 13,
        reweight: bool = True,
        bits: Bitwise | None = None,
        optimizer: OptimizerCallable = adamw,
        lr_scheduler: LRSchedulerCallable | None = None,
        weights: str | None = None,
    ) -> None:
        super().__init__(scale, optimizer, lr_scheduler, weights)
        check_parts(transformer, space)
        for name, share in (("text_dropout", text_dropout), ("flip_strength", flip_strength)):
            if not 0 <= share <= 1:
                raise ValueError(f"model.init_args.{name} is {share}; expected 0 to 1")
        self.transformer, self.space, self.space_weights = transformer, space, space_weights
        self.encoder, self.prompt, self.text_dropout = encoder, prompt, text_dropout
        self.flip_strength, self.flip_scales = flip_strength, flip_scales
        self.reweight, self.bits = reweight, bits or Bitwise()

    # ------------------------------------------------------------------------------------- training

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Cross-entropy of bits, all scales at once, with self-correction."""
        f = self.latent(batch)
        scales = self.space.scales((f.shape[-2], f.shape[-1]))
        given = forced(f, scales, self_correction(self.flip_strength, self.flip_scales))
        text = self._text(batch)
        dropped = torch.rand(len(f), device=f.device) < self.text_dropout
        logits = predicted(self.transformer, given.inputs, scales, text, len(f), dropped)
        weights = scale_weights(scales, 0, self.reweight).to(f.device)
        losses = bit_losses(logits, given.bits)
        loss = (losses * weights).sum(1).mean()
        self.log("train/loss", loss, prog_bar=True)
        log_scales(self, scales, losses.detach(), logits.detach(), given.bits)
        return loss

    def latent(self, batch: Batch) -> Tensor:
        """f, (B, d, h, w): one that was encoded before, or of the pictures."""
        if "latent" in batch:
            return self.space.take(batch["latent"], batch["space"])
        with torch.no_grad():
            return self.space.encode(batch["hr"])

    def _text(self, batch: Batch) -> Text | None:
        width = self.transformer.no_text.shape[1]
        return text_of(batch, self.encoder, self.prompt, width)

    def optimized(self) -> list[dict[str, Any]]:
        """Norms, biases and tables are not decayed."""
        return decay_groups(self)

    # ------------------------------------------------------------------------------------- sampling

    @torch.no_grad()
    def generate(self, batch: Batch, noise: Noise) -> Tensor:
        """From one token to the whole picture.

        Raises:
            ValueError: There are no scales for the size.
        """
        return self.space.pictures(total_after(self._codes(batch, noise)))

    @torch.no_grad()
    def bits_of(self, batch: Batch) -> list[Tensor]:
        """(B, d, h_k, w_k) of each scale: the codes that the pictures are made of."""
        batch = self._own_seeds(batch)
        return self._codes(batch, Noise(batch["seed"], self.device))

    def _codes(self, batch: Batch, noise: Noise) -> list[Tensor]:
        H, W = batch["size"]
        factor = self.space.factor
        if H % factor or W % factor:
            raise ValueError(f"pictures of {H}x{W} were asked for; expected multiples of {factor}")
        scales = self.space.scales((H // factor, W // factor))
        known = self._text(batch)
        text = drawn_from(self.transformer, known, len(batch["key"]), self.bits)
        # Without a text there is nothing to be led away from.
        how = replace(self.bits, guidance=1.0) if known is None else self.bits
        return sample(self.transformer, scales, text, noise, how)

    @torch.no_grad()
    def decoded(self, total: Tensor) -> Tensor:
        """Pictures, (B, 3, H, W), of the sum of codes, (B, d, h, w)."""
        return self.space.pictures(total)

    @torch.no_grad()
    def encoded(self, pictures: Tensor) -> Tensor:
        """Latents of pictures, (B, d, h, w), not quantised."""
        return self.space.encode(pictures)

    # -------------------------------------------------------------------------------------- weights

    def load_parts(self, find: Callable[[str, str], Path]) -> None:
        """The tokenizer's weights. Args as ``ImageModel.load_parts``."""
        if self.space_weights is not None:
            self.space.load_official(find("space_weights", self.space_weights))

    def setup(self, stage: str) -> None:
        """See that the tokenizer is a trained one.

        Raises:
            ValueError: It is not.
        """
        super().setup(stage)
        check_space(self.space)

    def import_official(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """A released file has the transformer alone; the other parts keep their own."""
        own = self.state_dict()
        tensors = bare_names(tensors)
        if not own.keys().isdisjoint(tensors):  # an exported file of ours
            return {**own, **tensors}
        kept = {k: v for k, v in own.items() if not k.startswith("transformer.")}
        found = from_released(tensors, len(self.transformer.no_text))
        return {**kept, **{f"transformer.{name}": tensor for name, tensor in found.items()}}


# ----------------------------------------------------------------------------- shared with NSARM


def predicted(
    transformer: InfinityTransformer,
    inputs: Tensor,
    scales: Scales,
    text: Text | None,
    count: int,
    dropped: Tensor,
) -> Tensor:
    """Logits of all scales, (B, n, bits, 2), as training wants them.

    Args:
        transformer: Predicts.
        inputs: Of ``forced``.
        scales: Of the pictures.
        text: What is known of B captions, if anything.
        count: B.
        dropped: (B,), true where the caption is left out.
    """
    known, none = _text_or_none(transformer, text, count)
    told = transformer.told(transformer.without_text(known, none | dropped))
    logits: Tensor = transformer(inputs, scales, told)
    return logits


def drawn_from(
    transformer: InfinityTransformer, text: Text | None, count: int, how: Bitwise
) -> Text:
    """What ``next_scale.sample`` is told: captions, and after them, for guidance, none.

    Args:
        transformer: Has what stands for no text.
        text: Of B captions, if anything is known.
        count: B.
        how: Bits are drawn.
    """
    known, none = _text_or_none(transformer, text, count)
    found = transformer.without_text(known, none)
    if text is None or how.guidance == 1:
        return found
    without = transformer.without_text(known, ~none)
    return Text(*(torch.cat(pair) for pair in zip(found, without, strict=True)))


def _text_or_none(
    transformer: InfinityTransformer, text: Text | None, count: int
) -> tuple[Text, Tensor]:
    # Features, and where they are to be replaced: all of them where there is no text.
    table = transformer.no_text
    none = torch.full((count,), text is None, device=table.device)
    if text is not None:
        return text, none
    ones = torch.ones(count, dtype=torch.long, device=table.device)
    return Text(torch.zeros(count, 1, table.shape[1], device=table.device), ones), none


def log_scales(
    model: Any, scales: Scales, losses: Tensor, logits: Tensor, bits: Tensor, first: int = 0
) -> None:
    """Loss of each scale, and the share of all bits that are right.

    Args:
        model: Logs.
        scales: Of the pictures.
        losses: (B, n), of tokens from scale ``first`` on.
        logits: (B, n, bits, 2), likewise.
        bits: (B, n, bits), likewise.
        first: Number of a scale.
    """
    right = (logits[..., 1] > logits[..., 0]) == (bits > 0.5)
    model.log("train/bit_accuracy", right.float().mean(), prog_bar=True)
    start = scales.spans[first].start
    for number, span in enumerate(scales.spans[first:], first + 1):
        here = slice(span.start - start, span.stop - start)
        model.log(f"train/loss_scale_{number}", losses[:, here].mean())


def check_parts(transformer: InfinityTransformer, space: BitwiseSpace) -> None:
    """See that both have as many bits a token.

    Raises:
        ValueError: They have not.
    """
    if transformer.bits != space.bits:
        raise ValueError(
            f"model.init_args.transformer is for {transformer.bits} bits a token and the space has "
            f"{space.bits}: set the transformer's bits, or the space's vae and patch"
        )


def check_space(space: BitwiseSpace) -> None:
    """See that the tokenizer is a trained one.

    Raises:
        ValueError: It is not.
    """
    if not space.source:
        raise ValueError(
            "the tokenizer of model.init_args.space has random weights: set "
            "model.init_args.space_weights to the run that trained it, or to a released file"
        )
