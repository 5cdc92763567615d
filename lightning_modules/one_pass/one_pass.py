"""Methods whose output is one pass of a network: how it is built, run and loaded."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from lightning_modules.base import SuperResolver
from lightning_modules.noise import Noise

if TYPE_CHECKING:
    from files.batch import Batch

NetworkCallable = Callable[[float], nn.Module]


def _built(network: NetworkCallable, scale: float) -> nn.Module:
    try:
        return network(scale)
    except TypeError as error:
        if "__init__() takes" not in str(error):
            raise
        raise ValueError(
            f"model.init_args.network: {error}. The first argument of a network is the scale: "
            "def __init__(self, scale: float, ...)"
        ) from error


class OnePass(SuperResolver):
    """A method that enlarges by one pass of a network, without noise.

    Args:
        scale: Factor by which images are enlarged; set by ``data.init_args.scale``.
        network: The network: a class whose first argument is the scale, and whose ``forward(lr)``
            or ``forward(lr, size)`` returns the enlarged image.
    """

    one_pass = True
    half_outputs = False

    def __init__(
        self,
        scale: float,
        network: NetworkCallable,
        **kwargs: Any,
    ) -> None:
        super().__init__(scale, **kwargs)
        # In Python also a network that is built already.
        self.network = network if isinstance(network, nn.Module) else _built(network, self.scale)
        # A network with its own weights, such as spandrel's, names their source.
        self.weights_source = getattr(self.network, "weights_source", None)
        self.network.to(memory_format=torch.channels_last)  # in which convolutions are fastest
        self.takes_size = "size" in inspect.signature(self.network.forward).parameters

    def forward(self, lr: Tensor, size: tuple[int, int]) -> Tensor:
        """Enlarge.

        Args:
            lr: (B, 3, h, w) in [0, 1].
            size: (H, W) of the output.

        Returns:
            (B, 3, H, W), unclamped.
        """
        lr = lr.contiguous(memory_format=torch.channels_last)
        sr: Tensor = self.network(lr, size) if self.takes_size else self.network(lr)
        return sr

    def enlarged_for(self, lr: Tensor, hr: Tensor, size: tuple[int, int]) -> Tensor:
        """Enlarge LR in training, and check the output's size.

        Args:
            lr: (B, 3, h, w) in [0, 1].
            hr: (B, 3, H, W), which the output is compared with.
            size: (H, W) of the output.

        Raises:
            ValueError: If the network returns another size.
        """
        sr = self(lr, size)
        if sr.shape != hr.shape:  # some shapes would be broadcast silently
            raise ValueError(
                f"{type(self.network).__name__} made {tuple(sr.shape)}, expected "
                f"{tuple(hr.shape)}: does it enlarge by data.init_args.scale, {self.scale:g}?"
            )
        return sr

    @torch.no_grad()
    def restore(self, batch: Batch, noise: Noise) -> Tensor:
        """One forward pass; deterministic."""
        sr: Tensor = self(batch["lr"], batch["size"])
        return sr

    def import_official(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Map the authors' tensors by the network's ``official``, if it has one."""
        official = getattr(self.network, "official", dict)
        return self.with_parts(network=official(tensors))
