"""Which inputs torch.compile compiles a function for."""

from __future__ import annotations

import torch
from torch import Tensor

_MOST_KINDS = 64  # torch's own limit is 8
_MOST_SHAPES = 4


def allow_kinds() -> None:
    """Raise torch's limit of eight recompilations per function, in this process.

    Train and eval mode, a batch of one and square inputs each cause a recompilation; the limit is
    per class. Beyond it, torch compiles the parts of a network separately, or raises an error.
    Differing sizes cost few recompilations: from the second size on, torch treats them as symbols.
    """
    config = torch._dynamo.config
    config.recompile_limit = max(config.recompile_limit, _MOST_KINDS)


class Shapes:
    """Decides which input shapes are compiled, where torch compiles each shape separately.

    Takes the first four shapes with gradients (training) and, counted separately, the first four
    without (validation).
    """

    def __init__(self) -> None:
        # By whether gradients are recorded: training, and validation.
        self._taken: dict[bool, set[tuple[torch.Size, ...]]] = {
            True: set(),
            False: set(),
        }

    def known(self, *inputs: Tensor) -> bool:
        """Return whether inputs of these shapes were taken before."""
        shapes = tuple(x.shape for x in inputs)
        return shapes in self._taken[torch.is_grad_enabled()]

    def take(self, *inputs: Tensor) -> bool:
        """Take the shapes of these inputs, if they were taken before or a place is free.

        Returns:
            Whether to compile for them.
        """
        taken = self._taken[torch.is_grad_enabled()]
        if len(taken) < _MOST_SHAPES:
            taken.add(tuple(x.shape for x in inputs))
        return self.known(*inputs)
