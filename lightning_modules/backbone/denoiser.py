"""Denoisers: UNet2D and UNet3D behind one contract.

``denoiser(z_t, t, condition, residuals)`` is the network's raw output; the schedule interprets it.
Features between the down and up paths can be read (``features``) and added to (``residuals``), by
diffusers' own arguments. The U-Net itself is ``denoiser.unet``; set attention processors and
adapters there, as in any program with diffusers.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from files.paths import expand_path
from files.weights import fingerprint, load_strictly, part_of, read_weights, refuse_other_settings
from lightning_modules.backbone.condition import Condition
from lightning_modules.backbone.library import (
    Flags,
    library_class,
    pretrained,
    run_as,
    unshaped,
    untrained,
)
from lightning_modules.backbone.schedule import Schedule
from lightning_modules.backbone.space import named
from lightning_modules.networks.attachments import (
    Features,
    Residuals,
    residual_arguments,
    run_down_path,
)

log = logging.getLogger(__name__)
Null = Literal["learned", "zero", "none"]


class Denoiser(nn.Module, ABC):
    """Base class of the denoisers.

    Attributes:
        channels: Channels of the noisy sample.
        source: Source of frozen weights, with a hash; empty if they train.
        initial_source: Source of the initial weights, frozen or not; empty for random weights.
    """

    channels: int
    source: str = ""
    initial_source: str = ""

    @abstractmethod
    def forward(
        self,
        z_t: Tensor,
        t: Tensor,
        condition: Condition | None = None,
        residuals: Residuals | None = None,
    ) -> Tensor:
        """Return the network's raw output, in the shape and type of ``z_t``.

        Args:
            z_t: (B, channels, ...), noisy, scaled by the schedule's ``scale_input``.
            t: (B,) timesteps.
            condition: The condition; none by default.
            residuals: Added to the features of skip connections.
        """

    def null_text(self, count: int, tokens: int = 1) -> Tensor | None:
        """Return the text (count, tokens, D) that stands for no text; None if there is none."""
        return None


class UNet2D(Denoiser):
    """A ``UNet2DConditionModel`` of diffusers.

    Args:
        network: Arguments of diffusers' class, as in a ``config.json``, for random weights; or the
            folder or hub name of a trained network in diffusers' layout.
        subfolder: Subfolder of the network.
        null_token: Token for "no text": ``learned``, the default for random weights; ``zero``; or
            ``none``, the default of a trained network, which then always requires a text.
        flags: How it runs; unchanged by default.

    Raises:
        FileNotFoundError: If the trained network is missing.
        ValueError: If weights do not fit.
    """

    unet: Any  # diffusers' annotations are too loose to be of use
    trained_schedule: Mapping[str, Any] | None
    null: Tensor | None
    kind: ClassVar[str] = "UNet2DConditionModel"
    called = ("features", "null_text")  # entry points besides `forward`, for sharding
    takes: ClassVar[frozenset[str]] = frozenset({"text", "pooled", "sizes"})

    def __init__(
        self,
        network: dict[str, Any] | str,
        subfolder: str | None = "unet",
        null_token: Null | None = None,
        flags: Flags | None = None,
    ) -> None:
        super().__init__()
        self.flags = flags or Flags()
        self.trained_timesteps: Sequence[int] | None = None  # first and end; None for all
        self.trained_schedule = None  # of the run, or of the scheduler in its folder, if known
        self.trained_space = ""  # source of its run's autoencoder, if it had one
        self.trained_latents: Mapping[str, Any] = {}  # `settings` of its run's space, if known
        if isinstance(network, str):
            key = "model.init_args.denoiser.init_args.network"
            self.unet = pretrained(key, self.kind, network, subfolder)
            self.initial_source = network
            self.trained_schedule = _schedule_of(network)
            self._add_null(null_token or "none")
            if self.flags.frozen:
                self.source = named(network, self.unet)
        else:
            self.unet = untrained(self.kind, network)
            self._add_null(null_token or "learned")
        self.channels = int(self.unet.config.out_channels)
        self.trained_with = unshaped(self.unet)
        if self.flags.frozen:
            self.requires_grad_(False)
        run_as(self.unet, self.flags)
        self.train(self.training)  # evaluation mode if frozen

    def load(self, path: str | Path) -> None:
        """Load our checkpoint, or a file of only the U-Net.

        Args:
            path: The file. From a checkpoint, the tensors of its ``denoiser`` (EMA preferred).

        Raises:
            FileNotFoundError: If the file is missing.
            ValueError: If it is corrupt, or belongs to another network or one of other settings.
        """
        weights = read_weights(path)
        tensors = part_of(weights.tensors, "denoiser")
        if tensors:  # our checkpoint
            load_strictly(self, tensors, weights.name)
        else:
            tensors = weights.tensors
            load_strictly(self.unet, tensors, weights.name)
        refuse_other_settings(self, weights, "denoiser")
        self.initial_source = weights.name
        self.trained_timesteps = weights.trained_with.get("timesteps")
        self.trained_schedule = weights.trained_with.get("schedule")
        self.trained_space = weights.frozen.get("space", "")
        self.trained_latents = weights.trained_with.get("space", {})
        if self.flags.frozen:
            self.source = f"{weights.name} {fingerprint(tensors)}"

    # ------------------------------------------------------------------------------------- running

    def forward(
        self,
        z_t: Tensor,
        t: Tensor,
        condition: Condition | None = None,
        residuals: Residuals | None = None,
    ) -> Tensor:
        """Return the raw output, as ``Denoiser.forward``.

        Raises:
            ValueError: For an unsupported condition, or a missing text.
        """
        inputs = self._inputs(z_t, t, condition or Condition())
        if residuals is not None:
            inputs |= residual_arguments(self.unet, residuals, inputs["sample"])
        raw: Tensor = self.unet(**inputs, return_dict=False)[0]
        # Copied from a CUDA graph, whose next replay overwrites its output.
        return raw.to(z_t.dtype, copy=self.flags.compile == "graphs")

    def features(
        self, z_t: Tensor, t: Tensor, condition: Condition | None = None, middle: bool = False
    ) -> Features:
        """Return the features of the down path, without running the up path.

        A compiled network runs uncompiled here. Gradients are recorded as usual.

        Args:
            z_t: As in ``Denoiser.forward``.
            t: As in ``Denoiser.forward``.
            condition: As in ``Denoiser.forward``.
            middle: Whether to run the middle block.

        Raises:
            ValueError: As in ``forward``.
        """
        inputs = self._inputs(z_t, t, condition or Condition())
        return run_down_path(self.unet, {**inputs, "return_dict": False}, middle)

    def null_text(self, count: int, tokens: int = 1) -> Tensor | None:
        """Return the null token, repeated to (count, tokens, D); None if the network has none.

        Attention treats equal tokens as one, so their number does not matter.
        """
        return None if self.null is None else self.null.expand(count, tokens, -1)

    def train(self, mode: bool = True) -> UNet2D:
        """Set the mode, but stay in evaluation mode if frozen."""
        super().train(mode and not self.flags.frozen)
        return self

    def _add_null(self, null: Null) -> None:
        """Add the token of "no text" as ``null``; a learned one is in checkpoints."""
        if null == "none":
            self.register_buffer("null", None)
            return
        config = self.unet.config
        width = getattr(config, "encoder_hid_dim", None) or config.cross_attention_dim
        token = torch.zeros(1, 1, width)
        if null == "learned":
            self.register_parameter("null", nn.Parameter(token))
        else:
            self.register_buffer("null", token, persistent=False)

    def _inputs(self, z_t: Tensor, t: Tensor, condition: Condition) -> dict[str, Any]:
        """Return the arguments of the U-Net's ``forward``, in the type of its weights."""
        surplus = condition.used.keys() - self.takes
        if surplus:
            raise ValueError(f"{type(self).__name__} takes no {', '.join(sorted(surplus))}")
        if self.flags.channels_last and z_t.ndim == 4:
            z_t = z_t.contiguous(memory_format=torch.channels_last)
        dtype = next(self.unet.parameters()).dtype  # diffusers' own property walks over all modules
        text = condition.text
        if text is None:
            text = self.null_text(len(z_t))
        if text is None:
            raise ValueError(f"{type(self).__name__} has no null text: pass a condition with text")
        inputs = {"sample": z_t.to(dtype), "timestep": t, "encoder_hidden_states": text.to(dtype)}
        return inputs | self._extras(condition)

    def _extras(self, condition: Condition) -> dict[str, Any]:
        """Return the U-Net's arguments for SDXL's pooled text and sizes."""
        if condition.sizes is None and condition.pooled is None:
            return {}
        added = {"text_embeds": condition.pooled, "time_ids": condition.sizes}
        return {"added_cond_kwargs": added}


class UNet3D(UNet2D):
    """A ``UNet3DConditionModel`` of diffusers, for video: z_t is (B, C, F, H, W).

    Internally frames are folded into the batch: features and residuals are (B F, C, h, w).

    Args:
        network: Arguments of diffusers' class, or a folder or hub name.
        subfolder: Subfolder of the network.
        null_token: Token for "no text": ``learned``, ``zero`` or ``none``.
        flags: How it runs; unchanged by default.

    Raises:
        ValueError: As in ``UNet2D``.
    """

    kind = "UNet3DConditionModel"
    takes = frozenset({"text"})


def _schedule_of(network: str) -> Mapping[str, Any] | None:
    """Return the settings of the scheduler beside a network; None if there is none to compare."""
    place = expand_path(network, "network")
    try:
        config = library_class("DDIMScheduler").load_config(place, subfolder="scheduler")
        if config.get("rescale_betas_zero_snr"):
            return {"rescale_betas_zero_snr": True}  # its other settings would be misleading
        return Schedule.from_config(config).settings
    except (OSError, ValueError):  # there is none, or one that no Schedule can have
        log.warning("%s has no scheduler that model.init_args.schedule can be compared with", place)
        return None
