"""Regression: one network, one pass, a pixel loss.

Shared by EDSR (Lim et al., CVPRW 2017; arXiv 1707.02921), IMDN (Hui et al., ACM MM 2019; arXiv
1909.11856) and LIIF (Chen et al., CVPR 2021; arXiv 2012.09161); the network is an argument.
Differs from the papers in: LIIF trains on all pixels of a crop, not on samples of them; and at one
scale, or, with ``data.init_args.crops.scales``, at one scale per batch, not per image.
"""

from __future__ import annotations

import inspect
import re
import traceback
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from lightning_modules.base import SuperResolver
from lightning_modules.noise import Noise, augmented, check_augmentation

if TYPE_CHECKING:
    from datamodules.base import Batch

NetworkCallable = Callable[[float], nn.Module]


def built(network: NetworkCallable, scale: float) -> nn.Module:
    """Build the network for a scale.

    Args:
        network: Factory from the configuration, or a network, which is returned.
        scale: Factor by which it enlarges.

    Raises:
        ValueError: If the first argument of its class is not the scale.
    """
    if isinstance(network, nn.Module):
        return network
    try:
        return network(scale)
    except TypeError as error:
        # Only errors of the parser's call: those within the network's code keep their traceback.
        *_, last = traceback.extract_tb(error.__traceback__)
        by_parser = "jsonargparse" in last.filename
        if not by_parser or not re.search(r"__init__\(\) takes .* given", str(error)):
            raise
        raise ValueError(
            f"model.init_args.network: {error}. The first argument of a network is the scale: "
            "def __init__(self, scale: float, ...), as docs/plugins/network.md shows"
        ) from error


class Regression(SuperResolver):
    """Train any network to predict the high-resolution image directly.

    Args:
        scale: Factor by which images are enlarged; set by ``data.init_args.scale``.
        network: The network: a class whose first argument is the scale, and whose ``forward(lr)``
            or ``forward(lr, size)`` returns the enlarged image.
        loss: ``l1``, or ``charbonnier``, a smooth L1.
        channels_last: Keep images and weights in the memory layout in which convolutions are
            fastest.
        noise_probability: Share of training inputs with added noise, for the base network of a
            cascade; see ``lightning_modules.CasArbi``.
        noise_level: Greatest standard deviation of that noise, for values in [-1, 1].

    Raises:
        ValueError: If ``loss`` is unknown, or the noise is out of range.
    """

    one_pass = True
    half_outputs = False

    def __init__(
        self,
        scale: float,
        network: NetworkCallable,
        loss: Literal["l1", "charbonnier"] = "l1",
        channels_last: bool = True,
        noise_probability: float = 0.0,
        noise_level: float = 0.1,
        **kwargs: Any,
    ) -> None:
        super().__init__(scale, **kwargs)
        check_augmentation(noise_probability, noise_level)
        self.noise_probability, self.noise_level = noise_probability, noise_level
        if loss not in LOSSES:
            raise ValueError(f"model.init_args.loss is {loss!r}; expected l1 or charbonnier")
        self.loss = LOSSES[loss]
        self.network = built(network, self.scale)
        self._make = network
        # A network with its own weights, such as spandrel's, names their source.
        self.weights_source = getattr(self.network, "weights_source", None)
        if channels_last:
            self.network.to(memory_format=torch.channels_last)
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.takes_size = "size" in inspect.signature(self.network.forward).parameters

    def forward(self, lr: Tensor, size: tuple[int, int]) -> Tensor:
        """Enlarge.

        Args:
            lr: (B, 3, h, w) in [0, 1].
            size: (H, W) of the output.

        Returns:
            (B, 3, H, W), unclamped.
        """
        lr = lr.contiguous(memory_format=self.memory_format)
        sr: Tensor = self.network(lr, size) if self.takes_size else self.network(lr)
        return sr

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the distance between the enlarged LR and HR.

        Raises:
            ValueError: If the network returns another size.
        """
        lr, hr = batch["lr"], batch["hr"]
        if self.noise_probability:
            lr, _ = augmented(lr, self.noise_probability, self.noise_level)
        sr = self(lr, batch["size"])
        if sr.shape != hr.shape:  # some shapes would be broadcast silently
            raise ValueError(
                f"{type(self.network).__name__} made {tuple(sr.shape)} of "
                f"{tuple(lr.shape)}, expected {tuple(hr.shape)}: does it enlarge by "
                f"data.init_args.scale, {self.scale:g}?"
            )
        loss = self.loss(sr, hr)
        self.log("train/loss", loss, prog_bar=True)
        return loss

    @torch.no_grad()
    def restore(self, batch: Batch, noise: Noise) -> Tensor:
        """One forward pass; deterministic."""
        sr: Tensor = self(batch["lr"], batch["size"])
        return sr

    def scale_of(self, tensors: dict[str, Tensor]) -> float | None:
        """Return the scale at which the network has these tensors; None if unknown."""
        found = {name: tensor.shape for name, tensor in tensors.items()}
        for scale in SCALES:
            try:
                with torch.device("meta"):
                    network = built(self._make, scale)
            except Exception:  # a user's class may raise anything for a scale it does not support
                continue
            own = {f"network.{name}": value.shape for name, value in network.state_dict().items()}
            if own == found:
                return scale
        return None

    def import_official(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Map the authors' tensors by the network's ``official``, if it has one."""
        official = getattr(self.network, "official", dict)
        return {f"network.{name}": tensor for name, tensor in official(tensors).items()}


SCALES = (2.0, 3.0, 4.0, 8.0, 1.0, 6.0, 16.0)  # of published or trained weights


def charbonnier(sr: Tensor, hr: Tensor, eps: float = 1e-3) -> Tensor:
    """Return the mean of sqrt(d^2 + eps^2).

    Source: Charbonnier et al., ICIP 1994; eps of LapSRN (Lai et al., 2017; arXiv 1710.01992).
    """
    return ((sr - hr).square() + eps**2).sqrt().mean()


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "l1": functional.l1_loss,
    "charbonnier": charbonnier,
}
