"""Regression: one network, one pass, a pixel loss.

Shared by EDSR (Lim et al., CVPRW 2017; arXiv 1707.02921), IMDN (Hui et al., ACM MM 2019; arXiv
1909.11856) and LIIF (Chen et al., CVPR 2021; arXiv 2012.09161); the network is an argument.
Differs from the papers in: LIIF trains on all pixels of a crop, not on samples of them; and at one
scale, or, with ``data.init_args.crops.scales``, at one scale per batch, not per image.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor
from torch.nn import functional

from files.numbers import NonNegativeFloat, UnitInterval
from lightning_modules.noise import augmented
from lightning_modules.one_pass.losses import charbonnier
from lightning_modules.one_pass.one_pass import NetworkCallable, OnePass

if TYPE_CHECKING:
    from files.batch import Batch

LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "l1": functional.l1_loss,
    "charbonnier": charbonnier,
}


class Regression(OnePass):
    """Train any network to predict the high-resolution image directly.

    Args:
        scale: Factor by which images are enlarged; set by ``data.init_args.scale``.
        network: The network: a class whose first argument is the scale, and whose ``forward(lr)``
            or ``forward(lr, size)`` returns the enlarged image.
        loss: ``l1``, or ``charbonnier``, a smooth L1.
        noise_probability: Share of training inputs with added noise, for the base network of a
            cascade; see ``lightning_modules.CasArbi``.
        noise_level: Greatest standard deviation of that noise, for values in [-1, 1].
    """

    def __init__(
        self,
        scale: float,
        network: NetworkCallable,
        loss: Literal["l1", "charbonnier"] = "l1",
        noise_probability: UnitInterval = 0.0,
        noise_level: NonNegativeFloat = 0.1,
        **kwargs: Any,
    ) -> None:
        super().__init__(scale, network, **kwargs)
        self.noise_probability, self.noise_level = noise_probability, noise_level
        self.loss = LOSSES[loss]

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the distance between the enlarged LR and HR.

        Raises:
            ValueError: If the network returns another size.
        """
        lr, hr = batch["lr"], batch["hr"]
        if self.noise_probability:
            lr, _ = augmented(lr, self.noise_probability, self.noise_level)
        loss = self.loss(self.enlarged_for(lr, hr, batch["size"]), hr)
        self.log("train/loss", loss, prog_bar=True)
        return loss
