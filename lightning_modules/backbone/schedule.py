"""Signal and noise of a diffusion process at each timestep, and the network's prediction type.

All tables are float64 on the CPU. A network may predict the noise ("epsilon"), the velocity
("v_prediction") or the clean sample ("sample"); all are converted to the clean sample, x0.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from degradations.device import Table
from files.numbers import PositiveInt, UnitInterval

Prediction = Literal["epsilon", "v_prediction", "sample"]
Betas = Literal["linear", "scaled_linear", "squaredcos_cap_v2"]
Spacing = Literal["leading", "trailing"]
Variance = Literal["preserving", "exploding"]

_LARGEST_BETA = 0.999  # of the cosine schedule
_EQUAL = 1e-9  # difference of logarithms that rounding explains


class Level(NamedTuple):
    """Signal and noise of x = alpha x0 + sigma eps, eps standard normal."""

    alpha: float
    sigma: float

    @property
    def log_snr(self) -> float:
        """Logarithm of alpha / sigma, not of its square: lambda in DPM-Solver.

        Infinite without noise.
        """
        if self.sigma == 0:
            return math.inf
        return math.log(self.alpha / self.sigma) if self.alpha > 0 else -math.inf


CLEAN = Level(1.0, 0.0)


class Schedule:
    """A diffusion process in discrete time: x_t = alpha_t x0 + sigma_t eps.

    ``preserving``: alpha_t^2 + sigma_t^2 = 1, as in DDPM. ``exploding``: the same process divided
    by alpha_t, x_t = x0 + sigma_t eps, as sampled by Karras et al. (2022; arXiv 2206.00364);
    networks then need ``scale_input``.

    Args:
        steps: Number of training timesteps, T; t is 0 .. T - 1.
        beta_start: The first beta; unused by the cosine schedule.
        beta_end: The last beta.
        betas: Spacing of the betas: linear, linear in their square roots (Stable Diffusion), or the
            cosine of Nichol and Dhariwal (2021; arXiv 2102.09672).
        prediction: What the network predicts.
        variance: The form of the process, see above.

    Source: Ho et al., 2020 (arXiv 2006.11239), equation 4; v as in Salimans and Ho, 2022 (arXiv
    2202.00512), appendix D.
    """

    def __init__(
        self,
        steps: PositiveInt = 1000,
        beta_start: UnitInterval = 0.00085,
        beta_end: UnitInterval = 0.012,
        betas: Betas = "scaled_linear",
        prediction: Prediction = "epsilon",
        variance: Variance = "preserving",
    ) -> None:
        self.prediction = prediction
        self.variance = variance
        # What a network is trained with. Not the variance: networks see the same in both forms.
        self.settings: dict[str, Any] = {"steps": steps}
        if betas != "squaredcos_cap_v2":
            self.settings |= {"beta_start": beta_start, "beta_end": beta_end}
        self.settings |= {"betas": betas, "prediction": prediction}
        self.settings["rescale_betas_zero_snr"] = False  # diffusers' name; not offered here
        with torch.device("cpu"):  # numbers, also while a model is built on the meta device
            alpha_bar = torch.cumprod(1 - _betas(steps, beta_start, beta_end, betas), 0)
        # Of the variance preserving form; the exploding one is derived from it.
        self._alphas = alpha_bar.sqrt()
        self._sigmas = (1 - alpha_bar).sqrt()
        self._tables = Table(self._alphas), Table(self._sigmas)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Schedule:
        """Create a schedule from the configuration of a diffusers scheduler.

        Args:
            config: The content of a ``scheduler_config.json``.

        Raises:
            ValueError: If it has trained betas, or betas of an unknown kind.
        """
        betas = config.get("beta_schedule", "linear")
        if betas not in get_args(Betas) or config.get("trained_betas") is not None:
            raise ValueError(f"beta_schedule {betas}, or trained_betas, are not supported")
        return cls(
            steps=config.get("num_train_timesteps", 1000),
            beta_start=config.get("beta_start", 0.0001),
            beta_end=config.get("beta_end", 0.02),
            betas=betas,
            prediction=config.get("prediction_type", "epsilon"),
        )

    @property
    def steps(self) -> int:
        """Number of training timesteps."""
        return len(self._alphas)

    def level(self, t: int) -> Level:
        """Return signal and noise at timestep t; at -1, after the last step, without noise."""
        if t == -1:
            return CLEAN
        alpha, sigma = self._preserving_level(t)
        if self.variance == "preserving":
            return Level(alpha, sigma)
        return Level(1.0, sigma / alpha if alpha > 0 else math.inf)

    def first_noisier(self, level: Level) -> int:
        """Return the first timestep with more noise, relative to the signal, than ``level``.

        The number of timesteps if there is none.
        """
        log_snr = self._alphas.log() - self._sigmas.log()
        # It falls with t, so the number of timesteps with less noise is the first with more.
        return int((log_snr >= level.log_snr - _EQUAL).sum())

    def add_noise(self, x0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """Return x_t, in the shape of x0.

        Args:
            x0: (B, ...), clean.
            eps: (B, ...), standard normal.
            t: (B,) int64.
        """
        alpha, sigma = self._levels(t, x0)
        x = alpha * x0 + sigma * eps
        return x if self.variance == "preserving" else x / alpha

    def scale_input(self, x: Tensor, t: Tensor | int) -> Tensor:
        """Return the network's input: x, or x / sqrt(sigma^2 + 1) for an exploding process.

        Args:
            x: (B, ...), at the timesteps t.
            t: (B,) int64, or one number for all.
        """
        if self.variance == "preserving":
            return x
        alpha, _ = self._levels(t, x)  # 1 / sqrt(sigma^2 + 1), with the exploding sigma
        return x * alpha

    def target(self, x0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """Return the training target, in the shape of x0; arguments as in ``add_noise``."""
        if self.prediction == "epsilon":
            return eps
        if self.prediction == "sample":
            return x0
        alpha, sigma = self._levels(t, x0)
        return alpha * eps - sigma * x0  # the velocity

    def to_x0(self, raw: Tensor, x: Tensor, t: Tensor | int) -> Tensor:
        """Convert the network's output to the clean sample.

        Args:
            raw: (B, ...), the network's output for ``scale_input(x, t)``.
            x: (B, ...), at the timesteps t.
            t: (B,) int64, or one number for all.
        """
        if self.prediction == "sample":
            return raw
        alpha, sigma = self._levels(t, x)
        x = self.scale_input(x, t)  # x in the preserving form, which alpha and sigma are of
        if self.prediction == "epsilon":
            return (x - sigma * raw) / alpha
        return alpha * x - sigma * raw

    def _levels(self, t: Tensor | int, x: Tensor) -> tuple[Any, Any]:
        """Return alpha and sigma of the preserving form, to multiply ``x`` by.

        Two tensors (B, 1, ...) like ``x`` for t of (B,); for a number two numbers, which keep
        float64's precision.
        """
        if isinstance(t, int):
            return self._preserving_level(t)
        alphas, sigmas = self._tables
        return entries(alphas, t, x), entries(sigmas, t, x)

    def _preserving_level(self, t: int) -> tuple[float, float]:
        """Return alpha and sigma of the variance preserving form at one timestep."""
        return self._alphas[t].item(), self._sigmas[t].item()


def entries(table: Table, t: Tensor, x: Tensor) -> Tensor:
    """Return the entries of a table at the timesteps of a batch.

    Args:
        table: (T,).
        t: (B,) int64. Tables go to its device; moving t to the CPU would block the host.
        x: (B, ...), for device, type and dimensions.

    Returns:
        (B, 1, ...).
    """
    return table.like(x)[t].view(-1, *[1] * (x.ndim - 1))


def spaced(steps: int, count: int, spacing: Spacing, offset: int = 0) -> list[int]:
    """Return the timesteps of sampling, noisiest first.

    Args:
        steps: Number of training timesteps, T.
        count: Number of sampling timesteps.
        spacing: ``leading``: 0, T // count, ... plus ``offset``; ``trailing``: T - 1 and down by
            T / count.
        offset: Added to leading timesteps; Stable Diffusion has 1.

    Raises:
        ValueError: If there are more than T, or a timestep above T - 1.

    Source: Lin et al., 2023 (arXiv 2305.08891), table 2; rounded as in diffusers.
    """
    if spacing == "leading":
        timesteps = [i * (steps // count) + offset for i in reversed(range(count))]
    else:
        timesteps = [round(steps - i * steps / count) - 1 for i in range(count)]
    return explicit(steps, timesteps)


def explicit(steps: int, timesteps: Sequence[int], first: int = 0) -> list[int]:
    """Check a list of timesteps.

    Args:
        steps: Number of training timesteps.
        timesteps: Timesteps, noisiest first.
        first: Number of the first training timestep: 0, or 1 if users count from 1.

    Raises:
        ValueError: If it is empty, does not fall, or leaves ``first`` .. ``first`` + ``steps`` - 1.
    """
    listed = [int(t) for t in timesteps]
    falling = sorted(set(listed), reverse=True)
    last = first + steps - 1
    if not listed or listed != falling or listed[0] > last or listed[-1] < first:
        raise ValueError(
            f"the timesteps are {listed}; expected a falling list of numbers from {last} to {first}"
        )
    return listed


def _betas(steps: int, start: float, end: float, kind: Betas) -> Tensor:
    """Return the betas, (steps,) float64, as diffusers spaces them."""
    if kind == "linear":
        return torch.linspace(start, end, steps, dtype=torch.float64)
    if kind == "scaled_linear":
        return torch.linspace(start**0.5, end**0.5, steps, dtype=torch.float64).square()
    # The cosine schedule; its offset of 0.008 keeps the first betas from being too small.
    angle = (torch.arange(steps + 1, dtype=torch.float64) / steps + 0.008) / 1.008 * (math.pi / 2)
    alpha_bar = angle.cos().square()
    return (1 - alpha_bar[1:] / alpha_bar[:-1]).clamp_max(_LARGEST_BETA)
