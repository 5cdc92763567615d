"""Direct inference at the larger size, and Attn-SF.

The baseline of methods of higher-resolution adaptation, as in table 1 of Self-Cascade (Guo et al.,
ECCV 2024; arXiv 2402.10491): all steps, from noise of the target's size.

Differs from the paper in: nothing.

Attn-SF: Jin et al., NeurIPS 2023 (arXiv 2306.08645). More tokens increase the entropy of attention.
To keep it, 1 / sqrt(d) becomes lambda / sqrt(d), lambda = sqrt(log_T N).

N     tokens of a layer now            T     tokens of the same layer at the training size

Differs from the paper in: nothing. The query is multiplied by lambda, which works with every
attention processor; diffusers' default one ignores a layer's own scale.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from lightning_modules.backbone.condition import Condition
from lightning_modules.backbone.denoiser import UNet2D
from lightning_modules.base import NothingToTrain
from lightning_modules.controls.scalecrafter import NetworkPatch, Step
from lightning_modules.from_base import FromBase
from lightning_modules.optimisation import adam


class Direct(NothingToTrain, FromBase):
    """The frozen base at the target's size. Nothing is trained.

    Args:
        scale: Factor between the sides of the base's images and of the output; set by
            ``data.init_args.scale``.
        patch: Changes the network while it runs: ``lightning_modules.AttnSF`` or
            ``lightning_modules.ScaleCrafter``; none by default.

    Raises:
        ValueError: If parts do not fit together.
    """

    def __init__(self, scale: float, *, patch: NetworkPatch | None = None, **kwargs: Any) -> None:
        # Set here, so that the command line does not offer options of training.
        super().__init__(scale, optimizer=adam, lr_scheduler=None, weights=None, **kwargs)
        self.patch = patch
        if patch is not None:
            patch.check(self.denoiser)
        self._name_weights()

    def guided(
        self,
        predict: Callable[[Tensor, Tensor, Condition], Tensor],
        z: Tensor,
        timestep: int,
        conditions: tuple[Condition, Condition],
    ) -> Tensor:
        """As ``FromBase.guided``, in the patched network if there is a patch."""
        if self.patch is None:
            return super().guided(predict, z, timestep, conditions)
        h, w = z.shape[-2:]
        factor = self.space.factor
        step = Step(
            number=self.sampled.index(timestep),
            count=len(self.sampled),
            size=(h, w),
            trained=self.latent_size(self.trained_size((h * factor, w * factor))),
        )
        t = torch.full((len(z),), timestep, device=z.device)
        guidance = self.sampler.guidance
        return self.patch.guided(self.denoiser, step, predict, z, t, conditions, guidance)

    @property
    def output_settings(self) -> dict[str, str | int | float]:
        """Settings that change outputs, with the patch's."""
        settings = super().output_settings
        return settings if self.patch is None else settings | self.patch.options


class AttnSF(NetworkPatch):
    """Scale all self-attention over positions, at all steps, but not cross-attention."""

    @contextmanager
    def applied(self, denoiser: UNet2D, step: Step) -> Iterator[None]:
        """Apply the patch within the context; nothing changes at the training size."""
        layers = {} if step.growth == 1 else self_attention(denoiser.unet)
        hook = _query_scaling(step.growth)
        handles = [layer.to_q.register_forward_hook(hook) for layer in layers.values()]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def temperature(tokens: float, trained: float) -> float:
    """Return lambda of the paper.

    Args:
        tokens: N.
        trained: T, above 1.
    """
    return math.sqrt(math.log(tokens) / math.log(trained))


def self_attention(unet: Any) -> dict[str, Any]:
    """Return a U-Net's self-attention layers over positions, not over frames, by name.

    These are the layers of transformer blocks, and of blocks with only attention, as in ADM.
    """
    return {
        name: module
        for name, module in unet.named_modules()
        if "attentions" in name.split(".") and getattr(module, "is_cross_attention", None) is False
    }


def _query_scaling(growth: float) -> Callable[..., Tensor]:
    """Return a forward hook that multiplies the queries of a layer by lambda."""

    def scaled(layer: Any, inputs: Any, query: Tensor) -> Tensor:
        tokens = query.shape[1]  # N, and T is N / growth at every depth of the U-Net
        return query * temperature(tokens, tokens / growth)

    return scaled
