"""Direct inference: a diffusion model asked for larger pictures than it was trained for.

What every method of higher-resolution adaptation is compared with, as in table 1 of Self-Cascade
(Guo et al., ECCV 2024; arXiv 2402.10491): all steps, from noise of the target's size.

Differs from the paper in: nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lightning_modules.backbone.condition import TextEncoder
from lightning_modules.backbone.denoiser import UNet2D
from lightning_modules.backbone.schedule import Schedule
from lightning_modules.backbone.space import Space
from lightning_modules.from_base import FromBase, SizeCondition
from lightning_modules.network_patch import NetworkPatch
from lightning_modules.noise import Noise
from lightning_modules.sampling import Sampler

if TYPE_CHECKING:
    from datamodules.base import Batch


class Direct(FromBase):
    """The frozen base at the target's size. Nothing is trained.

    Args:
        scale: Factor between the sides of the base's pictures and of the output; set by
            ``data.init_args.scale``.
        denoiser: The frozen base.
        space: Its latents; pixels by default.
        denoiser_weights: Weights of a base that was trained here: a run of ``Diffusion``, or a
            file. Not for one that is named by its folder.
        schedule: The base's process; Stable Diffusion's by default.
        base_size: Side, or height and width, that the base was trained for, in pixels; by default
            the output's divided by ``scale``.
        size_condition: What an SDXL base is told of sizes: that original and target are the
            output's (``stage``), or the ``base``'s; nothing is cropped.
        encoder: Makes embeddings of captions; without it captions are not looked at.
        guidance: Strength of classifier-free guidance; 1 for none.
        sampler: Timesteps and solver.
        clamp: Keep predicted clean samples within this distance of 0; 1 for pixels, ``null`` for
            latents, which know no bound.
        patch: Changes the network while it runs: ``AttnSF`` of ``lightning_modules.attn_sf`` or
            ``ScaleCrafter`` of ``lightning_modules.scalecrafter``; none by default.

    Raises:
        ValueError: A setting is out of range or unknown, or parts do not fit one another.
    """

    def __init__(
        self,
        scale: float,
        denoiser: UNet2D,
        space: Space | None = None,
        denoiser_weights: str | None = None,
        schedule: Schedule | None = None,
        base_size: int | tuple[int, int] | None = None,
        size_condition: SizeCondition | None = None,
        encoder: TextEncoder | None = None,
        guidance: float = 1.0,
        sampler: Sampler | None = None,
        clamp: float | None = None,
        patch: NetworkPatch | None = None,
    ) -> None:
        base = (denoiser, space, denoiser_weights, schedule, base_size, size_condition)
        super().__init__(scale, *base, encoder, guidance, sampler, clamp, patch=patch)
        self._name_weights()

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """There is nothing to train.

        Raises:
            ValueError: Always.
        """
        raise ValueError(
            f"{type(self).__name__} has nothing to train: use test or predict; to train the base "
            "at the output's size, or something beside it, set another model.class_path"
        )

    @torch.no_grad()
    def generate(self, batch: Batch, noise: Noise) -> Tensor:
        """All steps, from noise of the output's size.

        Raises:
            ValueError: A side is no multiple of what the space or ``scale`` wants.
        """
        size = (batch["size"][0], batch["size"][1])
        return self.space.decode(self.direct(batch, size, self.trained_size(size), noise))

    def setup(self, stage: str) -> None:
        """As ``FromBase.setup``; there is no ``fit``.

        Raises:
            ValueError: As ``FromBase.setup``, or something was to be trained.
        """
        super().setup(stage)
        if stage == "fit":
            self.training_step({}, 0)
