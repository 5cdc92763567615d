"""NSARM: next-scale autoregression for real-world super-resolution.

arXiv 2510.00820, on Infinity (CVPR 2025; arXiv 2412.04431). A transformation network maps the
latent of LR to the first scales of HR's latent; Infinity's transformer, fine-tuned as a whole,
predicts the others. Symbols as in ``infinity.py``, and

y     latent of LR                              r_k   residual of HR's latent after C_(k-1)
o_k   the network's output for scale k          P     number of preliminary scales, 7 of 13

Stage 1 (``NSARMStageOne``) trains only the network, with r_k, which is not quantised, as the target
of o_k. In stage 2 (``NSARM``) the first scales are the quantised o_k, and the transformer learns
the residual of HR.

The paper has neither the losses' weights nor learning rates, and its code has no training. So
residuals count equally in stage 1; in stage 2 scales are weighted as in Infinity, the network also
trains, and no bits are flipped. In sampling, the released code downscales C_k by area, while
Infinity, and all training code, downscales it without smoothing (``bits.next_input_mode``).

Defaults follow the paper and the released weights. Three other choices, not of the paper, are
for small trainings: ``LatentEstimate`` as mapper, ``enlarge_lr``, and a low ``mapper_lr``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, ClassVar

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor, nn

from degradations.device import copy_to
from files.batch import Batch
from files.numbers import PositiveFloat
from files.weights import fingerprint, shape_text
from lightning_modules.backbone.bitwise import BitwiseSpace
from lightning_modules.backbone.space import named
from lightning_modules.base import SuperResolver
from lightning_modules.latents import InLatents, enlarged, hr_latent, require_lr
from lightning_modules.methods.infinity import (
    NextScale,
    adamw,
    bit_losses,
    sample,
    scale_weights,
    teacher_forcing,
)
from lightning_modules.networks.bsq import Scales, quantized, total_after
from lightning_modules.networks.infinity import InfinityTransformer, decay_groups
from lightning_modules.networks.transformation import Mapper
from lightning_modules.noise import Noise
from lightning_modules.sampling.color import ColorFix
from lightning_modules.sampling.tiling import padded

log = logging.getLogger(__name__)


class NSARMStageOne(InLatents, SuperResolver):
    """Stage 1: the network that maps LR to the first scales; it restores only these.

    Args:
        scale: Factor by which images are enlarged; set by ``data.init_args.scale``.
        space: The frozen tokenizer, with its scales.
        mapper: The network that predicts the first scales, for LR of one size: ``Transformation``,
            as in the paper, or ``LatentEstimate``.
        enlarge_lr: Whether LR is enlarged to HR's size, bicubic, before it is encoded; then
            ``mapper.size`` is the size of HR's latent. As released, LR is encoded as it is.
        optimizer: Makes the optimiser of the trainable parameters.
        color_fix: How outputs get the colours of LR; see ``lightning_modules.sampling.color``.

    Raises:
        ValueError: If parts do not fit each other or the scale.
    """

    space: BitwiseSpace
    trained_parts: tuple[str, ...] | None = ("mapper",)
    released_parts: ClassVar[tuple[str, ...]] = ("mapper",)
    trained_settings: ClassVar[Mapping[str, str]] = {
        **InLatents.trained_settings,
        "enlarge_lr": "enlarge_lr",
    }
    latent_pairs = True

    def __init__(
        self,
        scale: float,
        space: BitwiseSpace,
        mapper: Mapper,
        enlarge_lr: bool = False,
        optimizer: OptimizerCallable = adamw,
        color_fix: ColorFix = "adain_wavelet",
        **kwargs: Any,
    ) -> None:
        super().__init__(scale, optimizer=optimizer, color_fix=color_fix, **kwargs)
        self.space = space
        self.mapper = mapper
        self.enlarge_lr = enlarge_lr
        self._check_mapper()
        # The network takes a single size: smaller images are padded, larger ones tiled.
        lr_per_position = Fraction(space.factor) / (self._scale_fraction if enlarge_lr else 1)
        side = int(mapper.size[0] * lr_per_position)
        self.tile = self.tile_least = side
        self.tile_overlap = min(side // 2, 32)
        self.tile_window = "gaussian"
        # The least number of LR pixels that are whole positions of the latent.
        self.tile_multiple = lr_per_position.numerator
        self.tile_always = True

    # ------------------------------------------------------------------------------------- training

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the mean of (o_k - r_k)^2 over all elements of the preliminary scales."""
        f, y = self.latents(batch)
        outputs = self.mapper(y)
        with torch.no_grad():
            residuals = self.mapper.targets(f, self.scales.latents, outputs)
        errors = []
        for number, (o, r) in enumerate(zip(outputs, residuals, strict=True), 1):
            error = (o - r).square().flatten(1)
            self.log(f"train/mse_scale_{number}", error.detach().mean())
            errors.append(error)
        loss = torch.cat(errors, 1).mean()
        self.log("train/loss", loss)
        return loss

    def optimized(self) -> list[dict[str, Any]]:
        """Parameter groups: norms, biases and tables without weight decay."""
        return decay_groups(self)

    @torch.no_grad()
    def latents(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return latents f and y: from the batch, or encoded from its images.

        Returns:
            (B, d, H, W) and (B, d, h, w).

        Raises:
            ValueError: If the latents are of another space, HR's has no scales, LR is missing, or
                its latent is not of the size that the mapper reads.
        """
        f = hr_latent(self.space, batch)
        self.space.scales((f.shape[-2], f.shape[-1]))  # raises if there are none for this size
        y = self._lr_latent(batch)
        if y.shape[-2:] != self.mapper.size:
            raise ValueError(
                f"the latents of LR are {shape_text(y.shape[-2:])}, and model.init_args.mapper "
                f"reads {shape_text(self.mapper.size)}: set model.init_args.enlarge_lr as in "
                "`encode`, or data.init_args.crop_size to the mapper's"
            )
        return f, y

    def _lr_latent(self, batch: Batch) -> Tensor:
        """Return the latent of a batch's LR: from the batch, or encoded."""
        if "lr_latent" in batch:
            return self.space.standardised(batch["lr_latent"])
        require_lr(batch)
        return self._latent_of(batch["lr"])

    def enlarged_lr(self, lr: Tensor, size: tuple[int, int]) -> Tensor:
        """Return the image that is encoded, also by ``main.py encode``.

        Args:
            lr: (B, 3, h, w).
            size: (H, W) of HR.

        Returns:
            LR as it is, or with ``enlarge_lr`` (B, 3, H, W).
        """
        return enlarged(lr, size) if self.enlarge_lr else lr

    def _latent_of(self, lr: Tensor) -> Tensor:
        """Encode LR (B, 3, h, w), enlarged first with ``enlarge_lr``."""
        return self.space.encode(self.enlarged_lr(lr, self.own_size(lr)))

    def preliminary(self, y: Tensor) -> list[Tensor]:
        """Return the first scales: o_k, quantised, with straight-through gradients.

        Args:
            y: (B, d, h, w), not quantised.
        """
        return [quantized(o) for o in self.mapper(y)]

    @property
    def scales(self) -> Scales:
        """All scales of HR."""
        h, w = self.mapper.size
        factor = 1 if self.enlarge_lr else self.scale
        return self.space.scales((round(h * factor), round(w * factor)))

    @property
    def _scale_fraction(self) -> Fraction:
        """The scale without the rounding of a float, such as 4 / 3."""
        return Fraction(self.scale).limit_denominator(1000)

    # ------------------------------------------------------------------------------------- sampling

    @torch.no_grad()
    def restore(self, batch: Batch, noise: Noise) -> Tensor:
        """Predict the first scales from LR, and in stage 2 draw the others."""
        unit = self._scale_fraction.denominator  # LR pixels that are whole pixels of the output
        mirrored = padded(batch["lr"], minimum=self.tile, unit=unit)
        codes = self.codes(batch, mirrored.lr, noise)
        return mirrored.crop(self.space.images(total_after(codes)), self.own_size(batch["lr"]))

    def codes(self, batch: Batch, lr: Tensor, noise: Noise) -> list[Tensor]:
        """Return the codes (B, d, h_k, w_k) of all scales; in stage 1 zeros for unknown ones.

        Args:
            batch: The batch, for its captions.
            lr: (B, 3, h, w), of the network's size.
            noise: Noise for drawing bits.
        """
        codes = self.preliminary(self._latent_of(lr))
        for size in self.scales.latents[len(codes) :]:
            codes.append(lr.new_zeros(len(lr), self.space.channels, *size))
        return codes

    # ------------------------------------------------------------------------- checks and weights

    def _check_mapper(self) -> None:
        """Raise if the mapper is not for a square, or not for the scales of HR's latent."""
        mapper = self.mapper
        expected = self.scales.latents[: len(mapper.grids)]
        full = self.scales.latents[-1]
        is_square = mapper.size[0] == mapper.size[1]
        fits = [tuple(grid) for grid in mapper.grids] == expected and mapper.full in (None, full)
        if not (is_square and fits):
            raise ValueError(
                f"model.init_args.mapper has size {mapper.size}, grids {mapper.grids} and full "
                f"{mapper.full}; expected a square, and as HR's latent {expected} and {full}"
            )


@dataclass(frozen=True)
class StageTwo:
    """How stage 2 trains.

    Args:
        mapper_weights: Initial weights of the mapper: the run of stage 1.
        transformer_weights: Initial weights of the transformer: a run of ``Infinity``, or a
            released file.
        train_mapper: Whether the mapper trains, too.
        mapper_lr: Learning rate of the mapper; by default that of ``optimizer``, which may ruin the
            mapper: the loss rewards wrong first scales whose correction is easy to predict. A
            hundredth of the optimiser's rate is safe.
    """

    mapper_weights: str | None = None
    transformer_weights: str | None = None
    train_mapper: bool = True
    mapper_lr: PositiveFloat | None = None


class NSARM(NextScale, NSARMStageOne):
    """Super-resolution by next-scale prediction: the paper's stage 2.

    Args:
        scale: Factor by which images are enlarged; set by ``data.init_args.scale``.
        space: The frozen tokenizer, with its scales.
        mapper: The network of stage 1.
        transformer: Predicts the other scales.
        stage_two: How stage 2 trains, and from which weights.

    Raises:
        ValueError: If parts do not fit each other or the scale.

    Examples:
        >>> import enlarger
        >>> model = enlarger.load("nsarm_8b", scale=4)  # doctest: +SKIP
        >>> sr = model.enlarge(image, seed=1)  # doctest: +SKIP
    """

    released_parts: ClassVar[tuple[str, ...]] = ("mapper", "transformer")
    part_files: ClassVar[Mapping[str, str]] = {
        **InLatents.part_files,
        "stage_two.mapper_weights": "load_mapper",
        "stage_two.transformer_weights": "load_transformer",
    }
    pretrained_parts: ClassVar[Mapping[str, str]] = {
        **InLatents.pretrained_parts,
        "stage_two.mapper_weights": "mapper",
    }

    def __init__(
        self,
        scale: float,
        space: BitwiseSpace,
        mapper: Mapper,
        transformer: InfinityTransformer,
        stage_two: StageTwo = StageTwo(),
        **kwargs: Any,
    ) -> None:
        if stage_two.train_mapper:  # before the constructors freeze what does not train
            self.trained_parts = ("transformer", "encoder", "mapper")
        super().__init__(scale, space=space, mapper=mapper, **kwargs)
        self.transformer = transformer
        self.stage_two = stage_two
        self.mapper_weights = stage_two.mapper_weights
        self.transformer_weights = stage_two.transformer_weights
        self._initial_sources: list[str] = []  # of mapper and transformer, for the run's label

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the cross-entropy of the bits after the preliminary scales."""
        f, y = self.latents(batch)
        with nullcontext() if self.stage_two.train_mapper else torch.no_grad():
            codes = self.preliminary(y)

        def change(number: int, residual: Tensor) -> Tensor:
            # The first scales are the mapper's; the transformer learns what HR has beyond them.
            return codes[number] if number < len(codes) else quantized(residual)

        forced = teacher_forcing(f, self.scales, change)
        first = len(codes)
        start = self.scales.spans[first].start
        logits = self.predicted(batch, forced.inputs, self.scales)[:, start:]
        bits = forced.bits[:, start:]
        losses = bit_losses(logits, bits)
        weights = copy_to(scale_weights(self.scales, first), f.device)
        self.log_scales(self.scales, losses, logits, bits, first)
        loss = (losses * weights).sum(1).mean()
        self.log("train/loss", loss)
        return loss

    def optimized(self) -> list[dict[str, Any]]:
        """Parameter groups, those of the mapper with ``stage_two.mapper_lr``."""
        rate = self.stage_two.mapper_lr
        if rate is None:
            return super().optimized()
        others = nn.ModuleList(part for part in self.children() if part is not self.mapper)
        mapper = [{**group, "lr": rate} for group in decay_groups(self.mapper)]
        return [*decay_groups(others), *mapper]

    def codes(self, batch: Batch, lr: Tensor, noise: Noise) -> list[Tensor]:
        """As in stage 1, but the transformer draws the other scales."""
        first = self.preliminary(self._latent_of(lr))
        text, how = self.sampling(batch)
        return sample(self.transformer, self.scales, text, noise, how, first)

    # ------------------------------------------------------------------------- checks and weights

    def load_parts(self, find: Callable[[str, str], Path]) -> None:
        """Load the tokenizer, and the initial weights of stage 2.

        Raises:
            ValueError: If a part does not fit, or was trained with another tokenizer or encoder.
        """
        super().load_parts(find)
        if self.mapper_weights is not None and self.transformer_weights is not None:
            self.weights_source = ", ".join(self._initial_sources)

    def load_mapper(self, path: Path) -> None:
        """Load the mapper from a run of stage 1, or from a released file."""
        weights = self.load_part_from(path, "mapper", beside=["space"])
        self.warn_if_unlike(weights.name, weights.trained_with)
        self._name_mapper(weights.name)
        self._initial_sources.append(named(weights.name, self.mapper))

    def load_transformer(self, path: Path) -> None:
        """Load the transformer from a run of ``Infinity``, or from a released file."""
        weights = self.load_part_from(path, "transformer", beside=["space", "encoder"])
        self.warn_if_unlike(weights.name, weights.trained_with)
        self._initial_sources.append(named(weights.name, self.transformer))

    def _name_mapper(self, file: str) -> None:
        """Record the source of a frozen mapper, which checkpoints and results name."""
        if not self.stage_two.train_mapper:
            self.mapper.source = named(file, self.mapper)

    def setup(self, stage: str) -> None:
        """Warn if stage 2 may ruin the mapper.

        Raises:
            ValueError: If the tokenizer, or the frozen mapper, has random weights.
        """
        super().setup(stage)
        if stage == "fit" and self.stage_two.train_mapper and self.stage_two.mapper_lr is None:
            log.warning(
                "the mapper trains at the transformer's learning rate, which may ruin it: set "
                "model.init_args.stage_two.mapper_lr to a hundredth, or train_mapper to false"
            )

    def load_weights(self, path: str | Path, strict: bool = True) -> None:
        """Load weights, and record the source of a frozen mapper."""
        super().load_weights(path, strict)
        if fingerprint(self.mapper.state_dict()) not in self.mapper.source:  # else the file had one
            self._name_mapper(str(path))
