"""Which inputs torch.compile compiles a function for."""

from __future__ import annotations

import torch
from torch import Tensor

_MOST_KINDS = 64  # torch's own limit is 8
_MOST_SHAPES = 4


def allow_kinds() -> None:
    """Let a function be compiled for more kinds of input than torch's eight, in this process.

    Training and outputs, one image and several, sides that are alike: each is a kind of its own,
    and all instances of a class count together. Beyond the limit torch compiles every part of a
    network by itself, or raises an error. Sizes are few kinds: from the second one on, torch makes
    them variables.
    """
    torch._dynamo.config.recompile_limit = max(_MOST_KINDS, torch._dynamo.config.recompile_limit)


class Shapes:
    """Decides which input shapes get a compiled form, where torch compiles each one separately.

    The first four with gradients, as in training, and the first four without, so that neither
    takes the other's places.
    """

    def __init__(self) -> None:
        # By whether gradients are recorded.
        self._taken: dict[bool, set[tuple[torch.Size, ...]]] = {
            True: set(),
            False: set(),
        }

    def known(self, *inputs: Tensor) -> bool:
        """Whether inputs of these shapes were taken before."""
        shapes = tuple(x.shape for x in inputs)
        return shapes in self._taken[torch.is_grad_enabled()]

    def take(self, *inputs: Tensor) -> bool:
        """Take the shapes of these inputs, if they are known or a place is free.

        Returns:
            Whether to compile for them.
        """
        taken = self._taken[torch.is_grad_enabled()]
        if len(taken) < _MOST_SHAPES:
            taken.add(tuple(x.shape for x in inputs))
        return self.known(*inputs)
