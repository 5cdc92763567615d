"""Denoise a sample along a list of timesteps, by any of the solvers."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from torch import Tensor

from lightning_modules.backbone.schedule import Level, Schedule, Spacing, spaced
from lightning_modules.noise import Noise
from lightning_modules.solvers import ddim, dpm_solver_2m, euler, euler_ancestral, heun

Solver = Literal["ddim", "euler", "euler_ancestral", "heun", "dpm_solver_2m"]


@dataclass(frozen=True)
class Sampler:
    """Timesteps and solver; by default Stable Diffusion's DDIM, except for ``last``.

    Args:
        steps: Number of steps from pure noise.
        spacing: Spacing of the timesteps: ``leading``, ``trailing`` or ``linspace``.
        offset: Added to ``leading`` timesteps.
        solver: ``ddim``, ``euler``, ``euler_ancestral``, ``heun`` or ``dpm_solver_2m``. ``heun``
            cannot start where almost no signal is left, such as the last timestep of
            ``squaredcos_cap_v2``: its first step, of the whole way in sigma, leaves noise behind.
        eta: For ``ddim``: 0 is deterministic sampling, 1 DDPM's.
        last: Where sampling ends: at -1, without noise, or at timestep 0, as in Stable Diffusion's
            own scheduler.

    Raises:
        ValueError: If a setting is unknown or out of range.
    """

    steps: int = 50
    spacing: Spacing = "leading"
    offset: int = 1
    solver: Solver = "ddim"
    eta: float = 0.0
    last: int = -1

    def __post_init__(self) -> None:
        if self.solver not in get_args(Solver):
            raise ValueError(
                f"sampler.solver is {self.solver!r}; expected {', '.join(get_args(Solver))}"
            )
        if not 0 <= self.eta <= 1 or (self.eta and self.solver != "ddim"):
            raise ValueError(
                f"sampler.eta is {self.eta} with {self.solver}; expected 0 to 1, and 0 for solvers "
                "other than ddim"
            )
        if self.last not in (-1, 0):
            raise ValueError(f"sampler.last is {self.last}; expected -1 or 0")

    def timesteps(self, steps: int) -> list[int]:
        """Return the timesteps, noisiest first.

        Args:
            steps: Number of training timesteps.

        Raises:
            ValueError: If there are too many steps, or the last one is not above ``last``.
        """
        offset = self.offset if self.spacing == "leading" else 0
        found = spaced(steps, self.steps, self.spacing, offset)
        if found[-1] <= self.last:
            raise ValueError(
                f"sampler.last is {self.last}, and the last of the timesteps is {found[-1]}: set "
                "it to -1, or sampler.offset to 1 with spacing leading"
            )
        return found

    def denoise(
        self,
        z: Tensor,
        timesteps: Sequence[int],
        clean: Callable[[Tensor, int], Tensor],
        schedule: Schedule,
        noise: Noise,
    ) -> Tensor:
        """Call ``clean`` once per timestep; ``heun`` calls it twice, except before -1.

        Args:
            z: (B, ...) at the first timestep.
            timesteps: Timesteps, noisiest first.
            clean: Predicts the clean sample from a noisy one and its timestep.
            schedule: The process.
            noise: Used by ``euler_ancestral``, and by ``ddim`` with an ``eta``.

        Returns:
            (B, ...).
        """
        earlier: tuple[Tensor, Level] | None = None
        for now, then in itertools.pairwise([*timesteps, self.last]):
            x0 = clean(z, now)
            levels = schedule.level(now), schedule.level(then)
            if self.solver == "ddim":
                fresh = noise.normal(z.shape) if self.eta and then >= 0 else None
                z = ddim(z, x0, *levels, self.eta, fresh)
            elif self.solver == "euler":
                z = euler(z, x0, *levels)
            elif self.solver == "euler_ancestral":
                z = euler_ancestral(z, x0, *levels, noise.normal(z.shape))
            elif self.solver == "heun":

                def again(y: Tensor, t: int = then) -> Tensor:
                    return clean(y, t)

                z = heun(z, x0, *levels, again)
            else:
                z = dpm_solver_2m(z, x0, *levels, earlier)
                earlier = x0, levels[0]
        return z
