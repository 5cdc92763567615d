"""What predicts: diffusers' U-Nets behind one contract.

``denoiser(z_t, t, condition, residuals)`` is the network's raw output; what it stands for is the
schedule's business. What the U-Net hands from its way down to its way up can be read
(``features``) and added to (``residuals``), by diffusers' own arguments. The U-Net itself is
``denoiser.unet``, where attention processors and adapters are set as in any program of diffusers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor, nn

from lightning_modules.backbone.condition import Condition
from lightning_modules.backbone.features import Features, Residuals, additions, read
from lightning_modules.backbone.frozen import bare_names, fit, part_of
from lightning_modules.backbone.library import pretrained, untrained
from lightning_modules.backbone.running import Flags, run_as
from lightning_modules.backbone.space import named
from lightning_modules.weights import fingerprint, read_weights

__all__ = ["Denoiser", "Features", "Flags", "Residuals", "UNet2D", "UNet3D"]

Null = Literal["learned", "zero", "none"]


class Denoiser(nn.Module, ABC):
    """Base of the denoisers.

    Attributes:
        channels: Channels of the noisy sample.
        source: Where frozen weights came from, with a hash; empty where they train.
        begun: What it was filled with, frozen or not; empty with random weights.
    """

    channels: int
    source: str = ""
    begun: str = ""

    @abstractmethod
    def forward(
        self,
        z_t: Tensor,
        t: Tensor,
        condition: Condition | None = None,
        residuals: Residuals | None = None,
    ) -> Tensor:
        """The network's raw output, in the shape and type of ``z_t``.

        Args:
            z_t: (B, channels, ...), noisy, as the schedule's ``scale_input`` gives it.
            t: (B,) timesteps.
            condition: What is known besides; nothing by default.
            residuals: What is added to the features that skip from the way down to the way up.
        """

    def null_text(self, count: int, tokens: int = 1) -> Tensor | None:
        """(count, tokens, D), what stands for "no text"; None where the network has no such."""
        return None


class UNet2D(Denoiser):
    """A ``UNet2DConditionModel`` of diffusers.

    Args:
        network: Arguments of diffusers' class, as in a ``config.json``, for random weights; or the
            folder, or the name on the hub, of a trained one in diffusers' layout.
        subfolder: Where in that.
        revision: Branch, tag or commit on the hub.
        null_token: What stands for "no text": one token that is ``learned``, which is the default
            with random weights, one of ``zero``, or ``none``, the default of a trained network,
            which then always wants a text.
        flags: How it is run; by default as it is.

    Raises:
        FileNotFoundError: There is no trained network of that name.
        ValueError: Weights that do not fit, or a null token for a network without cross-attention
            or whose texts have no one width.
    """

    unet: Any  # diffusers' annotations are too loose to be of use
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
        self.begun = str(network) if trained else ""
        if self.flags.frozen:
            self.requires_grad_(False)
            # Of random weights there is no source until `load`.
            self.source = named(str(network), self.unet, revision) if trained else ""
        run_as(self.unet, self.flags)
        self.train(self.training)

    @classmethod
    def from_config(
        cls, config: dict[str, Any], null_token: Null | None = None, flags: Flags | None = None
    ) -> UNet2D:
        """A network of random weights. Args as of the class."""
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
        """A trained network. Args as of the class."""
        return cls(path, subfolder, revision, null_token, flags)

    def load(self, path: str | Path) -> None:
        """Fill it from a file: a checkpoint of a run here, or a file of the U-Net alone.

        Args:
            path: Of a checkpoint, the tensors of its ``denoiser`` are taken (EMA preferred).

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: It is corrupt, or of another network.
        """
        weights = read_weights(path)
        tensors = bare_names(weights.tensors)
        own = part_of(tensors, "denoiser")
        fit(self if own else self.unet, own or tensors, weights.name)
        self.begun = weights.name
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
        """As ``Denoiser.forward``.

        Raises:
            ValueError: Another number of channels or dimensions, a condition that the network does
                not take or that it misses, or a skip connection that it does not have.
        """
        inputs = self._inputs(z_t, t, condition or Condition())
        if residuals is not None:
            inputs |= additions(self.unet, residuals, inputs["sample"])
        raw: Tensor = self.unet(**inputs, return_dict=False)[0]
        return raw.to(z_t.dtype)

    def features(
        self, z_t: Tensor, t: Tensor, condition: Condition | None = None, middle: bool = False
    ) -> Features:
        """What the way down hands to the way up; the way up is not run.

        A compiled network is run uncompiled here. Gradients are kept where they are asked for.

        Args:
            z_t: As in ``forward``.
            t: As in ``forward``.
            condition: As in ``forward``.
            middle: Whether the middle block is run too.

        Raises:
            ValueError: As ``forward``.
        """
        inputs = self._inputs(z_t, t, condition or Condition())
        return read(self.unet, {**inputs, "return_dict": False}, middle)

    def null_text(self, count: int, tokens: int = 1) -> Tensor | None:
        """As ``Denoiser.null_text``; equal tokens, to which attention is as to one."""
        return None if self.null is None else self.null.expand(count, tokens, -1)

    def train(self, mode: bool = True) -> UNet2D:
        """Stay in evaluation mode where it is frozen."""
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
                f"null_token is {null!r} for a network whose blocks take texts of differing "
                "widths; set null_token to none"
            )
        crosses = any(name.endswith("attn2") for name, _ in self.unet.named_modules())
        if null == "learned" and not crosses:
            raise ValueError(
                "null_token is 'learned' for a network without cross-attention, which would never "
                "change it; set null_token to zero"
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
                f"dimensions and {wanted} channels: is model.init_args.space (with what goes beside"
                " the sample) the one that it is for?"
            )
        if self.flags.channels_last and z.ndim == 4:
            z = z.contiguous(memory_format=torch.channels_last)
        dtype = next(self.unet.parameters()).dtype  # diffusers' own property walks over all modules
        text = condition.text if condition.text is not None else self.null_text(len(z))
        if text is None:
            raise ValueError(
                f"{type(self).__name__} has no null text: give it a condition with text"
            )
        if self._width is not None and text.shape[-1] != self._width:
            raise ValueError(
                f"the text has {text.shape[-1]} channels and the denoiser takes {self._width}: is "
                "it of another model's text encoder?"
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
        if any(unheard.values()):  # diffusers says nothing
            names = " or ".join(name for name, is_so in unheard.items() if is_so)
            raise ValueError(
                f"the condition has {names}, and the network has no embedding of such: leave it "
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

    Frames are folded into the batch within: features and residuals are (B F, C, h, w).

    Args:
        network: Arguments of diffusers' class, or a folder or a name on the hub.
        subfolder: Where in that.
        revision: Branch, tag or commit on the hub.
        null_token: What stands for "no text": ``learned``, ``zero`` or ``none``.
        flags: How it is run; by default as it is.

    Raises:
        ValueError: As ``UNet2D``.
    """

    kind = "UNet3DConditionModel"
    dimensions = 5
    takes = frozenset({"text", "image"})


def text_width(unet: Any) -> int | None:
    """Channels of the texts that a U-Net takes; None where its blocks take differing ones."""
    config = unet.config
    width = getattr(config, "encoder_hid_dim", None) or config.cross_attention_dim
    return width if isinstance(width, int) else None
