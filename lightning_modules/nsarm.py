"""NSARM: next-scale autoregression for real-world super-resolution.

arXiv 2510.00820, on Infinity (CVPR 2025; arXiv 2412.04431). A transformation network maps the
latent of LR to what the first scales of HR's latent say; Infinity's transformer, tuned as a whole,
says the others. Symbols as in ``lightning_modules.next_scale``, and

y     latent of LR, not enlarged                r_k   what C_(k-1) leaves out of HR's latent
o_k   what the network makes of y for scale k   P     number of preliminary scales, 7 of 13

Stage 1 trains the network alone: o_k shall be r_k, which is not quantised. In stage 2 the first
scales say o_k, quantised, and the transformer learns what they leave out of HR.

The paper gives neither losses' weights nor learning rates, and its code has no training: residuals
count alike in stage 1; in stage 2 scales are weighed as in Infinity, the network is trained too, no
bits are flipped. In sampling the released code makes C_k small by area, while Infinity, and all
code for training, samples it without smoothing (trilinear): ``next_input_mode``.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor

from lightning_modules.backbone.bitwise import BitwiseSpace
from lightning_modules.backbone.frozen import bare_names, fit, fit_part, part_of, same_weights
from lightning_modules.backbone.texts import Texts
from lightning_modules.base import SuperResolver
from lightning_modules.color import ColorFix
from lightning_modules.networks import infinity, transformation
from lightning_modules.networks.bsq import Down, quantized, scales_of, total_after
from lightning_modules.networks.infinity import InfinityTransformer
from lightning_modules.networks.scales import Scales
from lightning_modules.networks.transformation import Transformation
from lightning_modules.next_scale import (
    Bitwise,
    bit_losses,
    forced,
    sample,
    scale_weights,
)
from lightning_modules.next_scale_model import NextScale, adamw
from lightning_modules.noise import Noise
from lightning_modules.padding import padded
from lightning_modules.weights import Weights, fingerprint, read_weights

if TYPE_CHECKING:
    from datamodules.base import Batch


class NSARM(NextScale, SuperResolver):
    """Without a transformer stage 1, which restores the first scales alone; with one stage 2.

    Args:
        scale: Factor by which images are enlarged; set by ``data.init_args.scale``.
        space: The tokenizer, frozen, with its scales.
        mapper: The transformation network, for LR of one size.
        transformer: Says the other scales; none for stage 1.
        space_weights: Weights of the tokenizer: a run of ``Tokenizer``, a released file, or a name
            of ``configs/weights.yaml``.
        mapper_weights: Weights that stage 2 starts from: the run of stage 1.
        transformer_weights: Likewise: a run of ``Infinity``, or a released file.
        train_mapper: Whether stage 2 trains the transformation network too.
        encoder: Makes features of captions; without it, and without cached features, images are
            of no text.
        prompt: A caption for all images, in place of their own.
        text_dropout: Share of the captions that are left out in training.
        reweight: Whether tokens of fine scales count less, by the square root of their number.
        next_input_mode: How C_k is made small in sampling: ``trilinear`` as in training, or
            ``area`` as the released code samples with the released weights.
        bits: How they are drawn.
        optimizer: Makes the optimiser of the trainable parameters.
        color_fix: How outputs get the colours of LR; see ``lightning_modules.color``.

    Raises:
        ValueError: The parts do not fit one another or the scale, or a share is none.
    """

    def __init__(
        self,
        scale: float,
        space: BitwiseSpace,
        mapper: Transformation,
        transformer: InfinityTransformer | None = None,
        space_weights: str | None = None,
        mapper_weights: str | None = None,
        transformer_weights: str | None = None,
        train_mapper: bool = True,
        encoder: Texts | None = None,
        prompt: str | None = None,
        text_dropout: float = 0.1,
        reweight: bool = True,
        next_input_mode: Down = "trilinear",
        bits: Bitwise | None = None,
        optimizer: OptimizerCallable = adamw,
        color_fix: ColorFix = "adain_wavelet",
        **kwargs: Any,
    ) -> None:
        super().__init__(scale, optimizer=optimizer, color_fix=color_fix, **kwargs)
        self.space, self.mapper, self.transformer = space, mapper, transformer
        self.space_weights, self.mapper_weights = space_weights, mapper_weights
        self.transformer_weights = transformer_weights
        self.train_mapper = train_mapper or transformer is None
        self.encoder, self.prompt, self.text_dropout = encoder, prompt, text_dropout
        self.reweight, self.bits = reweight, bits or Bitwise()
        self.next_input_mode: Down = next_input_mode
        self._check()
        # Lightning leaves modes as they are, and a network that is not trained drops nothing out.
        mapper.requires_grad_(self.train_mapper).train(self.train_mapper)
        # One size is all the network takes: others are filled up, or go through tiles.
        side = mapper.size[0] * space.factor
        self.tile = self.tile_least = side
        self.tile_overlap, self.tile_window = side // 8, "gaussian"
        self.tile_multiple = space.factor
        self.tile_always = True

    # ------------------------------------------------------------------------------------- training

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Of stage 1 or 2, by whether there is a transformer."""
        f, y = self.latents(batch)
        loss = self._stage_one(f, y) if self.transformer is None else self._stage_two(batch, f, y)
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def _stage_one(self, f: Tensor, y: Tensor) -> Tensor:
        """The mean of (o_k - r_k)^2 over all elements of the preliminary scales."""
        found, errors = self.mapper(y), list[Tensor]()
        with torch.no_grad():
            residuals = [s.residual for s in islice(scales_of(f, self.scales.latents), len(found))]
        for number, (o, r) in enumerate(zip(found, residuals, strict=True), 1):
            errors.append((o - r).square().flatten(1))
            self.log(f"train/mse_scale_{number}", errors[-1].detach().mean())
        return torch.cat(errors, 1).mean()

    def _stage_two(self, batch: Batch, f: Tensor, y: Tensor) -> Tensor:
        """Cross-entropy of the bits of the scales after the preliminary ones."""
        with nullcontext() if self.train_mapper else torch.no_grad():
            known = self.preliminary(y)

        def change(number: int, residual: Tensor) -> Tensor:
            return known[number] if number < len(known) else quantized(residual)

        given, first = forced(f, self.scales, change), len(known)
        logits = self.predicted(batch, given.inputs, self.scales)
        start = self.scales.spans[first].start
        logits, bits = logits[:, start:], given.bits[:, start:]
        losses = bit_losses(logits, bits)
        weights = scale_weights(self.scales, first, self.reweight).to(f.device)
        self.log_scales(self.scales, losses, logits, bits, first)
        return (losses * weights).sum(1).mean()

    @torch.no_grad()
    def latents(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Latents f and y of a batch: those that were encoded before, or of its images.

        Returns:
            (B, d, H, W) and (B, d, h, w).

        Raises:
            ValueError: The latents are of another space, HR's has no scales, or there is no LR.
        """
        if "latent" in batch:
            f = self.space.take(batch["latent"], batch["space"])
        else:
            f = self.space.encode(batch["hr"])
        self.space.scales((f.shape[-2], f.shape[-1]))
        if "lr_latent" in batch:
            return f, self.space.standardised(batch["lr_latent"])
        if "lr" not in batch:
            raise ValueError(
                "data.init_args.train gives latents alone, and NSARM wants those of LR too: encode "
                "with --encode.pairs true"
            )
        return f, self.space.encode(batch["lr"])

    @staticmethod
    def enlarged(lr: Tensor, size: tuple[int, int]) -> Tensor:
        """What ``main.py encode`` encodes beside HR: LR as it is, (B, 3, h, w).

        Args:
            lr: (B, 3, h, w).
            size: Of HR; unused.
        """
        return lr

    def preliminary(self, y: Tensor) -> list[Tensor]:
        """What the first scales say: o_k, quantised, with gradients straight through.

        Args:
            y: (B, d, h, w), not quantised.
        """
        return [quantized(o) for o in self.mapper(y)]

    @property
    def scales(self) -> Scales:
        """All scales of HR."""
        h, w = self.mapper.size
        return self.space.scales((round(h * self.scale), round(w * self.scale)))

    # ------------------------------------------------------------------------------------- sampling

    def _tile_side(self, batch: Batch) -> int:
        if self.tiling.size not in ("auto", self.tile):
            raise ValueError(
                f"tiling.size is {self.tiling.size}, and model.init_args.mapper takes {self.tile} "
                f"pixels of LR, no more and no less: set it to {self.tile} or to auto"
            )
        return super()._tile_side(batch)

    @torch.no_grad()
    def restore(self, batch: Batch, noise: Noise) -> Tensor:
        """The first scales from LR, the others drawn."""
        mirrored = padded(batch["lr"], minimum=self.tile)
        codes = self._codes(batch, mirrored.lr, noise)
        return mirrored.crop(self.space.images(total_after(codes)), batch["size"])

    @torch.no_grad()
    def bits_of(self, batch: Batch) -> list[Tensor] | None:
        """(B, d, h_k, w_k) of each scale: the codes that the outputs are made of.

        Of stage 1 zeros from the first scale that is not known. None for images that are not of
        the size that the network takes.
        """
        if tuple(batch["lr"].shape[-2:]) != (self.tile, self.tile):
            return None
        batch = self._own_seeds(batch)
        return self._codes(batch, batch["lr"], self.whole_noise(batch))

    def _codes(self, batch: Batch, lr: Tensor, noise: Noise) -> list[Tensor]:
        y = self.space.encode(lr)
        known = self.preliminary(y)
        if self.transformer is None:
            shape = len(y), self.space.channels
            left = self.scales.latents[len(known) :]
            return [*known, *(y.new_zeros(*shape, *size) for size in left)]
        text, how = self.sampling(batch)
        mode = self.next_input_mode
        return sample(self.transformer, self.scales, text, noise, how, known, mode)

    @property
    def options(self) -> dict[str, str | int | float]:
        """As ``SuperResolver``'s, and how bits are drawn."""
        found = super().options
        if self.transformer is not None and self.next_input_mode != "trilinear":
            found["next_input_mode"] = self.next_input_mode
        return found

    # ------------------------------------------------------------------------- checks and weights

    def _check(self) -> None:
        space, mapper = self.space, self.mapper
        if mapper.bits != space.channels or mapper.size[0] != mapper.size[1]:
            raise ValueError(
                f"model.init_args.mapper is for latents of {mapper.bits} x {mapper.size[0]} x "
                f"{mapper.size[1]} and the space has {space.channels} channels: set "
                "model.init_args.mapper.init_args.bits to that, and size to a square"
            )
        side = mapper.size[0] * self.scale
        if side % 1:
            raise ValueError(
                f"NSARM got scale {self.scale:g} and latents of {mapper.size[0]}; expected a whole "
                "number of positions of the enlarged one: set data.init_args.scale"
            )
        expected = self.scales.latents[: len(mapper.grids)]
        if [tuple(grid) for grid in mapper.grids] != expected:
            raise ValueError(
                f"model.init_args.mapper makes {mapper.grids}; the first scales of a latent of "
                f"{side:g} are {expected}: set model.init_args.mapper.init_args.grids to these"
            )
        self.check_parts()
        if self.transformer is not None and len(mapper.grids) >= len(self.scales):
            raise ValueError(
                f"model.init_args.mapper makes all {len(self.scales)} scales, so there is none "
                "left for the transformer: set fewer of model.init_args.mapper.init_args.grids"
            )

    def load_parts(self, find: Callable[[str, str], Path]) -> None:
        """The tokenizer, and what stage 2 starts from. Args as ``ImageModel.load_parts``.

        Raises:
            ValueError: A part does not fit, or was trained with another tokenizer or encoder.
        """
        super().load_parts(find)
        given, knows = [], True
        if self.mapper_weights is not None:
            found = self._read("mapper", find("mapper_weights", self.mapper_weights))
            fit_part(self.mapper, found, "mapper", transformation.from_official, "mapper_weights")
            self._name_mapper(found.name)
            given.append(found.name)
        if self.transformer is not None and self.transformer_weights is not None:
            path = find("transformer_weights", self.transformer_weights)
            found = self._read("transformer", path)
            official = partial(_base, rows=len(self.transformer.no_text))
            fit_part(self.transformer, found, "transformer", official, "transformer_weights")
            knows = self._fill_encoder(found)
            given.append(found.name)
        if knows and len(given) == (1 if self.transformer is None else 2):
            self.weights_source = ", ".join(given)

    def _read(self, name: str, path: Path) -> Weights:
        # See that what stood beside a network in its training stands beside it here.
        found = read_weights(path)
        beside = {"space": ("tokenizer", "space_weights")}
        if name == "transformer":
            beside["encoder"] = ("encoder of texts", "encoder")
        for part, (what, key) in beside.items():
            theirs, ours = found.frozen.get(part, ""), getattr(getattr(self, part), "source", "")
            either = f"{part}.".startswith(self.unchecked)
            if theirs and ours and not either and not same_weights(theirs, ours):
                raise ValueError(
                    f"model.init_args.{name}_weights were trained with the {what} of {theirs}, and "
                    f"the one here is {ours}: name the same in model.init_args.{key}"
                )
        return found

    def _fill_encoder(self, found: Weights) -> bool:
        # Features that were trained with the base, as of classes, belong to it. Whether the encoder
        # is a trained one.
        if self.encoder is None or self.encoder.source:
            return True
        tensors = part_of(bare_names(found.tensors), "encoder")
        if tensors:
            fit(self.encoder, tensors, f"{found.name} (model.init_args.encoder)")
        return bool(tensors)

    def _name_mapper(self, where: str) -> None:
        if not self.train_mapper:  # frozen, so a checkpoint and results name it
            self.mapper.source = f"{where} {fingerprint(self.mapper.state_dict())}"

    def setup(self, stage: str) -> None:
        """See that nothing is computed with random weights.

        Raises:
            ValueError: The tokenizer is not a trained one, or the network that is not trained here.
        """
        super().setup(stage)
        if not self.train_mapper and not self.mapper.source:
            raise ValueError(
                "model.init_args.train_mapper is false, and the mapper has random weights: set "
                "model.init_args.mapper_weights to the run of stage 1"
            )

    def train(self, mode: bool = True) -> NSARM:
        """A network that is not trained does not drop out, either."""
        super().train(mode)
        self.mapper.train(mode and self.train_mapper)
        return self

    def load_weights(self, path: str | Path) -> None:
        """As ``ImageModel.load_weights``; a frozen network is named by its file, too."""
        super().load_weights(path)
        own = self.mapper.state_dict()
        if not self.train_mapper and fingerprint(own) not in self.mapper.source:  # the file had one
            self._name_mapper(str(path))

    def import_official(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """The released file has transformer and mapper; the other parts keep their own.

        Stage 1 takes the mapper alone from it.
        """
        tensors = bare_names(tensors)
        own = self.state_dict().items()
        kept = {k: v for k, v in own if not k.startswith(("transformer.", "mapper."))}
        mapped = transformation.from_official(tensors)
        found = {f"mapper.{name}": tensor for name, tensor in mapped.items()}
        if self.transformer is not None:
            said = _base(tensors, len(self.transformer.no_text))
            found |= {f"transformer.{name}": tensor for name, tensor in said.items()}
        return {**kept, **found}


def _base(tensors: dict[str, Tensor], rows: int) -> dict[str, Tensor]:
    # The released file has both networks, of which the mapper's names have a prefix.
    others = {k: v for k, v in tensors.items() if not k.startswith(transformation.PREFIX)}
    return infinity.from_official(others, rows)
