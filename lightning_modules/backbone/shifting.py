"""Residual shifting: a diffusion from an image to its degraded form, in a few steps.

x_t = x0 + eta_t (y - x0) + kappa sqrt(eta_t) eps, with the anchor y, the degraded image resized
to the size of x0. Source: Yue et al., NeurIPS 2023 (arXiv 2307.12348), and TPAMI 2024 (arXiv
2403.07319).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

from degradations.device import Table
from files.numbers import PositiveFloat, PositiveInt
from lightning_modules.backbone.schedule import CLEAN, Level, entries, explicit

Target = Literal["sample", "epsilon", "scaled_epsilon", "residual"]
Form = Literal["released", "paper"]
InputScale = Literal["latent", "pixel"]


class ResidualShift:
    """The process in discrete time, t = 0 .. T - 1 for the papers' 1 .. T.

    sqrt(eta_t) runs from its first to its last value as a geometric sequence with exponents
    ((t - 1) / (T - 1))^power (T - 1). ``released`` starts at min_noise / kappa and ends at 0.99, as
    the released weights need; the ``paper`` has min(min_noise / kappa, sqrt(0.001)) and
    sqrt(0.999). Differs from the released code in: for kappa below 1, that starts at min_noise, so
    that the noise there is less than min_noise.

    Args:
        steps: T; 15 in the conference paper, 4 in the journal's.
        kappa: Standard deviation of the noise for eta = 1.
        min_noise: Standard deviation of the noise at the first timestep; 0.04 for 15 steps, 0.2
            for 4.
        power: Exponent p of the sequence; a larger one is more faithful and less sharp.
        prediction: What the network predicts: x0, the noise, the noise times kappa sqrt(eta), or
            the residual y - x0.
        form: First and last value, see above.
        input_scale: Divisor of the network's input: ``latent``, for variance 1, is
            sqrt(kappa^2 eta + 1), ``pixel`` is 3 kappa sqrt(eta) + 1.
        relative: Let ``kappa`` and ``min_noise`` be multiples of the standard deviation of y - x0,
            such as 4 and 0.34. Only for ``lightning_modules.CasArbi``, which measures it.

    Raises:
        ValueError: If there is a single step, or ``min_noise`` is too large.
    """

    def __init__(
        self,
        steps: PositiveInt = 15,
        kappa: PositiveFloat = 2.0,
        min_noise: PositiveFloat = 0.04,
        power: PositiveFloat = 0.3,
        prediction: Target = "sample",
        form: Form = "released",
        input_scale: InputScale = "latent",
        relative: bool = False,
    ) -> None:
        self.kappa = kappa
        self.prediction = prediction
        self.input_scale = input_scale
        self.relative = relative
        # What a network is trained with.
        self.settings: dict[str, Any] = {
            "steps": steps,
            "kappa": kappa,
            "min_noise": min_noise,
            "power": power,
            "prediction": prediction,
            "form": form,
            "input_scale": input_scale,
            "relative": relative,
        }
        if steps < 2:
            raise ValueError("process.steps is 1; residual shifting needs a first and a last")
        first = min_noise / kappa
        last = 0.99
        if form == "paper":
            first = min(first, math.sqrt(0.001))
            last = math.sqrt(0.999)
        if first >= last:
            raise ValueError(
                f"min_noise is {min_noise} with kappa {kappa}, so eta would begin at {first**2:g}, "
                f"above its end of {last**2:g}: lower min_noise"
            )
        # On the CPU also while a model is built on the meta device: its values are read.
        place = torch.arange(steps, dtype=torch.float64, device="cpu") / (steps - 1)
        roots = first * (last / first) ** place.pow(power)
        roots[-1] = last  # without rounding
        self._set_etas(roots.square())
        self.timesteps = list(range(steps))  # the network's timestep of each entry

    def respaced(self, timesteps: Sequence[int]) -> ResidualShift:
        """Return the process over some of its timesteps, without other training.

        Args:
            timesteps: From the last one down, e.g. [14, 9, 4, 0].

        Returns:
            A process with as many steps; its ``timesteps`` are those of the training.

        Raises:
            ValueError: If the list does not fall, has unknown timesteps, or does not start at the
                last one, where the state is the anchor with noise.
        """
        rising = explicit(self.steps, timesteps)[::-1]
        if rising[-1] != self.steps - 1:
            raise ValueError(
                f"timesteps begin at {rising[-1]}; expected {self.steps - 1}, where sampling starts"
            )
        fewer = copy.copy(self)  # shallow: only the tables are replaced
        fewer._set_etas(self.etas[rising])
        fewer.timesteps = [self.timesteps[t] for t in rising]
        return fewer

    def spread(self, steps: int) -> list[int]:
        """Return timesteps for ``respaced``, spread evenly.

        Args:
            steps: Number of timesteps.

        Raises:
            ValueError: If it is below 2, or above the process's.
        """
        if not 2 <= steps <= self.steps:
            raise ValueError(f"the process takes 2 to {self.steps} steps, not {steps}")
        last = self.steps - 1
        return [last - last * n // (steps - 1) for n in range(steps)]

    def _set_etas(self, etas: Tensor) -> None:
        """Set eta of each timestep, and the tables that follow from it."""
        self.etas = etas  # (T,) float64
        self._tables = Table(etas), Table(self.kappa * etas.sqrt())

    @property
    def steps(self) -> int:
        """Number of timesteps."""
        return len(self.etas)

    def eta(self, t: int) -> float:
        """Return the shift at timestep t; 0 at -1, after the last step."""
        return self.etas[t].item() if t >= 0 else 0.0

    def level(self, t: int) -> Level:
        """Return the level of x_t - y, a diffusion process whose clean sample is x0 - y.

        Args:
            t: The timestep; -1 is after the last step, without noise.
        """
        if t < 0:
            return CLEAN
        return Level(1 - self.eta(t), self.kappa * math.sqrt(self.eta(t)))

    def add_noise(self, x0: Tensor, anchor: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """Return x_t: equation 2 of the conference paper.

        Args:
            x0: (B, ...), clean.
            anchor: (B, ...), y.
            eps: (B, ...), standard normal.
            t: (B,) int64.
        """
        eta, deviation = self.at(t, x0)
        return x0 + eta * (anchor - x0) + deviation * eps

    def prior(self, anchor: Tensor, eps: Tensor) -> Tensor:
        """Return the start of sampling: y + kappa sqrt(eta_T) eps.

        As eta_T is nearly 1, what is left of x0 - y, which is unknown, is neglected.

        Args:
            anchor: (B, ...).
            eps: (B, ...), standard normal.
        """
        return anchor + self.kappa * math.sqrt(self.eta(self.steps - 1)) * eps

    def scale_input(self, x: Tensor, t: Tensor | int) -> Tensor:
        """Return the network's input for x_t.

        Args:
            x: (B, ...), at the timesteps t.
            t: (B,) int64, or one number for all.
        """
        _, deviation = self.at(t, x)
        if self.input_scale == "latent":
            return x / (deviation**2 + 1) ** 0.5
        return x / (3 * deviation + 1)  # three deviations around [-1, 1]

    def target(self, x0: Tensor, anchor: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """Return the training target, in the shape of x0; arguments as in ``add_noise``."""
        if self.prediction == "sample":
            return x0
        if self.prediction == "residual":
            return anchor - x0
        if self.prediction == "epsilon":
            return eps
        _, deviation = self.at(t, x0)
        return deviation * eps  # "scaled_epsilon"

    def loss(self, raw: Tensor, x0: Tensor, anchor: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """Return the mean squared error of the network's output, a scalar.

        The error of ``scaled_epsilon`` is that of the noise before it is scaled, as in the released
        code: otherwise the first timesteps, whose noise is small, would hardly be trained.

        Args:
            raw: (B, ...), the network's output.
            x0: (B, ...), clean.
            anchor: (B, ...), y.
            eps: (B, ...), standard normal.
            t: (B,) int64.
        """
        if self.prediction == "scaled_epsilon":
            _, deviation = self.at(t, x0)
            return functional.mse_loss(raw / deviation, eps)
        return functional.mse_loss(raw, self.target(x0, anchor, eps, t))

    def to_x0(self, raw: Tensor, x: Tensor, t: Tensor | int, anchor: Tensor) -> Tensor:
        """Convert the network's output to the clean sample.

        Args:
            raw: (B, ...), the network's output.
            x: (B, ...), at the timesteps t.
            t: (B,) int64, or one number for all.
            anchor: (B, ...).
        """
        if self.prediction == "sample":
            return raw
        if self.prediction == "residual":
            return anchor - raw
        # Solves x = (1 - eta) x0 + eta y + noise for x0.
        eta, deviation = self.at(t, x)
        noise = raw if self.prediction == "scaled_epsilon" else deviation * raw
        return (x - noise - eta * anchor) / (1 - eta)

    def at(self, t: Tensor | int, x: Tensor) -> tuple[Any, Any]:
        """Return eta and the standard deviation of the noise.

        Args:
            t: (B,) int64, or one number for all.
            x: (B, ...), for device, dtype and dimensions.

        Returns:
            Two tensors (B, 1, ...) for t of (B,), two numbers for a number.
        """
        if isinstance(t, int):
            return self.eta(t), self.kappa * math.sqrt(self.eta(t))
        etas, deviations = self._tables
        return entries(etas, t, x), entries(deviations, t, x)
