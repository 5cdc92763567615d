"""Training pairs mixed on the device: HR and LR of a crop together, by the sample's seed alone."""

from __future__ import annotations

import numpy as np
import torch
from scipy.special import betaincinv
from torch import Tensor

from datamodules.source import Mixing
from degradations.base import quantize_8bit
from degradations.bicubic import resize
from degradations.device import tensor_like
from degradations.draws import Draws
from files.numbers import PositiveFloat, UnitInterval


class MixUp(Mixing):
    """Blend a crop with itself, turned by 180 degrees: HR and LR with the same share.

    The paper's, BasicSR's forks and neosr blend a crop with another one of the batch. Then what a
    sample looks like would depend on its batch, and on how many processes share that.

    Args:
        probability: Share of the crops that are blended.
        alpha: Both parameters of the Beta distribution that the share is drawn from.

    Source: Zhang et al., ICLR 2018 (arXiv 1710.09412); Yoo, Ahn, Sohn, CVPR 2020 (arXiv
    2004.00448), section 3.1, for alpha in super-resolution.
    """

    def __init__(self, probability: UnitInterval = 0.5, alpha: PositiveFloat = 1.2) -> None:
        self.probability = probability
        self.alpha = alpha

    def __call__(self, hr: Tensor, lr: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        """Return HR and LR, blended with themselves. Args as ``Mixing``."""
        draws = draws.fold("mixup")
        is_blended = draws.bernoulli(self.probability)
        share = betaincinv(self.alpha, self.alpha, draws.uniform())
        shares = tensor_like(np.where(is_blended, share, 1.0).tolist(), hr).view(-1, 1, 1, 1)
        return torch.lerp(hr.flip(2, 3), hr, shares), torch.lerp(lr.flip(2, 3), lr, shares)


class CutBlur(Mixing):
    """Replace the inside or the outside of a square of LR by HR that is shrunk by bicubic.

    So a network learns where, and how much, to restore. For degradations: after bicubic alone
    nothing changes. The paper pastes HR into LR that is enlarged to the size of HR, for networks
    that work there; neosr and traiNNer-redux shrink the result again, as here.

    Args:
        probability: Share of the crops that are changed.
        side: Side of the square, as a share of the crop's.

    Source: Yoo, Ahn, Sohn, CVPR 2020 (arXiv 2004.00448), section 3.2.
    """

    def __init__(self, probability: UnitInterval = 0.5, side: UnitInterval = 0.7) -> None:
        self.probability = probability
        self.side = side

    def __call__(self, hr: Tensor, lr: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        """Return HR, and LR with a part from HR. Args as ``Mixing``."""
        draws = draws.fold("cutblur")
        height, width = lr.shape[-2:]
        rows = round(height * self.side)
        columns = round(width * self.side)
        is_changed = tensor_like(draws.bernoulli(self.probability).tolist(), lr)
        is_inside = tensor_like(draws.bernoulli(0.5).tolist(), lr)
        top = tensor_like(draws.integers(0, height - rows + 1).tolist(), lr)
        left = tensor_like(draws.integers(0, width - columns + 1).tolist(), lr)
        in_rows = _is_within(top, rows, height)
        in_columns = _is_within(left, columns, width)
        square = in_rows[:, :, None] & in_columns[:, None]  # (B, h, w)
        replaced = (square == is_inside.bool()[:, None, None]) & is_changed.bool()[:, None, None]
        clean = quantize_8bit(resize(hr, (height, width)))
        return hr, torch.where(replaced[:, None], clean, lr)


def _is_within(start: Tensor, length: int, size: int) -> Tensor:
    """Return (B, size) bool: which places are in [start, start + length)."""
    places = torch.arange(size, device=start.device) - start[:, None]
    return (places >= 0) & (places < length)
