"""Learning-rate schedules of papers that torch does not have, stepped once a training step."""

from __future__ import annotations

import math
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR


class WarmUp(LambdaLR):
    """Linear warm-up, then a constant learning rate.

    Step n, counted from 1, uses n / ``warm_up`` of the optimiser's rate. The released code of
    ResShift and InvSR sets the rate after a step: the first step uses the full rate, step n uses
    (n - 1) / ``warm_up``. A run resumed with other settings, including the optimiser's rate,
    follows them from its second step on.

    Args:
        optimizer: The optimiser.
        warm_up: Steps until the full rate is reached; 0 for no warm-up.
        released: Warm up as in the released code of ResShift and InvSR.

    Raises:
        ValueError: If ``warm_up`` is negative.
    """

    _settings: tuple[str, ...] = ("base_lrs", "warm_up", "released")

    def __init__(self, optimizer: Optimizer, warm_up: int = 5000, released: bool = False) -> None:
        if warm_up < 0:
            raise ValueError(f"warm_up of {type(self).__name__} is {warm_up}; expected 0 or more")
        self.warm_up, self.released = warm_up, released
        super().__init__(optimizer, [self._of(g["lr"]) for g in optimizer.param_groups])

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the position, but keep the settings of this schedule; torch would load them too.

        Args:
            state_dict: The ``state_dict`` of another schedule.
        """
        own = {name: self.__dict__[name] for name in self._settings}
        super().load_state_dict({**state_dict, **own, "lr_lambdas": [None] * len(self.lr_lambdas)})

    def _of(self, rate: float) -> _Factor:
        return _Factor(self.warm_up, self.released)


class WarmUpCosine(WarmUp):
    """Linear warm-up, then half a cosine.

    Args:
        optimizer: The optimiser.
        steps: Step at which ``final`` is reached and kept; usually ``trainer.max_steps``.
        warm_up: Steps until the full rate is reached; 0 for no warm-up.
        final: The learning rate at the end.
        released: Warm up as in the released code of ResShift and InvSR; see ``WarmUp``.

    Raises:
        ValueError: If the warm-up is negative or not below ``steps``, or ``final`` is below 0 or
            above the optimiser's rate.
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
                f"steps of WarmUpCosine is {steps}, and warm_up takes {warm_up} of them; expected "
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
    """Factor of the learning rate at a step, counted from 0."""

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
