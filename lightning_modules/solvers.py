"""One step of each sampler, as a pure function of the prediction and two noise levels.

x is (B, ...) at the level `now`, x0 the predicted clean sample there. The result is at `then`, the
next level, with less noise. Levels may be variance preserving, exploding (alpha 1), or without
noise (`CLEAN`), where every step returns x0. Timesteps, tables and prediction types belong to the
schedule (`backbone/schedule.py`).
"""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import Tensor

from lightning_modules.backbone.schedule import Level


def ddim(
    x: Tensor,
    x0: Tensor,
    now: Level,
    then: Level,
    eta: float = 0.0,
    noise: Tensor | None = None,
) -> Tensor:
    """Song et al., 2021 (arXiv 2010.02502), equations 12 and 16.

    Args:
        x: (B, ...) at ``now``.
        x0: (B, ...), predicted.
        now: Level of x.
        then: Level of the result.
        eta: 0 is deterministic, 1 is DDPM's ancestral sampling.
        noise: (B, ...), standard normal; required unless ``eta`` is 0.
    """
    fresh = eta * _ancestral(now, then)
    # eps is (x - alpha x0) / sigma; collected by x and x0:
    kept = math.sqrt(max(then.sigma**2 - fresh**2, 0.0)) / now.sigma
    y = (kept * x).add_(x0, alpha=then.alpha - kept * now.alpha)
    return y if fresh == 0 else y.add_(_given(noise), alpha=fresh)


def euler(x: Tensor, x0: Tensor, now: Level, then: Level) -> Tensor:
    """Euler's method in x / alpha: Karras et al., 2022 (arXiv 2206.00364), algorithm 1, line 5.

    Collected by x and x0. In these coordinates DDIM without noise is the same step. Arguments as in
    ``ddim``.
    """
    kept = then.sigma / now.sigma
    return (kept * x).add_(x0, alpha=then.alpha - kept * now.alpha)


def euler_ancestral(x: Tensor, x0: Tensor, now: Level, then: Level, noise: Tensor) -> Tensor:
    """Euler's method to a lower level, then noise up to the next one.

    Args:
        x: (B, ...) at ``now``.
        x0: (B, ...), predicted.
        now: Level of x.
        then: Level of the result.
        noise: (B, ...), standard normal.

    Source: k-diffusion's ``sample_euler_ancestral``: the ancestral step of DDPM in x / alpha.
    """
    fresh = _ancestral(now, then)
    below = math.sqrt(max(then.sigma**2 - fresh**2, 0.0))
    return euler(x, x0, now, Level(then.alpha, below)) + fresh * noise


def heun(
    x: Tensor, x0: Tensor, now: Level, then: Level, predict: Callable[[Tensor], Tensor]
) -> Tensor:
    """Heun's method: Karras et al., 2022 (arXiv 2206.00364), algorithm 1.

    Args:
        x: (B, ...) at ``now``.
        x0: (B, ...), predicted.
        now: Level of x.
        then: Level of the result.
        predict: Predicts x0 of a sample at ``then``; called once unless ``then`` is clean.
    """
    y = euler(x, x0, now, then)
    if then.sigma == 0:
        return y
    first = (x / now.alpha - x0) / _ratio(now)
    second = (y / then.alpha - predict(y)) / _ratio(then)
    step = _ratio(then) - _ratio(now)
    return then.alpha * (x / now.alpha + step * (first + second) / 2)


def dpm_solver_2m(
    x: Tensor,
    x0: Tensor,
    now: Level,
    then: Level,
    earlier: tuple[Tensor, Level] | None = None,
) -> Tensor:
    """DPM-Solver++(2M): Lu et al., 2022 (arXiv 2211.01095), algorithm 2.

    Args:
        x: (B, ...) at ``now``.
        x0: (B, ...), predicted.
        now: Level of x.
        then: Level of the result.
        earlier: The x0 predicted one step before, and its level. Without it, and to the clean
            level, the step is of first order, which equals DDIM.
    """
    if then.sigma == 0:
        return then.alpha * x0
    step = then.log_snr - now.log_snr
    if earlier is not None:
        before, level = earlier
        x0 = x0 + step / (2 * (now.log_snr - level.log_snr)) * (x0 - before)
    return then.sigma / now.sigma * x - then.alpha * math.expm1(-step) * x0


def residual_shift(
    x: Tensor, x0: Tensor, now: float, then: float, kappa: float, noise: Tensor | None = None
) -> Tensor:
    """Posterior of residual shifting: Yue et al., 2023 (arXiv 2307.12348), equation 7.

    Args:
        x: (B, ...) at eta = ``now``.
        x0: (B, ...), predicted.
        now: eta of x.
        then: eta of the result; 0 gives x0.
        kappa: Of the process.
        noise: (B, ...), standard normal; required unless ``then`` is 0.
    """
    kept = then / now
    y = (kept * x).add_(x0, alpha=1 - kept)  # in place: large temporaries are slower than sums
    return y if then == 0 else y.add_(_given(noise), alpha=kappa * math.sqrt(kept * (now - then)))


def _ratio(level: Level) -> float:
    """Return noise over signal, the sigma of Karras et al."""
    return level.sigma / level.alpha


def _ancestral(now: Level, then: Level) -> float:
    """Return the standard deviation of the noise that DDPM's posterior adds between two levels."""
    kept = (now.alpha * then.sigma) / (then.alpha * now.sigma)
    return then.sigma * math.sqrt(max(1 - kept**2, 0.0))


def _given(noise: Tensor | None) -> Tensor:
    if noise is None:
        raise ValueError("this step adds noise, and noise is missing: pass `noise`")
    return noise
