"""Private names of Lightning that methods need, in one file, as `commands` has one.

Each function names the public behaviour that is missing, and the test that fails when Lightning
changes the private name.
"""

from __future__ import annotations

from typing import Any

from lightning.pytorch.core.optimizer import do_nothing_closure


def exclude_from_step_count(optimizer: Any) -> None:
    """Let the next step of a ``LightningOptimizer`` not count as a training step.

    Lightning resets both hooks in each batch. Held by
    ``test_steps_are_those_of_the_main_optimiser`` in test_adversarial.py.
    """
    optimizer._on_before_step = optimizer._on_after_step = do_nothing_closure
