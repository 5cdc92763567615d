"""Networks of one factor, such as EDSR or SwinIR, for any output size."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

from torch import Tensor, nn

from degradations.bicubic import resize


class AnySize(nn.Module):
    """A network of one factor, resized to any size by antialiased bicubic interpolation.

    As the base of ``lightning_modules.CasArbi``, its features are those of the network's own
    ``encode``, as EDSR has it, or else the LR image. CasArbi's paper lists EDSR among its bases
    without the resizing; this is our choice.

    Args:
        scale: Factor of enlargement, any number of at least 1 (linked from data.init_args.scale);
            used if ``forward`` gets no output size.
        network: The network: a class whose first argument is the factor, such as
            ``lightning_modules.EDSR`` or ``lightning_modules.Spandrel``.
        factor: The network's own factor.
    """

    def __init__(
        self, scale: float, network: Callable[[float], nn.Module], factor: float = 2.0
    ) -> None:
        super().__init__()
        self.scale, self.network = scale, network(factor)
        self.encodes = hasattr(self.network, "encode")
        # The source of weights that the network loads itself, as Spandrel does.
        self.weights_source: str | None = getattr(self.network, "weights_source", None)

    def forward(self, lr: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """Enlarge to any size.

        Args:
            lr: (B, 3, h, w) in [0, 1].
            size: (H, W) of the output; ``scale`` times that of lr, rounded, by default.

        Returns:
            (B, 3, H, W), about [0, 1]; not clamped.
        """
        height, width = size or tuple(round(self.scale * n) for n in lr.shape[-2:])
        return resize(self.network(lr), (height, width), clamp=False)

    def encode(self, lr: Tensor) -> Tensor:
        """Return features (B, C, h, w) of lr (B, 3, h, w) in [0, 1]."""
        return cast(Any, self.network).encode(lr) if self.encodes else lr

    def render(self, features: Tensor, lr: Tensor, size: tuple[int, int]) -> Tensor:
        """Return the output of ``forward`` from the features of ``encode``.

        Args:
            features: (B, C, h, w), the result of ``encode``.
            lr: (B, 3, h, w) in [0, 1], the LR that they are of.
            size: (H, W) of the output.

        Returns:
            (B, 3, H, W), about [0, 1]; not clamped.
        """
        known = cast(Any, self.network)
        image = known.enlarged(features, lr) if self.encodes else known(lr)
        return resize(image, size, clamp=False)

    def official(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Rename the tensors of a released file of the network to ours."""
        official = getattr(self.network, "official", dict)
        return {f"network.{name}": tensor for name, tensor in official(state).items()}
