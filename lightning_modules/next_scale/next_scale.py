"""The training, sampling and parts that NSARM and Infinity share.

Han et al., Infinity (CVPR 2025; arXiv 2412.04431).

f     latent of an image, not quantised         C_k   sum of the codes up to scale k
b_k   target bits of scale k                    n_k   input at scale k: C_(k-1), downscaled

The transformer predicts b_k from n_1 ... n_k. The target of scale k is the residual of f after
C_(k-1), so later bits correct earlier ones that were flipped or given.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from files.method import BitwiseMethod
from lightning_modules.backbone.bitwise import BitwiseSpace
from lightning_modules.backbone.condition import Texts, text_of
from lightning_modules.latents import InLatents
from lightning_modules.networks.bsq import (
    Down,
    enlarged,
    flipped,
    from_bits,
    from_tokens,
    quantized,
    scales_of,
    shrunk,
    to_bits,
    to_tokens,
)
from lightning_modules.networks.infinity import (
    Cache,
    EncodedText,
    InfinityTransformer,
    Mixture,
    Text,
    decay_groups,
)
from lightning_modules.networks.scales import Scales
from lightning_modules.noise import Noise, Size

if TYPE_CHECKING:
    from datamodules.base import Batch

Change = Callable[[int, Tensor], Tensor]


# ---------------------------------------------------------------------------------------- training
class TeacherForcing(NamedTuple):
    """Inputs and targets of the transformer, for all scales at once.

    Args:
        inputs: (B, n, bits): n_2 ... n_K, as tokens.
        bits: (B, n, bits) of 0 and 1: b_1 ... b_K, as tokens.
    """

    inputs: Tensor
    bits: Tensor


def teacher_forcing(
    f: Tensor, scales: Scales, change: Change | None = None, mode: Down = "trilinear"
) -> TeacherForcing:
    """Teacher forcing, section 3.3 of Infinity.

    Args:
        f: (B, d, h, w).
        scales: Scales of this latent.
        change: Replaces the right bits; as in ``scales_of``.
        mode: How C_k is downscaled.

    Raises:
        ValueError: If the latent has another size than the last scale.
    """
    bits, inputs = [], []
    for number, scale in enumerate(scales_of(f, scales.latents, change)):
        bits.append(to_tokens(scale.bits.float(), scales.patch))
        if number + 1 < len(scales):
            below = shrunk(scale.total, scales.latents[number + 1], mode)
            inputs.append(to_tokens(below, scales.patch))
    none = bits[0][:, :0]
    return TeacherForcing(torch.cat(inputs, 1) if inputs else none, torch.cat(bits, 1))


def starts_of(count: int, known: int, passes: Sequence[int] | None = None) -> list[int]:
    """Return for each scale the number of scales that are known when it is predicted.

    Args:
        count: Number of scales.
        known: Number of given scales.
        passes: Number of scales that each pass of the network predicts; by default 1 each.
    """
    starts = list(range(known))
    for size in passes or [1] * (count - known):
        starts += [len(starts)] * size
    return starts


def shares_pass(starts: Sequence[int], number: int) -> bool:
    """Whether the scale after scale ``number`` is predicted in the same pass.

    Args:
        starts: The result of ``starts_of``.
        number: Number of a scale.
    """
    return number + 1 < len(starts) and starts[number + 1] <= number


def inputs_of(
    codes: Sequence[Tensor], scales: Scales, starts: Sequence[int], mode: Down = "trilinear"
) -> Tensor:
    """Return the inputs of all scales, each the sum of the codes known when it is predicted.

    Args:
        codes: (B, d, h_k, w_k) of each scale.
        scales: Scales of the images.
        starts: The result of ``starts_of``.
        mode: How sums of codes are downscaled.

    Returns:
        (B, n, bits): n_2 ... n_K, as tokens.
    """
    totals = [torch.zeros_like(codes[-1])]
    for code in codes[:-1]:
        totals.append(totals[-1] + enlarged(code, scales.latents[-1]))
    pairs = zip(starts[1:], scales.latents[1:], strict=True)
    parts = [shrunk(totals[start], size, mode) for start, size in pairs]
    return torch.cat([to_tokens(part, scales.patch) for part in parts], 1)


def noise_inputs(
    fields: Sequence[Tensor | None], scales: Scales, starts: Sequence[int], first: int = 0
) -> Tensor | None:
    """Return the noise that the network reads: of each scale, that of its pass's earlier scales.

    So a scale can know what its pass drew before it. As codes are, fields are enlarged and summed.

    Args:
        fields: Normal noise (B, d, h_k, w_k) of consecutive scales; None for known scales.
        scales: Scales of the images.
        starts: The result of ``starts_of``.
        first: Number of the first of these scales.

    Returns:
        (B, n, bits), with 0 for the first scale of each pass; None if there is nothing to know.
    """
    drawn_here = [field for field in fields if field is not None]
    numbers = range(first, first + len(fields))
    if not drawn_here or all(starts[number] == number for number in numbers):
        return None
    parts = []
    for number in numbers:
        size = scales.latents[number]
        total = drawn_here[0].new_zeros(*drawn_here[0].shape[:2], *size)
        for field in fields[starts[number] - first : number - first]:
            total = total if field is None else total + enlarged(field, size)
        parts.append(to_tokens(total, scales.patch))
    return torch.cat(parts, 1)


def self_correction(strength: float, levels: int) -> Change:
    """Bitwise self-correction: flip a share of the bits of the first scales.

    The share is drawn for each scale, from 0, 0.01, ... to ``strength``, for the whole batch.

    Args:
        strength: Largest share, in [0, 1].
        levels: Number of first scales to flip bits in.

    Source: Infinity, section 3.4 and algorithm 2.
    """

    def change(number: int, residual: Tensor) -> Tensor:
        if number >= levels:
            return quantized(residual)
        share = int(torch.randint(0, round(100 * strength) + 1, ())) / 100
        return from_bits(flipped(to_bits(residual), share))

    return change


def scale_weights(scales: Scales, first: int = 0, reweight: bool = True) -> Tensor:
    """Return weights (n,) of the tokens from scale ``first`` on, with sum 1.

    Args:
        scales: Scales of the image.
        first: Number of the first scale that counts.
        reweight: Weight tokens of a grid of h w by 1 / sqrt(h w), so that fine scales, with most of
            the tokens, do not dominate; otherwise all tokens count equally.
    """
    parts = [
        torch.full((h * w,), 1 / math.sqrt(h * w) if reweight else 1.0)
        for h, w in scales.grids[first:]
    ]
    weights = torch.cat(parts)
    return weights / weights.sum()


def bit_losses(logits: Tensor, bits: Tensor) -> Tensor:
    """Return the cross-entropy of each token, the mean over its bits.

    Args:
        logits: (B, n, bits, 2).
        bits: (B, n, bits) of 0 and 1, or probabilities of 1, float.

    Returns:
        (B, n) in nats.
    """
    odds = logits[..., 1] - logits[..., 0]
    return functional.binary_cross_entropy_with_logits(odds, bits, reduction="none").mean(-1)


# ---------------------------------------------------------------------------------------- sampling
@dataclass(frozen=True)
class Bitwise:
    """How bits are drawn.

    Args:
        tau: Temperature; 0 for the likelier value.
        top_p: The less likely value of a bit is never drawn if its probability is at most
            1 - ``top_p``.
        guidance: Strength of classifier-free guidance; 1 for none.
        guidance_after: Number of blocks after which the two passes of guidance are mixed; by
            default their logits are mixed. Only with guidance.

    Raises:
        ValueError: If a number is out of range, or there is no guidance to mix.
    """

    tau: float = 0.5
    top_p: float = 0.97
    guidance: float = 1.0
    guidance_after: int | None = None

    def __post_init__(self) -> None:
        if not (self.tau >= 0 and 0.5 <= self.top_p <= 1 and self.guidance >= 1):
            raise ValueError(
                f"model.init_args.bits draws with tau {self.tau}, top_p {self.top_p} and guidance "
                f"{self.guidance}; expected 0 or more, 0.5 to 1, and 1 or more"
            )
        if self.guidance == 1 and self.guidance_after is not None:
            raise ValueError(
                f"model.init_args.bits.init_args.guidance_after is {self.guidance_after}, and "
                "guidance, whose passes it mixes, is 1: set guidance above 1, or leave "
                "guidance_after out"
            )

    @property
    def options(self) -> dict[str, str | int | float]:
        """Settings that differ from the defaults, for results."""
        default = Bitwise()
        names = ("tau", "top_p", "guidance", "guidance_after")
        return {n: getattr(self, n) for n in names if getattr(self, n) != getattr(default, n)}


def bit_probabilities(logits: Tensor, how: Bitwise) -> Tensor:
    """Return the probabilities with which bits are 1.

    Args:
        logits: (B, n, bits, 2).
        how: Temperature and top-p.

    Returns:
        (B, n, bits) in [0, 1].
    """
    odds = logits[..., 1] - logits[..., 0]
    if how.tau == 0:
        return (odds > 0).float()
    one = torch.sigmoid(odds / how.tau)
    rare = 1 - how.top_p
    return torch.where(one <= rare, 0.0, torch.where(one >= 1 - rare, 1.0, one))


def drawn(logits: Tensor, uniform: Tensor, how: Bitwise) -> Tensor:
    """Draw bits.

    Args:
        logits: (B, n, bits, 2).
        uniform: (B, n, bits), random numbers in [0, 1).
        how: Temperature and top-p.

    Returns:
        (B, n, bits) of 0 and 1, float.
    """
    return (uniform < bit_probabilities(logits, how)).float()


def field_of(noise: Noise, scales: Scales, number: int, bits: int) -> Tensor:
    """Draw the noise of one scale, by the position in the image.

    Args:
        noise: Noise of B images.
        scales: Scales of the images.
        number: Number of the scale.
        bits: Bits of a token.

    Returns:
        (B, d, h_k, w_k), normal.
    """
    shape = len(noise.seeds), bits // scales.patch**2
    return noise.normal((*shape, *scales.latents[number]))


def drawn_code(logits: Tensor, normal: Tensor, grid: Size, patch: int, how: Bitwise) -> Tensor:
    """Draw the code of one scale.

    Args:
        logits: (B, h w, bits, 2).
        normal: (B, d, h patch, w patch), normal noise.
        grid: (h, w) in tokens.
        patch: Side of a token.
        how: How bits are drawn.

    Returns:
        (B, d, h patch, w patch).
    """
    uniform = torch.special.ndtr(normal).clamp(max=1 - 2**-24)  # not 1
    bits = drawn(logits, to_tokens(uniform, patch), how)
    return from_bits(from_tokens(bits, grid, patch))


class Sampled(NamedTuple):
    """What was drawn.

    Args:
        codes: (B, d, h_k, w_k) of each scale.
        logits: (B, n, bits, 2) of each scale that was not known.
    """

    codes: list[Tensor]
    logits: list[Tensor]


def sample(
    network: InfinityTransformer,
    scales: Scales,
    text: Text,
    noise: Noise,
    how: Bitwise,
    known: Sequence[Tensor] = (),
    mode: Down = "trilinear",
    at_once: bool = True,
    passes: Sequence[int] | None = None,
) -> Sampled:
    """Draw the codes of all scales, each given the previous ones.

    Args:
        network: The transformer.
        scales: Scales of the images.
        text: Text of B images; with guidance of 2B, the second half unconditional.
        noise: Noise of B images; draws depend on the position in the image.
        how: How bits are drawn.
        known: (B, d, h, w), given codes of the first scales.
        mode: How sums of codes are downscaled.
        at_once: Whether known scales go through the network in one pass instead of one each; the
            results differ only by rounding.
        passes: Number of scales that each pass predicts, without the known ones; by default 1 each.
    """
    encoded = network.encode_text(text)
    cache, copies = Cache(scales.tokens), 1 if how.guidance == 1 else 2
    starts = starts_of(len(scales), len(known), passes)
    found, inputs, fields = Sampled([*known], []), list[Tensor](), list[Tensor | None]()
    shape = len(noise.seeds), network.bits // scales.patch**2, *scales.latents[-1]
    total = torch.zeros(shape, dtype=torch.float32, device=noise.device)
    first = added = 0
    for number in range(len(scales)):
        for code in found.codes[added:number]:
            total = total + enlarged(code, scales.latents[-1])
        added = min(number, len(found.codes))
        if number:
            below = to_tokens(shrunk(total, scales.latents[number], mode), scales.patch)
            inputs.append(below.repeat(copies, 1, 1))
        drawn_here = number >= len(known)
        fields.append(field_of(noise, scales, number, network.bits) if drawn_here else None)
        if (at_once and not drawn_here) or shares_pass(starts, number):
            continue
        earlier = noise_inputs(fields, scales, starts, first) if network.reads_noise else None
        if earlier is not None:
            earlier = earlier.repeat(copies, 1, 1)
        logits = _logits(network, inputs, scales, encoded, first, cache, how, earlier)
        start = scales.spans[first].start
        for each, field in enumerate(fields, first):
            if field is not None:
                span = scales.spans[each]
                here = logits[:, span.start - start : span.stop - start]
                found.codes.append(drawn_code(here, field, scales.grids[each], scales.patch, how))
                found.logits.append(here)
        inputs, fields, first = [], [], number + 1
    return found


def _logits(
    network: InfinityTransformer,
    inputs: Sequence[Tensor],
    scales: Scales,
    encoded: EncodedText,
    first: int,
    cache: Cache,
    how: Bitwise,
    noise: Tensor | None,
) -> Tensor:
    tokens = torch.cat(list(inputs), 1) if inputs else None
    mixture = None
    if how.guidance != 1 and how.guidance_after is not None:
        mixture = Mixture(how.guidance_after, how.guidance)
    logits: Tensor = network(tokens, scales, encoded, first, cache, mixture, noise)
    if how.guidance == 1:
        return logits
    with_it, without = logits.chunk(2)
    return with_it if mixture is not None else without + how.guidance * (with_it - without)


def adamw(parameters: Iterable[Tensor]) -> torch.optim.Optimizer:
    """AdamW as for Infinity; 6e-5 is for batches of 4,096."""
    return torch.optim.AdamW(parameters, lr=6e-5, betas=(0.9, 0.97), weight_decay=0.005, fused=True)


class NextScale(InLatents, BitwiseMethod):
    """A method whose transformer predicts the bits of a frozen tokenizer, scale by scale.

    Args:
        scale: Set by ``data.init_args.scale``.
        encoder: Encodes captions, or names of classes; without it, and without cached features,
            there is no text.
        prompt: A caption for all images, instead of their own.
        text_dropout: Share of captions to drop in training, for guidance.
        reweight: Whether tokens of fine scales count less, by the square root of their number.
        bits: How bits are drawn.
    """

    space: BitwiseSpace
    transformer: InfinityTransformer | None

    def __init__(
        self,
        scale: float,
        encoder: Texts | None = None,
        prompt: str | None = None,
        text_dropout: float = 0.1,
        reweight: bool = True,
        bits: Bitwise | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(scale, **kwargs)
        self.encoder, self.prompt = encoder, prompt
        self.text_dropout, self.reweight, self.bits = text_dropout, reweight, bits or Bitwise()

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
            inputs: Inputs of ``next_scale.teacher_forcing``.
            scales: Scales of the images.
        """
        network, count = self._network, len(inputs)
        known, none = _text_or_none(network, self.text(batch), count)
        dropped = torch.rand(count, device=inputs.device) < self.text_dropout
        encoded = network.encode_text(network.without_text(known, none | dropped))
        logits: Tensor = network(inputs, scales, encoded)
        return logits

    def sampling(
        self, batch: Batch, network: InfinityTransformer | None = None
    ) -> tuple[Text, Bitwise]:
        """Return the text for ``next_scale.sample``, with guidance also the empty one, and bits.

        Args:
            batch: Batch with captions.
            network: Whose table for no text is used; by default the model's own.

        Raises:
            ValueError: If there is guidance without text.
        """
        network, found = network or self._network, self.text(batch)
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
    def output_settings(self) -> dict[str, str | int | float]:
        """Settings that change outputs of the same weights: drawing of bits, and text."""
        found: dict[str, str | int | float] = {
            **super().output_settings,
            **self.bits.options,
        }
        if self.encoder is not None:
            found["encoder"] = self.encoder.source or type(self.encoder).__name__
        if self.prompt is not None:
            found["prompt"] = self.prompt
        return found

    # -------------------------------------------------------------------------------------- weights

    @property
    def unchecked(self) -> tuple[str, ...]:
        """Prefixes of parts that may differ, with the encoder if none reads captions."""
        reads = self.encoder is not None and self.encoder.reads
        return (*self.training_only, *(() if reads else ("encoder.",)))


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
