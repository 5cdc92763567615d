"""Which layers of a U-Net get low-rank updates, and those merged into its weights for sampling."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import nn


def targets(unet: Any) -> list[str]:
    """Names of the linear layers of attention blocks, and of residual blocks' timesteps.

    Self-Cascade's authors do not name their layers. Of the natural choices these alone make its
    numbers of parameters, 1.9 M and 15 M with ranks 4 and 32 on Stable Diffusion 2.1: queries,
    keys, values and outputs of both attentions, both layers behind them, the projections before and
    after a block where they are linear, and what residual blocks make of the timestep. Temporal
    layers of a video network are left as they are.

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
    """Put untrained low-rank updates, in float32, beside the linear layers; they give 0.

    Args:
        unet: Frozen.
        rank: Of the updates.
        alpha: Over ``rank`` the factor of an update.
    """
    from peft import LoraConfig, inject_adapter_in_model

    names = targets(unet)
    inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=alpha, target_modules=names), unet)
    for parameter in unet.parameters():
        if parameter.requires_grad:  # in the base's bfloat16 most steps would be rounded away
            parameter.data = parameter.data.float()


@contextmanager
def merged(unet: Any) -> Iterator[None]:
    """Within, updates are part of the weights, so that sampling costs what the base's does.

    The base's own weights come back as they were, to the bit: taken off again, an update would
    leave its rounding in them. In half precision they stay beside the weights, which would round
    most of them away.

    Args:
        unet: With layers of ``add_layers``, or without.
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
