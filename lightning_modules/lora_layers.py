"""Low-rank updates of a U-Net's layers, merged into its weights for sampling."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import nn


def targets(unet: Any) -> list[str]:
    """Return the names of the linear layers of attention blocks and of timestep projections.

    Self-Cascade's authors do not name their layers. Among the natural choices, only this one has
    their numbers of parameters, 1.9 M and 15 M with ranks 4 and 32 on Stable Diffusion 2.1:
    queries, keys, values and outputs of both attentions, both layers of the feed-forward part,
    linear projections before and after a block, and timestep projections of residual blocks.
    Temporal layers of a video network are excluded.

    Args:
        unet: A ``UNet2DConditionModel`` or ``UNet3DConditionModel``.
    """
    return [
        name
        for name, module in unet.named_modules()
        if isinstance(module, nn.Linear)
        and ("attentions" in name.split(".") or name.endswith(".time_emb_proj"))
    ]


def add_layers(unet: Any, rank: int, alpha: int) -> None:
    """Add low-rank updates in float32 to the linear layers; untrained, they return 0.

    Args:
        unet: The frozen U-Net.
        rank: Rank of the updates.
        alpha: An update is scaled by ``alpha`` / ``rank``.
    """
    from peft import LoraConfig, inject_adapter_in_model

    names = targets(unet)
    inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=alpha, target_modules=names), unet)
    for parameter in unet.parameters():
        if parameter.requires_grad:  # in the base's bfloat16, rounding would lose most steps
            parameter.data = parameter.data.float()


@contextmanager
def merged(unet: Any) -> Iterator[None]:
    """Merge updates into the weights within the context, so that sampling is as fast as the base.

    The base's weights are restored bit for bit; subtracting an update would leave rounding errors.
    In half precision, updates are not merged, since rounding would lose most of them.

    Args:
        unet: The U-Net, with or without layers of ``add_layers``.
    """
    layers: list[Any] = [
        module
        for module in unet.modules()
        if hasattr(module, "lora_A")
        and hasattr(module, "merge")
        and module.get_base_layer().weight.dtype == torch.float32
    ]
    kept: list[tuple[nn.Parameter, torch.Tensor]] = []
    try:
        for layer in layers:
            weight = cast(nn.Parameter, layer.get_base_layer().weight)
            kept.append((weight, weight.data))
            weight.data = weight.data.clone()
            layer.merge()
        yield
    finally:
        for weight, own in kept:
            weight.data = own
        for layer in layers:
            layer.merged_adapters.clear()
