"""ResShift: a diffusion from the LR picture to the HR one, in 15 or 4 steps.

Yue et al., NeurIPS 2023 (arXiv 2307.12348), and TPAMI 2024 (arXiv 2403.07319).

z     latent of the HR picture               y     latent of the LR picture, brought to its size
eta   how far z has shifted to y             kappa noise where it has shifted all the way

Differs from the papers in: the LR picture is enlarged by bicubic interpolation, as in the released
code, where the text says nearest neighbour.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn
from torch.nn import functional

from lightning_modules.backbone.shifting import ResidualShift
from lightning_modules.backbone.space import Space
from lightning_modules.base import SuperResolver
from lightning_modules.networks.swin_unet import from_official
from lightning_modules.noise import Noise
from lightning_modules.solvers import residual_shift

if TYPE_CHECKING:
    from datamodules.base import Batch


def adamw(parameters: Iterable[Tensor]) -> torch.optim.Optimizer:
    """AdamW without weight decay and a learning rate of 5e-5, as in both papers."""
    return torch.optim.AdamW(parameters, lr=5e-5, weight_decay=0.0, fused=True)


class ResShift(SuperResolver):
    """Diffusion by residual shifting, in pixels or latents.

    Args:
        scale: Factor by which pictures are enlarged; set by ``data.init_args.scale``.
        network: Predicts from the scaled latent, the timestep and the LR picture in [-1, 1].
        space: Where the diffusion happens.
        process: The shift and its noise; that of the conference paper by default.
        timesteps: Those that are sampled with, from the last one down, such as [14, 9, 4, 0]; all
            by default.
        divisor: Sides of latents are padded to a multiple of it; by default what the network says.
        optimizer: Makes the optimiser of the trainable parameters.
        lr_scheduler: Makes the learning-rate schedule, which is stepped once a step; by default
            there is none.
        weights: Weights to start from: a file, or a name of ``configs/weights.yaml``, in which
            ``{scale}`` is filled in.

    Raises:
        ValueError: The timesteps do not fall, or hold what is no timestep.
    """

    def __init__(
        self,
        scale: float,
        network: nn.Module,
        space: Space,
        process: ResidualShift | None = None,
        timesteps: Sequence[int] | None = None,
        divisor: int | None = None,
        optimizer: OptimizerCallable = adamw,
        lr_scheduler: LRSchedulerCallable | None = None,
        weights: str | None = None,
    ) -> None:
        super().__init__(scale, optimizer, lr_scheduler, weights)
        self.network, self.space = network, space
        self.process = process or ResidualShift()
        self.sampled = self.process if timesteps is None else self.process.respaced(timesteps)
        self.divisor = divisor or int(getattr(network, "divisor", 1))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Algorithm of section 3.1: a random timestep, and the distance to what was mixed."""
        hr, lr = batch["hr"], batch["lr"]
        with torch.no_grad():
            z, y = self.space.encode(hr), self.space.encode(self.enlarged(lr, batch["size"]))
        t = torch.randint(self.process.steps, (len(z),), device=z.device)
        eps = torch.randn_like(z)
        x = self.process.add_noise(z, y, eps, t)
        raw = self.network(self.process.scale_input(x, t), t, lr * 2 - 1)
        loss = functional.mse_loss(raw, self.process.target(z, y, eps, t))
        self.log("train/loss", loss, prog_bar=True)
        return loss

    @torch.no_grad()
    def restore(self, batch: Batch, noise: Noise) -> Tensor:
        """From the LR picture and noise back to t = 0; as many network calls as timesteps."""
        lr = self._padded(batch["lr"])
        size = tuple(round(n * self.scale) for n in lr.shape[-2:])
        y = self.space.encode(self.enlarged(lr, (size[0], size[1])))
        process = self.sampled
        x = process.prior(y, noise.normal(y.shape))
        for step in reversed(range(process.steps)):
            t = torch.full((len(x),), step, device=x.device)
            told = torch.full_like(t, process.timesteps[step])
            raw = self.network(process.scale_input(x, t), told, lr * 2 - 1)
            z = process.to_x0(raw, x, t, y)
            fresh = noise.normal(x.shape) if step else None
            x = residual_shift(x, z, process.eta(step), process.eta(step - 1), process.kappa, fresh)
        H, W = batch["size"]
        return self.space.decode(x)[..., :H, :W]

    def import_official(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """A released file has the network alone; the autoencoder's own is kept."""
        if not self.state_dict().keys().isdisjoint(tensors):  # an exported file of ours
            return tensors
        own = {f"space.{name}": tensor for name, tensor in self.space.state_dict().items()}
        found = {f"network.{name}": tensor for name, tensor in from_official(tensors).items()}
        return {**own, **found}

    @staticmethod
    def enlarged(lr: Tensor, size: tuple[int, int]) -> Tensor:
        """(B, 3, *size): bicubic with a = -0.75 and not antialiased, not clamped, as released."""
        return functional.interpolate(lr, size, mode="bicubic", align_corners=False)

    def _padded(self, lr: Tensor) -> Tensor:
        # So that the latent's sides are multiples of the divisor; mirrored, as released.
        unit = self.divisor * self.space.factor
        unit = round(unit / self.scale) if unit % self.scale == 0 else unit  # LR pixels
        while any(missing := [-n % unit for n in lr.shape[-2:]]):
            sides = zip(missing, lr.shape[-2:], strict=True)  # a small one is mirrored repeatedly
            below, right = (min(pad, max(n - 1, 1)) for pad, n in sides)
            mode = "reflect" if min(lr.shape[-2:]) > 1 else "replicate"
            lr = functional.pad(lr, (0, right, 0, below), mode=mode)
        return lr
