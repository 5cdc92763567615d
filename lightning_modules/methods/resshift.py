"""ResShift: a diffusion from the LR image to the HR one, in 15 or 4 steps.

Yue et al., NeurIPS 2023 (arXiv 2307.12348), and TPAMI 2024 (arXiv 2403.07319).

z     latent of the HR image               y     latent of the LR image, brought to its size
eta   how far z has shifted to y             kappa noise after the full shift

Differs from the papers in: the LR image is enlarged by bicubic interpolation, as in the released
code; the text has nearest neighbour. LPIPS compares with the autoencoder's round trip of HR
(`perceptual_target`). In pixels predictions are not clamped at each step; the released code would
do so, but runs only with an autoencoder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, cast

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor, nn

from files.batch import Batch
from files.numbers import NonNegativeFloat
from lightning_modules.backbone.shifting import ResidualShift
from lightning_modules.backbone.space import Space
from lightning_modules.base import SuperResolver
from lightning_modules.latents import InLatents, enlarged, latent_pair, whole_lr
from lightning_modules.noise import Noise
from lightning_modules.optimisation import adamw
from lightning_modules.sampling.solvers import ShiftSampler, ShiftSolver
from lightning_modules.sampling.tiling import padded

PerceptualTarget = Literal["round_trip", "hr"]


class ResShift(InLatents, SuperResolver):
    """Diffusion by residual shifting, in pixels or latents.

    Args:
        scale: Factor by which images are enlarged; set by ``data.init_args.scale``.
        network: Predicts from the scaled latent, the timestep and the LR image in [-1, 1].
        space: Space of the diffusion.
        process: The shift and its noise; that of the conference paper by default.
        timesteps: Timesteps of sampling, from the last one down, such as [14, 9, 4, 0]; all by
            default.
        sampler: ``posterior``, as in the papers; ``ddim``, deterministic; or ``dpm_solver_2m``,
            which delivers more detail with the same network and number of calls.
        perceptual: Distance of two batches of images in [0, 1], (B,), added to the loss on decoded
            images, such as ``callbacks.Perceptual``; frozen.
        perceptual_weight: Its weight: 1 in the paper, 10 for faces and inpainting.
        perceptual_target: Target of decoded predictions: ``round_trip``, HR encoded and decoded, or
            ``hr`` itself, as for the released weights. Since an autoencoder shifts colours
            slightly, ``hr`` contradicts the other part of the loss, which has the latent of HR as
            target, and gives outputs a tint that grows with the weight.
        optimizer: Makes the optimiser of the trainable parameters.

    Raises:
        ValueError: If the timesteps do not fall from the last one or are unknown, or the process
            is relative.

    Examples:
        >>> from lightning_modules import PixelSpace, ResidualShift, ResShift, SwinUNet
        >>> size = {"width": 16, "multipliers": (1, 2), "swin_width": 16, "heads": 2}
        >>> network = SwinUNet(**size, condition_factor=0.25)  # LR has a quarter of the side
        >>> process = ResidualShift(input_scale="pixel")
        >>> model = ResShift(4, network, PixelSpace(), process, timesteps=[14, 9, 4, 0])
        >>> Trainer(max_steps=1000).fit(model, data)  # doctest: +SKIP
    """

    half_outputs = False
    exact_scale = True
    latent_pairs = True
    trained_parts = ("network",)
    training_only = ("perceptual.",)
    released_parts = ("network",)
    trained_settings: ClassVar[Mapping[str, str]] = {
        **InLatents.trained_settings,
        "process": "process.settings",
    }

    def __init__(
        self,
        scale: float,
        network: nn.Module,
        space: Space,
        process: ResidualShift | None = None,
        timesteps: Sequence[int] | None = None,
        sampler: ShiftSolver = "posterior",
        perceptual: nn.Module | None = None,
        perceptual_weight: NonNegativeFloat = 1.0,
        perceptual_target: PerceptualTarget = "round_trip",
        optimizer: OptimizerCallable = adamw,
        **kwargs: Any,
    ) -> None:
        super().__init__(scale, optimizer=optimizer, **kwargs)
        self.timesteps = timesteps
        self.network = network
        self.space = space
        self.network.to(memory_format=torch.channels_last)  # activations follow
        self.process = process or ResidualShift()
        if self.process.relative:
            raise ValueError(
                "model.init_args.process.init_args.relative is true, and ResShift measures no "
                "deviation: set it to false, and kappa and min_noise for the space's values"
            )
        self.sampled = self.process if timesteps is None else self.process.respaced(timesteps)
        self.sampler = ShiftSampler(self.sampled, sampler)
        self.divisor = int(getattr(network, "divisor", 1))  # latents' sides must be multiples
        self.tile_multiple = self.divisible
        self.perceptual = perceptual
        self.perceptual_weight = perceptual_weight
        self.perceptual_target = perceptual_target

    @property
    def output_settings(self) -> dict[str, str | int | float]:
        """Settings that change outputs and are not defaults."""
        settings = super().output_settings
        if self.timesteps:
            settings["timesteps"] = " ".join(map(str, self.timesteps))
        return settings | self.sampler.options

    # ------------------------------------------------------------------------------------- training

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss of section 3.1: the distance to the target at random timesteps."""
        z, y = latent_pair(self.space, batch)
        t = torch.randint(self.process.steps, (len(z),), device=z.device)
        # Not `randn_like`, whose values depend on the memory layout of its argument.
        eps = torch.randn(z.shape, device=z.device)
        x = self.process.add_noise(z, y, eps, t)
        raw = self.network(self.process.scale_input(x, t), t, batch["lr"] * 2 - 1)
        loss = self.process.loss(raw, z, y, eps, t)
        self.log("train/mse", loss)
        if self.perceptual is not None and self.perceptual_weight > 0:
            loss = loss + self._perceptual(self.process.to_x0(raw, x, t, y), z, batch)
        self.log("train/loss", loss)
        return loss

    def _perceptual(self, x0: Tensor, z: Tensor, batch: Batch) -> Tensor:
        """Return the weighted perceptual distance of decoded predictions."""
        # Gradients go through the distance and the decoder to the prediction.
        images = self.space.decode(x0).clamp(0, 1)
        if self.perceptual_target == "hr":
            if "hr" not in batch:
                raise ValueError("perceptual_target is hr: encode with --encode.hr true")
            target = batch["hr"]
        else:
            with torch.no_grad():
                target = self.space.decode(z).clamp(0, 1)
        distance = cast(nn.Module, self.perceptual)(images, target).mean()
        self.log("train/perceptual", distance)
        return self.perceptual_weight * distance

    # ------------------------------------------------------------------------------------- sampling

    @torch.no_grad()
    def restore(self, batch: Batch, noise: Noise) -> Tensor:
        """Sample from the noised LR image down to t = 0, with one network call per timestep."""
        lr = padded(batch["lr"], self.divisible).lr  # mirrored, as released
        y = self.space.encode(enlarged(lr, self.own_size(lr)))
        process = self.sampled

        def clean(x: Tensor, step: int) -> Tensor:
            """Return the clean sample that the network predicts, for the sampler."""
            t = torch.full((len(x),), process.timesteps[step], device=x.device)
            raw = self.network(process.scale_input(x, step), t, lr * 2 - 1)
            return process.to_x0(raw, x, step, y)

        x = process.prior(y, noise.normal(y.shape))
        z = self.sampler.denoise(x, y, clean, noise)
        # The output of the whole LR: cropping to a smaller requested size would lose a part.
        H, W = self.own_size(batch["lr"])
        return self.space.decode(z)[..., :H, :W]

    @property
    def divisible(self) -> int:
        """LR sides must be multiples of this, so that latents' sides are multiples of divisor."""
        return whole_lr(self.divisor * self.space.factor, self.scale)

    def load_training_parts(self) -> None:
        """Load the perceptual distance.

        Raises:
            FileNotFoundError: If its weights are missing.
        """
        super().load_training_parts()
        if hasattr(self.perceptual, "load"):
            cast(Any, self.perceptual).load()
