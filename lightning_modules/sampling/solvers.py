"""Solver steps as pure functions, and the loop over timesteps.

To add a solver, write a function like `dpm_solver_2m`, and its name in `Solver` and `SOLVERS`.

x is (B, ...) at the level ``start``, x0 the predicted clean sample there. The result is at ``end``,
the next level, with less noise. Levels may be variance preserving, exploding (alpha 1), or without
noise (``CLEAN``), where every step returns x0. Timesteps, tables and prediction types belong to the
schedule (``backbone/schedule.py``).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, cast

from torch import Tensor

from files.numbers import NonNegativeInt, PositiveFloat, PositiveInt, UnitInterval
from lightning_modules.backbone.schedule import Level, Schedule, Spacing, spaced
from lightning_modules.backbone.shifting import ResidualShift
from lightning_modules.noise import Noise

Earlier = tuple[Tensor, Level] | None  # the x0 predicted one step before, and its level


def ddim(
    x: Tensor,
    x0: Tensor,
    start: Level,
    end: Level,
    earlier: Earlier = None,
    eta: float = 0.0,
    noise: Tensor | None = None,
) -> Tensor:
    """A step of DDIM: Song et al., 2021 (arXiv 2010.02502), equations 12 and 16.

    In x / alpha this is Euler's method (Karras et al., 2022; arXiv 2206.00364, algorithm 1), and
    with ``eta`` 1 k-diffusion's ancestral one.

    Args:
        x: (B, ...) at ``start``.
        x0: (B, ...), predicted.
        start: Level of x.
        end: Level of the result.
        earlier: Not used.
        eta: 0 is deterministic, 1 is DDPM's ancestral sampling.
        noise: (B, ...), standard normal; required unless ``eta`` is 0.
    """
    ratio = (start.alpha * end.sigma) / (end.alpha * start.sigma)
    deviation = eta * end.sigma * math.sqrt(max(1 - ratio**2, 0.0))  # of DDPM's posterior
    # eps is (x - alpha x0) / sigma; collected by x and x0:
    weight = math.sqrt(max(end.sigma**2 - deviation**2, 0.0)) / start.sigma
    y = (weight * x).add_(x0, alpha=end.alpha - weight * start.alpha)
    return y if deviation == 0 else y.add_(cast(Tensor, noise), alpha=deviation)


def dpm_solver_2m(
    x: Tensor,
    x0: Tensor,
    start: Level,
    end: Level,
    earlier: Earlier = None,
) -> Tensor:
    """DPM-Solver++(2M): Lu et al., 2022 (arXiv 2211.01095), algorithm 2.

    Args:
        x: (B, ...) at ``start``.
        x0: (B, ...), predicted.
        start: Level of x.
        end: Level of the result.
        earlier: The x0 predicted one step before, and its level. Without it, and to the clean
            level, the step is of first order, which equals DDIM.
    """
    if end.sigma == 0:
        return end.alpha * x0
    step = end.log_snr - start.log_snr
    if earlier is not None:  # extrapolate x0 to the middle of the step
        earlier_x0, level = earlier
        x0 = x0 + step / (2 * (start.log_snr - level.log_snr)) * (x0 - earlier_x0)
    return end.sigma / start.sigma * x - end.alpha * math.expm1(-step) * x0


Step = Callable[[Tensor, Tensor, Level, Level, Earlier], Tensor]
Solver = Literal["ddim", "dpm_solver_2m"]
ShiftSolver = Literal["posterior", Solver]
SOLVERS: dict[str, Step] = {"ddim": ddim, "dpm_solver_2m": dpm_solver_2m}


def residual_shift(
    x: Tensor, x0: Tensor, start: float, end: float, kappa: float, noise: Tensor | None = None
) -> Tensor:
    """Draw from the posterior of residual shifting: Yue et al. (arXiv 2307.12348), equation 7.

    Args:
        x: (B, ...) at eta = ``start``.
        x0: (B, ...), predicted.
        start: eta of x.
        end: eta of the result; 0 gives x0.
        kappa: Standard deviation of the process's noise for eta = 1.
        noise: (B, ...), standard normal; required unless ``end`` is 0.
    """
    weight = end / start
    y = (weight * x).add_(x0, alpha=1 - weight)  # in place: large temporaries are slower than sums
    deviation = kappa * math.sqrt(weight * (start - end))
    return y if end == 0 else y.add_(cast(Tensor, noise), alpha=deviation)


@dataclass(frozen=True)
class Sampler:
    """Timesteps and solver; by default Stable Diffusion's DDIM, except for ``last``.

    Args:
        steps: Number of steps from pure noise.
        spacing: Spacing of the timesteps: ``leading`` or ``trailing``.
        offset: Added to ``leading`` timesteps.
        solver: ``ddim`` or ``dpm_solver_2m``.
        eta: For ``ddim``: 0 is deterministic sampling, Euler's method, 1 DDPM's, the ancestral one.
        last: Where sampling ends: at -1, without noise, or at timestep 0, as in Stable Diffusion's
            own scheduler.
        guidance: Strength of classifier-free guidance; 1 for none.
        clamp: Clamp predicted clean samples to this distance from 0; 1 for pixels, ``null`` for
            latents, which are unbounded.

    Raises:
        ValueError: If there is an ``eta`` for another solver than ``ddim``.
    """

    steps: PositiveInt = 50
    spacing: Spacing = "leading"
    offset: NonNegativeInt = 1
    solver: Solver = "ddim"
    eta: UnitInterval = 0.0
    last: Literal[-1, 0] = -1
    guidance: float = 1.0
    clamp: PositiveFloat | None = None

    def __post_init__(self) -> None:
        if self.eta and self.solver != "ddim":
            raise ValueError(f"sampler.eta is {self.eta} with {self.solver}; it is for ddim alone")

    def timesteps(self, steps: int) -> list[int]:
        """Return the timesteps, noisiest first.

        Args:
            steps: Number of training timesteps.

        Raises:
            ValueError: If there are too many steps.
        """
        offset = self.offset if self.spacing == "leading" else 0
        return spaced(steps, self.steps, self.spacing, offset)

    def denoise(
        self,
        z: Tensor,
        timesteps: Sequence[int],
        clean: Callable[[Tensor, int], Tensor],
        schedule: Schedule,
        noise: Noise,
    ) -> Tensor:
        """Sample from the first timestep to ``last``; ``clean`` is called once per timestep.

        Args:
            z: (B, ...) at the first timestep.
            timesteps: Timesteps, noisiest first.
            clean: Predicts the clean sample from a noisy one and its timestep.
            schedule: The process.
            noise: Used by ``ddim`` with an ``eta``.

        Returns:
            (B, ...).
        """
        step = SOLVERS[self.solver]
        earlier: Earlier = None
        for t, next_t in itertools.pairwise([*timesteps, self.last]):
            x0 = clean(z, t)
            if self.clamp is not None:
                x0 = x0.clamp(-self.clamp, self.clamp)
            start = schedule.level(t)
            end = schedule.level(next_t)
            if self.eta and next_t >= 0:  # the clean level has no noise to add
                z = ddim(z, x0, start, end, eta=self.eta, noise=noise.normal(z.shape))
            else:
                z = step(z, x0, start, end, earlier)
            earlier = x0, start
        return z


@dataclass(frozen=True)
class ShiftSampler:
    """Sample residual shifting, in which x - y is a diffusion process with ``process.level``.

    Args:
        process: The process, at the timesteps of sampling.
        solver: ``posterior``, ``ddim`` or ``dpm_solver_2m``.
    """

    process: ResidualShift
    solver: ShiftSolver = "posterior"

    @property
    def options(self) -> dict[str, str | int | float]:
        """The solver, unless it is the default."""
        return {} if self.solver == "posterior" else {"sampler": self.solver}

    def denoise(
        self,
        x: Tensor,
        anchor: Tensor,
        clean: Callable[[Tensor, int], Tensor],
        noise: Noise,
        unit: float = 1.0,
    ) -> Tensor:
        """Sample from the prior to the clean sample; ``clean`` is called once per timestep.

        Args:
            x: (B, ...), the prior.
            anchor: (B, ...), y.
            clean: Predicts x0 from x_t and its number among the timesteps of sampling.
            noise: Used by ``posterior``.
            unit: Divisor already applied to x and the anchor; the process's noise is divided by it
                here.

        Returns:
            (B, ...).
        """
        process = self.process
        earlier: Earlier = None
        for step in reversed(range(process.steps)):
            x0 = clean(x, step)
            if self.solver == "posterior":
                eps = noise.normal(x.shape) if step > 0 else None
                kappa = process.kappa / unit
                x = residual_shift(x, x0, process.eta(step), process.eta(step - 1), kappa, eps)
                continue
            start = _in_units(process.level(step), unit)
            end = _in_units(process.level(step - 1), unit)
            # x - y is a diffusion process like any other, so every solver applies to it.
            residual = x - anchor
            residual_0 = x0 - anchor
            x = SOLVERS[self.solver](residual, residual_0, start, end, earlier) + anchor
            earlier = residual_0, start
        return x


def _in_units(level: Level, unit: float) -> Level:
    """Return the level of samples that were divided by ``unit``, as x0 was, so alpha stays."""
    return Level(level.alpha, level.sigma / unit)
