"""Learning-rate schedules that papers have and torch has not, stepped once a step of training."""

from __future__ import annotations

import math
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


class WarmUp(LambdaLR):
    """A learning rate that rises evenly over the first steps, and then stays.

    Step n, counted from 1, is taken with n / ``warm_up`` of the optimiser's rate; or, as in the
    released code of ResShift and InvSR, which sets the rate after a step, the first one with all of
    it and step n with (n - 1) / ``warm_up``. A run that goes on with other settings than it began
    with, the optimiser's rate among them, follows the new ones from its second step on.

    Args:
        optimizer: Whose learning rate it is.
        warm_up: Number of steps until the whole rate is reached; 0: from the start.
        released: As in the released code, see above.

    Raises:
        ValueError: ``warm_up`` is negative.
    """

    _settings: tuple[str, ...] = ("base_lrs", "warm_up", "released")

    def __init__(self, optimizer: Optimizer, warm_up: int = 5000, released: bool = False) -> None:
        if warm_up < 0:
            raise ValueError(f"warm_up of {type(self).__name__} is {warm_up}; expected 0 or more")
        self.warm_up, self.released = warm_up, released
        super().__init__(optimizer, [self._of(g["lr"]) for g in optimizer.param_groups])

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where it was, by the settings of this one: torch takes those of the checkpoint.

        Args:
            state_dict: What another one's ``state_dict`` gave.
        """
        own = {name: self.__dict__[name] for name in self._settings}
        super().load_state_dict({**state_dict, **own, "lr_lambdas": [None] * len(self.lr_lambdas)})

    def _of(self, rate: float) -> _Factor:
        return _Factor(self.warm_up, self.released)


class WarmUpCosine(WarmUp):
    """A learning rate that rises evenly over the first steps, and then falls on half a cosine.

    Args:
        optimizer: Whose learning rate it is.
        steps: The step at which ``final`` is reached, and kept; as a rule ``trainer.max_steps``.
        warm_up: Number of steps until the whole rate is reached; 0: from the start.
        final: The learning rate at the end.
        released: As of ``WarmUp``.

    Raises:
        ValueError: The warm-up is negative, or leaves no step to fall in; or ``final`` is below 0
            or above the optimiser's rate.
    """

    _settings = (*WarmUp._settings, "steps", "final")

    def __init__(
        self,
        optimizer: Optimizer,
        steps: int,
        warm_up: int = 5000,
        final: float = 2e-5,
        released: bool = False,
    ) -> None:
        if steps <= warm_up:
            raise ValueError(
                f"steps of WarmUpCosine is {steps}, of which warm_up takes {warm_up}; expected "
                "more: set it to trainer.max_steps"
            )
        for group in optimizer.param_groups:
            if not 0 <= final <= group["lr"]:
                raise ValueError(
                    f"final of WarmUpCosine is {final:g}; expected 0 up to the optimiser's lr "
                    f"{group['lr']:g}"
                )
        self.steps, self.final = steps, final
        super().__init__(optimizer, warm_up, released)

    def _of(self, rate: float) -> _Factor:
        return _Factor(self.warm_up, self.released, self.steps, self.final / rate)


class _Factor:
    """What the rate is multiplied by in a step, counted from 0."""

    def __init__(
        self, warm_up: int, released: bool, steps: int | None = None, final: float = 1.0
    ) -> None:
        self.warm_up, self.released, self.steps, self.final = warm_up, released, steps, final

    def __call__(self, step: int) -> float:
        if step < self.warm_up:
            if self.released:
                return step / self.warm_up if step else 1.0
            return (step + 1) / self.warm_up
        if self.steps is None:
            return 1.0
        done = min((step - self.warm_up) / (self.steps - self.warm_up), 1.0)
        return self.final + (1 - self.final) * (1 + math.cos(math.pi * done)) / 2
