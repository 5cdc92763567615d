"""FineTune and LoRA at the larger size.

The trained baselines of Self-Cascade (Guo et al., ECCV 2024; arXiv 2402.10491, tables 1 to 3): the
base continues to train on images of the target's size, by its own loss over all timesteps, and is
then sampled as in ``Direct``. LoRA: Hu et al., ICLR 2022 (arXiv 2106.09685).

Differs from the paper in: nothing known. Optimiser, learning rates, numbers of images and LoRA's
layers are unpublished; the defaults are ours, the layers those of ``lora_layers``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import Tensor, nn
from torch.nn import functional

from files.batch import Batch
from files.numbers import PositiveInt, UnitInterval
from lightning_modules.from_base import FromBase
from lightning_modules.sampling.captions import drop_captions, training_images

log = logging.getLogger(__name__)


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


def add_layers(unet: Any, rank: int) -> None:
    """Add low-rank updates in float32 to the linear layers; untrained, they return 0.

    Args:
        unet: The frozen U-Net.
        rank: Rank of the updates.
    """
    from peft import LoraConfig, inject_adapter_in_model

    names = targets(unet)
    # alpha / r is the factor of the updates: 1.
    inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=rank, target_modules=names), unet)
    for parameter in unet.parameters():
        if parameter.requires_grad:  # in the base's bfloat16, rounding would lose most steps
            parameter.data = parameter.data.float()


def adamw_whole(parameters: Iterable[Tensor]) -> torch.optim.Optimizer:
    """AdamW with weight decay 0.01 and a learning rate of 1e-5, usual for whole networks."""
    return torch.optim.AdamW(parameters, lr=1e-5, weight_decay=0.01, fused=True)


def adamw_lora(parameters: Iterable[Tensor]) -> torch.optim.Optimizer:
    """AdamW with weight decay 0.01 and a learning rate of 1e-4, usual for LoRA."""
    return torch.optim.AdamW(parameters, lr=1e-4, weight_decay=0.01, fused=True)


class FineTune(FromBase):
    """Fine-tune all weights of the base at the target's size.

    ``flags.frozen`` of ``denoiser`` must be false.

    Args:
        scale: Factor between the sides of the base's images and of the output; set by
            ``data.init_args.scale``.
        caption_dropout: Share of captions to drop in training, for guidance.
        optimizer: Makes the optimiser.

    Raises:
        ValueError: If parts do not fit together.
    """

    trained_parts = ("denoiser",)
    trained_settings: ClassVar[Mapping[str, str]] = {
        **FromBase.trained_settings,
        "schedule": "schedule.settings",
    }
    base_frozen: ClassVar[bool] = False

    def __init__(
        self,
        scale: float,
        *,
        caption_dropout: UnitInterval = 0.1,
        optimizer: OptimizerCallable = adamw_whole,
        **kwargs: Any,
    ) -> None:
        super().__init__(scale, optimizer=optimizer, **kwargs)
        self.caption_dropout = caption_dropout
        self._name_weights()

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the base's own loss, at random timesteps."""
        x = training_images(batch)
        size = (x.shape[-2], x.shape[-1])
        with torch.no_grad():
            z = self.space.encode(x)
        t = torch.randint(self.schedule.steps, (len(z),), device=z.device)
        eps = torch.randn_like(z)
        z_t = self.schedule.add_noise(z, eps, t)
        # Without a size condition the base's size is not used, and need not divide the images'.
        base = size if self.size_condition is None else self.trained_size(size)
        condition = drop_captions(*self._conditions(batch, size, base), self.caption_dropout)
        raw = self.denoiser(self.schedule.scale_input(z_t, t), t, condition)
        loss = functional.mse_loss(raw, self.schedule.target(z, eps, t))
        self.log("train/loss", loss)
        return loss


class LoRA(FineTune):
    """Train low-rank updates of the base's linear layers at the target's size.

    1,921,792 parameters on Stable Diffusion 2.1 with rank 4, 15,374,336 with 32. Without training
    it equals ``Direct``, bit for bit.

    Args:
        scale: Factor between the sides of the base's images and of the output; set by
            ``data.init_args.scale``.
        rank: Rank of the updates.
        optimizer: Makes the optimiser of the updates.

    Raises:
        ValueError: If parts do not fit together.
    """

    base_frozen: ClassVar[bool] = True

    def __init__(
        self,
        scale: float,
        *,
        rank: PositiveInt = 4,
        optimizer: OptimizerCallable = adamw_lora,
        **kwargs: Any,
    ) -> None:
        super().__init__(scale, optimizer=optimizer, **kwargs)
        self.rank = rank

    def load_parts(self, find: Callable[[str, str], Path]) -> None:
        """Load the base, and add the updates."""
        super().load_parts(find)  # first, as the updates change the names of the base's tensors
        add_layers(self.denoiser.unet, self.rank)
