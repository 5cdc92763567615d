"""Denoisers: UNet2D and UNet3D behind one contract.

``denoiser(z_t, t, condition, residuals)`` is the network's raw output; the schedule interprets it.
Features between the down and up paths can be read (``features``) and added to (``residuals``), by
diffusers' own arguments. The U-Net itself is ``denoiser.unet``; set attention processors and
adapters there, as in any program with diffusers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from files.tensors import bare_names
from lightning_modules.backbone.condition import Condition
from lightning_modules.backbone.library import Flags, beside, pretrained, run_as, untrained
from lightning_modules.backbone.schedule import Schedule
from lightning_modules.backbone.space import named
from lightning_modules.weights import fingerprint, load_strictly, part_of, read_weights


class Features(NamedTuple):
    """Inputs of a U-Net's up path.

    Args:
        skips: (B, C, h, w) of each skip connection, finest first; for video (B F, C, h, w).
        middle: (B, C, h, w) of the middle block, if it was run.
    """

    skips: tuple[Tensor, ...]
    middle: Tensor | None = None


@dataclass(frozen=True)
class Residuals:
    """Residuals to add to the features.

    Args:
        skips: By the number of the skip connection, in its shape.
        middle: In the shape of the middle block's output.
    """

    skips: Mapping[int, Tensor] = field(default_factory=dict)
    middle: Tensor | None = None


def count_skips(unet: Any) -> int:
    """Return the number of a U-Net's skip connections."""
    blocks = unet.down_blocks
    return 1 + sum(len(block.resnets) + len(block.downsamplers or ()) for block in blocks)


def run_down_path(unet: Any, inputs: Mapping[str, Any], middle: bool) -> Features:
    """Run only the down path of a U-Net.

    Args:
        unet: The U-Net; if compiled, it runs uncompiled here.
        inputs: Arguments of its ``forward``.
        middle: Whether to run the middle block.
    """
    skips: list[Tensor] = []
    ends: list[Tensor] = []

    def stop(*_: Any) -> None:
        raise _DownPathDone

    first = getattr(unet, "transformer_in", unet.conv_in)  # source of the first skip connection
    hooks = [first.register_forward_hook(lambda _, __, out: skips.append(_tensor_of(out)))]
    for block in unet.down_blocks:
        hooks.append(block.register_forward_hook(lambda _, __, out: skips.extend(out[1])))
    if middle:
        hooks.append(unet.mid_block.register_forward_hook(lambda _, __, out: ends.append(out)))
    end = unet.up_blocks[0] if middle else unet.mid_block
    hooks.append(end.register_forward_pre_hook(stop))
    try:
        with suppress(_DownPathDone):
            unet.forward(**inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return Features(tuple(skips), ends[0] if ends else None)


def residual_arguments(unet: Any, residuals: Residuals, like: Tensor) -> dict[str, Any]:
    """Return the arguments of a U-Net's ``forward`` that add residuals.

    Args:
        unet: The U-Net.
        residuals: The residuals.
        like: A tensor of any shape with the device and type.

    Raises:
        ValueError: If the number of a skip connection is unknown.
    """
    count = count_skips(unet)
    unknown = [n for n in residuals.skips if not 0 <= n < count]
    if unknown:
        raise ValueError(
            f"residuals are for the skip connections {unknown}; expected 0 to {count - 1}"
        )
    # Missing residuals are zeros, also in the middle: otherwise diffusers interprets the others as
    # those of a T2I-Adapter, at other places.
    nothing = torch.zeros((), device=like.device, dtype=like.dtype)
    middle = nothing if residuals.middle is None else residuals.middle
    return {
        "down_block_additional_residuals": tuple(
            residuals.skips.get(n, nothing).to(like.dtype) for n in range(count)
        ),
        "mid_block_additional_residual": middle.to(like.dtype),
    }


def _tensor_of(output: Any) -> Any:
    return output[0] if isinstance(output, tuple) else output


class _DownPathDone(Exception):  # noqa: N818  (no error: it ends the down path)
    """All requested features were read."""


__all__ = ["Denoiser", "Features", "Flags", "Residuals", "UNet2D", "UNet3D"]
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
        """Return the null text (count, tokens, D); None if the network has none."""
        return None


class UNet2D(Denoiser):
    """A ``UNet2DConditionModel`` of diffusers.

    Args:
        network: Arguments of diffusers' class, as in a ``config.json``, for random weights; or the
            folder or hub name of a trained network in diffusers' layout.
        subfolder: Subfolder of the network.
        revision: Branch, tag or commit on the hub.
        null_token: Token for "no text": ``learned``, the default for random weights; ``zero``; or
            ``none``, the default of a trained network, which then always requires a text.
        flags: How it runs; unchanged by default.

    Raises:
        FileNotFoundError: If the trained network is missing.
        ValueError: If weights do not fit, or for a null token of a network without cross-attention
            or with texts of several widths.
    """

    unet: Any  # diffusers' annotations are too loose to be of use
    trained_schedule: Mapping[str, Any] | None
    null: Tensor | None
    kind: ClassVar[str] = "UNet2DConditionModel"
    dimensions: ClassVar[int] = 4
    takes: ClassVar[frozenset[str]] = frozenset({"text", "pooled", "sizes", "image", "noise_level"})

    def __init__(
        self,
        network: dict[str, Any] | str,
        subfolder: str | None = "unet",
        revision: str | None = None,
        null_token: Null | None = None,
        flags: Flags | None = None,
    ) -> None:
        super().__init__()
        self.flags = flags or Flags()
        trained = isinstance(network, str)
        if isinstance(network, str):
            key = "model.init_args.denoiser.init_args.network"
            self.unet = pretrained(key, self.kind, network, subfolder, revision)
        else:
            self.unet = untrained(self.kind, network)
        self._width = text_width(self.unet)
        self._add_null(null_token or ("none" if trained else "learned"))
        self.channels = int(self.unet.config.out_channels)
        self.initial_source = str(network) if trained else ""
        self.trained_timesteps: Sequence[int] | None = None  # first and end; None for all
        # Of the run, or of the scheduler in its folder; None if unknown.
        self.trained_schedule = (
            _schedule_of(network, revision) if isinstance(network, str) else None
        )
        self.trained_space = ""  # source of its run's autoencoder, if it had one
        if self.flags.frozen:
            self.requires_grad_(False)
            # Random weights have no source before `load`.
            self.source = named(str(network), self.unet, revision) if trained else ""
        run_as(self.unet, self.flags)
        self.train(self.training)

    @classmethod
    def from_config(
        cls, config: dict[str, Any], null_token: Null | None = None, flags: Flags | None = None
    ) -> UNet2D:
        """Create a network with random weights; arguments as in the class."""
        return cls(config, null_token=null_token, flags=flags)

    @classmethod
    def from_pretrained(
        cls,
        path: str,
        subfolder: str | None = "unet",
        revision: str | None = None,
        null_token: Null | None = None,
        flags: Flags | None = None,
    ) -> UNet2D:
        """Load a trained network; arguments as in the class."""
        return cls(path, subfolder, revision, null_token, flags)

    def load(self, path: str | Path) -> None:
        """Load our checkpoint, or a file of only the U-Net.

        Args:
            path: The file. From a checkpoint, the tensors of its ``denoiser`` (EMA preferred).

        Raises:
            FileNotFoundError: If the file is missing.
            ValueError: If it is corrupt, or belongs to another network.
        """
        weights = read_weights(path)
        tensors = bare_names(weights.tensors)
        own = part_of(tensors, "denoiser")
        load_strictly(self if own else self.unet, own or tensors, weights.name)
        self.initial_source, known = weights.name, weights.trained_with
        self.trained_timesteps = known.get("timesteps")
        self.trained_schedule = known.get("schedule")
        self.trained_space = weights.frozen.get("space", "")
        if self.flags.frozen:
            self.source = f"{weights.name} {fingerprint(own or tensors)}"

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
            ValueError: For another number of channels or dimensions, an unsupported or missing
                condition, or an unknown skip connection.
        """
        inputs = self._inputs(z_t, t, condition or Condition())
        if residuals is not None:
            inputs |= residual_arguments(self.unet, residuals, inputs["sample"])
        raw: Tensor = self.unet(**inputs, return_dict=False)[0]
        return raw.to(z_t.dtype)

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
        """As ``Denoiser.null_text``; equal tokens, which attention treats as one."""
        return None if self.null is None else self.null.expand(count, tokens, -1)

    def train(self, mode: bool = True) -> UNet2D:
        """Set the mode, but stay in evaluation mode if frozen."""
        super().train(mode and not self.flags.frozen)
        return self

    def _add_null(self, null: Null) -> None:
        if null not in get_args(Null):
            raise ValueError(f"null_token is {null!r}; expected one of {', '.join(get_args(Null))}")
        if null == "none":
            self.register_buffer("null", None)
            return
        if self._width is None:
            raise ValueError(
                f"null_token is {null!r} for a network whose blocks take texts of different "
                "widths; set null_token to none"
            )
        crosses = any(name.endswith("attn2") for name, _ in self.unet.named_modules())
        if null == "learned" and not crosses:
            raise ValueError(
                "null_token is 'learned' for a network without cross-attention, which cannot train "
                "it; set null_token to zero"
            )
        token = torch.zeros(1, 1, self._width)
        if null == "learned":
            self.register_parameter("null", nn.Parameter(token))
        else:
            self.register_buffer("null", token, persistent=False)

    def _inputs(self, z_t: Tensor, t: Tensor, condition: Condition) -> dict[str, Any]:
        surplus = condition.used.keys() - self.takes
        if surplus:
            raise ValueError(f"{type(self).__name__} takes no {', '.join(sorted(surplus))}")
        z = z_t if condition.image is None else torch.cat([z_t, condition.image], 1)
        wanted = self.unet.config.in_channels
        if z.ndim != self.dimensions or z.shape[1] != wanted:
            raise ValueError(
                f"the denoiser got a sample of shape {tuple(z.shape)}; expected {self.dimensions} "
                f"dimensions and {wanted} channels: does it belong to model.init_args.space (and to"
                " the condition's image)?"
            )
        if self.flags.channels_last and z.ndim == 4:
            z = z.contiguous(memory_format=torch.channels_last)
        dtype = next(self.unet.parameters()).dtype  # diffusers' own property walks over all modules
        text = condition.text if condition.text is not None else self.null_text(len(z))
        if text is None:
            raise ValueError(f"{type(self).__name__} has no null text: pass a condition with text")
        if self._width is not None and text.shape[-1] != self._width:
            raise ValueError(
                f"the text has {text.shape[-1]} channels and the denoiser takes {self._width}: is "
                "it from another model's text encoder?"
            )
        inputs = {"sample": z.to(dtype), "timestep": t, "encoder_hidden_states": text.to(dtype)}
        return inputs | self._extras(condition)

    def _extras(self, condition: Condition) -> dict[str, Any]:
        extras: dict[str, Any] = {}
        sdxl = condition.sizes is not None or condition.pooled is not None
        if not sdxl and condition.noise_level is None:
            return extras
        unheard = {
            "noise_level": condition.noise_level is not None and self.unet.class_embedding is None,
            "sizes and pooled": sdxl and self.unet.config.addition_embed_type is None,
        }
        if any(unheard.values()):  # diffusers ignores them silently
            names = " or ".join(name for name, is_so in unheard.items() if is_so)
            raise ValueError(
                f"the condition has {names}, and the network has no embedding for it: leave it "
                "out, or set class_embed_type or addition_embed_type in the network's arguments"
            )
        if condition.noise_level is not None:
            counted = self.unet.config.class_embed_type is None  # a table of levels
            level = condition.noise_level
            extras["class_labels"] = level.long() if counted else level
        if sdxl:
            extras["added_cond_kwargs"] = {
                "text_embeds": condition.pooled,
                "time_ids": condition.sizes,
            }
        return extras


class UNet3D(UNet2D):
    """A ``UNet3DConditionModel`` of diffusers, for video: z_t is (B, C, F, H, W).

    Internally frames are folded into the batch: features and residuals are (B F, C, h, w).

    Args:
        network: Arguments of diffusers' class, or a folder or hub name.
        subfolder: Subfolder of the network.
        revision: Branch, tag or commit on the hub.
        null_token: Token for "no text": ``learned``, ``zero`` or ``none``.
        flags: How it runs; unchanged by default.

    Raises:
        ValueError: As in ``UNet2D``.
    """

    kind = "UNet3DConditionModel"
    dimensions = 5
    takes = frozenset({"text", "image"})


def _schedule_of(network: str, revision: str | None) -> Mapping[str, Any] | None:
    file = beside(network, "scheduler/scheduler_config.json", revision)
    if file is not None:
        # A process that no Schedule can have, or no configuration at all.
        with suppress(ValueError, OSError, TypeError, AttributeError):
            return Schedule.from_config(file).settings
    return None


def text_width(unet: Any) -> int | None:
    """Return the channels of a U-Net's texts; None if its blocks take different ones."""
    config = unet.config
    width = getattr(config, "encoder_hid_dim", None) or config.cross_attention_dim
    return width if isinstance(width, int) else None
