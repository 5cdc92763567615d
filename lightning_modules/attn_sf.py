"""Attn-SF: a temperature of self-attention for numbers of tokens that were not trained.

Jin et al., NeurIPS 2023 (arXiv 2306.08645). More tokens increase the entropy of attention. To keep
it, 1 / sqrt(d) becomes lambda / sqrt(d), lambda = sqrt(log_T N).

N     tokens of a layer now            T     tokens of the same layer at the training size

Differs from the paper in: nothing. The query is multiplied by lambda, which works with every
attention processor; diffusers' default one ignores a layer's own scale.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from lightning_modules.backbone.denoiser import UNet2D
from lightning_modules.network_patch import NetworkPatch, Step


class AttnSF(NetworkPatch):
    """Scale all self-attention over positions, at all steps, but not cross-attention."""

    def check(self, denoiser: UNet2D, guidance: float) -> None:
        """Raise if the base does not support the patch.

        Raises:
            ValueError: As in ``NetworkPatch.check``, or if no self-attention has a plain query.
        """
        super().check(denoiser, guidance)
        layers = self_attention(denoiser.unet)
        odd = [n for n, a in layers.items() if a.fused_projections or a.norm_q is not None]
        if odd or not layers:
            raise ValueError(
                f"AttnSF finds {odd[0] if odd else 'no self-attention in the denoiser'}"
                f"{', whose query is fused or normalised' if odd else ''}: leave model.init_args."
                "patch out, or use another base"
            )

    @contextmanager
    def applied(self, denoiser: UNet2D, step: Step) -> Iterator[None]:
        """Apply the patch within the context; nothing changes at the training size."""
        layers = {} if step.growth == 1 else self_attention(denoiser.unet)
        hook = _scaling(step.growth)
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
        trained: T.

    Raises:
        ValueError: If a layer was trained on one token, whose logarithm is 0.
    """
    if trained <= 1 or tokens < 1:
        raise ValueError(
            f"AttnSF got a layer with {trained:g} tokens at the training size; expected more than "
            "1: set model.init_args.base_size to a larger one, or leave out model.init_args.patch"
        )
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


def _scaling(growth: float) -> Callable[..., Tensor]:
    def scaled(layer: Any, inputs: Any, query: Tensor) -> Tensor:
        tokens = query.shape[1]
        return query * temperature(tokens, tokens / growth)

    return scaled
