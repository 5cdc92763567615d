"""Infinity: images from text, scale by scale, bit by bit; the base of NSARM.

Han et al., CVPR 2025 (arXiv 2412.04431). A tokenizer encodes an image as bits at many scales
(``lightning_modules.Tokenizer``); a transformer predicts the bits of each scale from the previous
ones.

f     latent of an image, not quantised         C_k   sum of the codes up to scale k
b_k   target bits of scale k                    n_k   input at scale k: C_(k-1), downscaled

The transformer predicts b_k from n_1 ... n_k. The target of scale k is the residual of f after
C_(k-1), so later bits correct earlier ones that were flipped or given.

Released models use tau 0.5 and guidance 4 (2B), or tau 1 and guidance 3 (8B). Their images are
truncated to 8 bits; here they are rounded.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor
from torch.nn import functional

from degradations.device import copy_to
from files.batch import Batch
from files.method import changed
from files.numbers import NonNegativeFloat, PositiveFloat, UnitInterval
from lightning_modules.backbone.bitwise import BitwiseSpace
from lightning_modules.backbone.condition import Texts, text_of
from lightning_modules.base import Generator
from lightning_modules.latents import InLatents, hr_latent
from lightning_modules.networks.bsq import (
    Down,
    Scales,
    enlarged,
    flipped,
    from_bits,
    from_tokens,
    quantized,
    scales_of,
    shrunk,
    to_bits,
    to_tokens,
    total_after,
)
from lightning_modules.networks.infinity import (
    Cache,
    InfinityTransformer,
    Text,
    decay_groups,
)
from lightning_modules.networks.transformation import PREFIX as MAPPER_PREFIX
from lightning_modules.noise import Noise, Size

Change = Callable[[int, Tensor], Tensor]
FLIPPED_SHARE = 0.3  # largest share of bits that are flipped in training
FLIPPED_SCALES = 13  # number of first scales in which bits are flipped
TEXT_DROPOUT = 0.1  # share of captions that are dropped in training, for guidance


# ---------------------------------------------------------------------------------------- training
class TeacherForcing(NamedTuple):
    """Inputs and targets of the transformer, for all scales at once.

    Args:
        inputs: (B, n, bits): n_2 ... n_K, as tokens.
        bits: (B, n, bits) of 0 and 1: b_1 ... b_K, as tokens.
    """

    inputs: Tensor
    bits: Tensor


def teacher_forcing(f: Tensor, scales: Scales, change: Change | None = None) -> TeacherForcing:
    """Return inputs and targets of all scales, from the right bits of all previous ones.

    Teacher forcing, section 3.3 of Infinity.

    Args:
        f: (B, d, h, w).
        scales: Scales of this latent.
        change: Replaces the right bits, from which inputs and later targets follow; as in
            ``scales_of``.

    Raises:
        ValueError: If the latent has another size than the last scale.
    """
    bits = []
    inputs = []
    for number, scale in enumerate(scales_of(f, scales.latents, change)):
        bits.append(to_tokens(scale.bits.float(), scales.patch))
        if number + 1 < len(scales):
            below = shrunk(scale.total, scales.latents[number + 1], "trilinear")
            inputs.append(to_tokens(below, scales.patch))
    empty = bits[0][:, :0]  # a single scale has no inputs
    return TeacherForcing(torch.cat(inputs, 1) if inputs else empty, torch.cat(bits, 1))


def self_correction(number: int, residual: Tensor) -> Tensor:
    """Return the code of a scale with some bits flipped: bitwise self-correction.

    The share is drawn for each scale, from 0, 0.01, ... to ``FLIPPED_SHARE``, for the whole batch.

    Args:
        number: Number of the scale.
        residual: (B, d, h, w), what previous scales left.

    Source: Infinity, section 3.4 and algorithm 2.
    """
    if number >= FLIPPED_SCALES:
        return quantized(residual)
    share = int(torch.randint(0, round(100 * FLIPPED_SHARE) + 1, ())) / 100
    return from_bits(flipped(to_bits(residual), share))


def scale_weights(scales: Scales, first: int = 0) -> Tensor:
    """Return weights (n,) of the tokens from scale ``first`` on, with sum 1.

    Tokens of a grid of h w count 1 / sqrt(h w), so that fine scales, with most of the tokens, do
    not dominate.

    Args:
        scales: Scales of the image.
        first: Number of the first scale that counts.
    """
    weights = torch.cat(
        [torch.full((h * w,), 1 / math.sqrt(h * w)) for h, w in scales.grids[first:]]
    )
    return weights / weights.sum()


def bit_losses(logits: Tensor, bits: Tensor) -> Tensor:
    """Return the cross-entropy of each token, the mean over its bits.

    Args:
        logits: (B, n, bits, 2).
        bits: (B, n, bits) of 0 and 1, float.

    Returns:
        (B, n) in nats.
    """
    # Softmax over two logits is the sigmoid of their difference.
    odds = logits[..., 1] - logits[..., 0]
    return functional.binary_cross_entropy_with_logits(odds, bits, reduction="none").mean(-1)


# ---------------------------------------------------------------------------------------- sampling
@dataclass(frozen=True)
class Bitwise:
    """How sampling draws bits.

    Args:
        tau: Temperature; 0 for the likelier value.
        top_p: The less likely value of a bit is never drawn if its probability is at most
            1 - ``top_p``.
        guidance: Strength of classifier-free guidance; 1 for none.
        next_input_mode: How C_k is downscaled: ``trilinear`` as in training, or ``area`` as in
            NSARM's released code with the released weights.
    """

    tau: NonNegativeFloat = 0.5
    top_p: UnitInterval = 0.97
    guidance: PositiveFloat = 1.0
    next_input_mode: Down = "trilinear"


def drawn(logits: Tensor, uniform: Tensor, how: Bitwise) -> Tensor:
    """Draw bits.

    Args:
        logits: (B, n, bits, 2).
        uniform: (B, n, bits), random numbers in [0, 1).
        how: Temperature and top-p.

    Returns:
        (B, n, bits) of 0 and 1, float.
    """
    odds = logits[..., 1] - logits[..., 0]
    if how.tau == 0:
        return (odds > 0).float()
    chance = torch.sigmoid(odds / how.tau)  # of a 1
    rare = 1 - how.top_p
    chance = torch.where(chance <= rare, 0.0, torch.where(chance >= 1 - rare, 1.0, chance))
    return (uniform < chance).float()


def drawn_code(logits: Tensor, noise: Noise, grid: Size, patch: int, how: Bitwise) -> Tensor:
    """Draw the code of one scale; its noise is that of the position in the image.

    Args:
        logits: (B, h w, bits, 2).
        noise: Noise of B images.
        grid: (h, w) in tokens.
        patch: Side of a token.
        how: How bits are drawn.

    Returns:
        (B, d, h patch, w patch).
    """
    h, w = grid
    channels = logits.shape[2] // patch**2
    normal = noise.normal((len(noise.seeds), channels, h * patch, w * patch))
    # Normal noise knows positions in the image; its distribution function makes it uniform. Never
    # 1, by which a certain bit would be 0.
    uniform = torch.special.ndtr(normal).clamp(max=1 - 2**-24)
    bits = drawn(logits, to_tokens(uniform, patch), how)
    return from_bits(from_tokens(bits, grid, patch))


def sample(
    network: InfinityTransformer,
    scales: Scales,
    text: Text,
    noise: Noise,
    how: Bitwise,
    first_codes: Sequence[Tensor] = (),
) -> list[Tensor]:
    """Draw the codes of all scales, each given the previous ones.

    Args:
        network: The transformer.
        scales: Scales of the images.
        text: Text of B images; with guidance of 2B, the second half unconditional.
        noise: Noise of B images; draws depend on the position in the image.
        how: How bits are drawn.
        first_codes: (B, d, h, w), codes of the first scales, which go through the network in one
            pass.

    Returns:
        (B, d, h_k, w_k) of each scale.
    """
    encoded = network.encode_text(text)
    cache = Cache(scales.tokens)
    copies = 1 if how.guidance == 1 else 2  # with guidance, with and without text
    codes = list(first_codes)
    inputs = list[Tensor]()  # of the scales that the network has not seen yet
    first = 0  # number of the first of them
    shape = (len(noise.seeds), network.bits // scales.patch**2, *scales.latents[-1])
    total = torch.zeros(shape, dtype=torch.float32, device=noise.device)
    for number, size in enumerate(scales.latents):
        if number:
            total = total + enlarged(codes[number - 1], scales.latents[-1])
            below = to_tokens(shrunk(total, size, how.next_input_mode), scales.patch)
            inputs.append(below.repeat(copies, 1, 1))
        if number < len(first_codes):  # given: only an input of the next ones
            continue
        tokens = torch.cat(inputs, 1) if inputs else None
        logits: Tensor = network(tokens, scales, encoded, first, cache)
        if how.guidance != 1:
            with_text, without = logits.chunk(2)
            logits = without + how.guidance * (with_text - without)
        h, w = scales.grids[number]
        codes.append(drawn_code(logits[:, -h * w :], noise, (h, w), scales.patch, how))
        inputs = []
        first = number + 1
    return codes


def adamw(parameters: Iterable[Tensor]) -> torch.optim.Optimizer:
    """AdamW as for Infinity; 6e-5 is for batches of 4,096."""
    return torch.optim.AdamW(parameters, lr=6e-5, betas=(0.9, 0.97), weight_decay=0.005, fused=True)


class NextScale(InLatents):
    """A method whose transformer predicts the bits of a frozen tokenizer, scale by scale.

    Args:
        scale: Set by ``data.init_args.scale``.
        encoder: Encodes captions, or names of classes; without it, and without cached features,
            there is no text.
        prompt: A caption for all images, instead of their own.
        bits: How sampling draws bits: temperature, top-p and guidance.

    Raises:
        ValueError: If there is a prompt, and no encoder that reads captions.
    """

    space: BitwiseSpace
    transformer: InfinityTransformer
    trained_parts: tuple[str, ...] | None = ("transformer", "encoder")
    released_parts: ClassVar[tuple[str, ...]] = ("transformer",)

    def __init__(
        self,
        scale: float,
        encoder: Texts | None = None,
        prompt: str | None = None,
        bits: Bitwise = Bitwise(),
        **kwargs: Any,
    ) -> None:
        super().__init__(scale, **kwargs)
        self.encoder = encoder
        self.prompt = prompt
        self.bits = bits
        # An encoder that does not read captions, such as `FixedText`, would ignore the prompt.
        if prompt is not None and (encoder is None or not encoder.reads):
            raise ValueError(
                "model.init_args.prompt is set, and an encoder, which reads it, is missing: set "
                "model.init_args.encoder"
            )

    # ---------------------------------------------------------------------------------- the network

    def text(self, batch: Batch) -> Text | None:
        """Return the text of a batch; None without text. Raises as ``text_of``."""
        return text_of(batch, self.encoder, self.prompt)

    def predicted(self, batch: Batch, inputs: Tensor, scales: Scales) -> Tensor:
        """Return logits of all scales, (B, n, bits, 2), with captions dropped as in training.

        Args:
            batch: Batch with captions.
            inputs: Inputs of ``teacher_forcing``.
            scales: Scales of the images.
        """
        network = self.transformer
        count = len(inputs)
        text, without_text = _text_and_mask(network, self.text(batch), count)
        dropped = torch.rand(count, device=inputs.device) < TEXT_DROPOUT
        encoded = network.encode_text(network.without_text(text, without_text | dropped))
        return network(inputs, scales, encoded)

    def sampling(self, batch: Batch) -> tuple[Text, Bitwise]:
        """Return what ``sample`` needs: the text, with guidance also the empty one; how to draw.

        Args:
            batch: Batch with captions.

        Raises:
            ValueError: If there is guidance without text.
        """
        network = self.transformer
        captions = self.text(batch)
        text, without_text = _text_and_mask(network, captions, len(batch["key"]))
        conditional = network.without_text(text, without_text)
        if self.bits.guidance == 1:
            return conditional, self.bits
        if captions is None:
            raise ValueError(
                f"model.init_args.bits.guidance is {self.bits.guidance:g}, and there is "
                "no text: set model.init_args.encoder, or guidance to 1"
            )
        unconditional = network.without_text(text, ~without_text)
        halves = zip(conditional, unconditional, strict=True)
        return Text(*[torch.cat(pair) for pair in halves]), self.bits

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
        self.log("train/bit_accuracy", right.float().mean())
        start = scales.spans[first].start
        for number, span in enumerate(scales.spans[first:], first + 1):
            tokens = losses[:, span.start - start : span.stop - start]
            self.log(f"train/loss_scale_{number}", tokens.detach().mean())

    def optimized(self) -> list[dict[str, Any]]:
        """Parameter groups: norms, biases and tables without weight decay."""
        return decay_groups(self)

    # -------------------------------------------------------------------------------------- weights

    @property
    def output_settings(self) -> dict[str, str | int | float]:
        """Settings that change outputs of the same weights: drawing of bits, and text."""
        settings = super().output_settings | changed(self.bits)
        if self.prompt is not None:
            settings["prompt"] = self.prompt
        return settings

    @property
    def unchecked(self) -> tuple[str, ...]:
        """Prefixes of parts that may differ: also the encoder's if none reads captions here."""
        if self.encoder is not None and self.encoder.reads:
            return self.training_only
        return (*self.training_only, "encoder.")


def _text_and_mask(
    network: InfinityTransformer, text: Text | None, count: int
) -> tuple[Text, Tensor]:
    """Return the text, and a mask (B,) of images without one: the network replaces their features.

    Without any text the features are zeros, of one token, and all are replaced.
    """
    table = network.no_text
    without_text = torch.full((count,), text is None, device=table.device)
    if text is None:
        lengths = torch.ones(count, dtype=torch.long, device=table.device)
        text = Text(torch.zeros(count, 1, table.shape[1], device=table.device), lengths)
    return text, without_text


class Infinity(NextScale, Generator):
    """Train a next-scale transformer, and generate images with it.

    Args:
        scale: Unused, since the output size is requested; set by ``data.init_args.scale``.
        space: The frozen tokenizer, with its scales.
        transformer: The network to train.
        optimizer: Makes the optimiser of the trainable parameters.
    """

    def __init__(
        self,
        scale: float,
        space: BitwiseSpace,
        transformer: InfinityTransformer,
        optimizer: OptimizerCallable = adamw,
        **kwargs: Any,
    ) -> None:
        super().__init__(scale, optimizer=optimizer, **kwargs)
        self.space = space
        self.transformer = transformer

    # ------------------------------------------------------------------------------------- training

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the cross-entropy of the bits of all scales, with self-correction."""
        f = hr_latent(self.space, batch)
        scales = self.space.scales((f.shape[-2], f.shape[-1]))
        forced = teacher_forcing(f, scales, self_correction)
        logits = self.predicted(batch, forced.inputs, scales)
        weights = copy_to(scale_weights(scales), f.device)
        losses = bit_losses(logits, forced.bits)
        loss = (losses * weights).sum(1).mean()
        self.log("train/loss", loss)
        self.log_scales(scales, losses, logits, forced.bits)
        return loss

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
        """Map a released file, which has only the transformer; other parts stay.

        Raises:
            ValueError: If it is NSARM's, whose transformer continues the scales of its mapper.
        """
        if any(name.startswith(MAPPER_PREFIX) for name in tensors):
            raise ValueError(
                "the file has the networks of lightning_modules.NSARM: set model.class_path to "
                "that, or name a file of Infinity"
            )
        return super().import_official(tensors)
