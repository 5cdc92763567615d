"""Exponential moving average of the weights.

Source: Polyak, Juditsky, "Acceleration of stochastic approximation by averaging" (1992); the
warm-up is that of TensorFlow's ``ExponentialMovingAverage``.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from files.method import Averages, method_of
from files.numbers import NonNegativeInt, UnitInterval
from files.weights import check_numbers


class EMA(Averages, Callback):
    """Average the trained weights; validation in ``fit`` uses the average.

    One update per step of the main optimiser: average += (1 - d) (weights - average), with
    d = min(decay, (1 + n) / (10 + n)), so that the first steps are soon forgotten; n is ``first``
    in the first update and increases by one in each.
    Frozen parameters are neither averaged nor stored until a callback unfreezes them; buffers
    (running statistics) are the model's.
    A checkpoint's ``state_dict`` always holds the raw weights; the averages are in its
    ``callbacks["EMA"]["weights"]``, which ``test``, ``validate``, ``predict`` and
    ``--model.init_args.weights`` read.

    Args:
        decay: Share of the average that a step keeps; 0.999 averages about 1000 steps.
        first: n of the first update; 1 in InvSR's released code. ``null``: always ``decay``, as in
            ResShift's.

    Raises:
        ValueError: If a checkpoint holds averages of other parameters.

    Examples:
        >>> from callbacks import EMA
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(max_steps=1000, callbacks=[EMA(decay=0.995)])
    """

    def __init__(self, decay: UnitInterval = 0.999, first: NonNegativeInt | None = 0) -> None:
        super().__init__()
        self.decay = decay
        self.first = first
        self.updates = 0
        self._step = 0
        self._module: LightningModule | None = None
        self._index: dict[str, int] = {}  # by name; parameters that are tied have several
        self._every: list[nn.Parameter] = []  # the module's, frozen ones included
        self._trained: list[bool] = []  # which of them are trained
        self._parameters: list[nn.Parameter] = []
        self._averages: list[Tensor] = []
        self._raw: list[Tensor] | None = None  # the trained weights while the averages are in place
        self._hook: RemovableHandle | None = None
        self._loaded: dict[str, Any] = {}

    # -------------------------------------------------------------------------------- averaging

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start with the current weights, or continue a checkpoint's averages.

        Raises:
            ValueError: If the strategy splits parameters, or the checkpoint's averages do not fit.
        """
        if isinstance(trainer.strategy, FSDPStrategy | ModelParallelStrategy | DeepSpeedStrategy):
            raise ValueError(
                f"EMA needs whole parameters on each device, but trainer.strategy is "
                f"{type(trainer.strategy).__name__}; use ddp, or drop EMA from trainer.callbacks"
            )
        # A second `fit` of the same module continues, too.
        state = self._loaded or (self._module is pl_module and self.state_dict())
        self._module = pl_module
        self.track(pl_module)
        self._step = trainer.global_step
        if state:
            self._restore(state)
            # Lightning's checkpoints may be from between a step and its update: on SLURM, or after
            # an exception.
            if state["step"] < self._step:
                self.update()
        self._loaded = {}

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Average also what a callback has unfrozen, from its current weights."""
        if [parameter.requires_grad for parameter in self._every] == self._trained:
            return
        averages = self._by_name()
        updates = self.updates
        self.track(pl_module)
        self.updates = updates
        for name, average in self._by_name().items():
            if name in averages:
                average.copy_(averages[name])

    def on_train_batch_end(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        """Update if the batch completed a step; with accumulation not every batch does."""
        step = trainer.global_step
        if step != self._step:
            self._step = step
            self.update()

    def track(self, module: nn.Module) -> None:
        """Start averaging the trainable parameters of ``module``.

        Parts that only training uses, such as discriminators, are left out.
        """
        training_only = method_of(module).training_only
        self._every = list(module.parameters())
        self._trained = [parameter.requires_grad for parameter in self._every]
        positions: dict[nn.Parameter, int] = {}
        self._index = {
            name: positions.setdefault(p, len(positions))
            for name, p in module.named_parameters(remove_duplicate=False)
            if p.requires_grad and not name.startswith(training_only)
        }
        self._parameters = list(positions)
        # In bfloat16 a step of 0.001 would be lost by rounding.
        self._averages = [p.detach().to(_precise(p.dtype), copy=True) for p in self._parameters]
        self.updates = 0

    @torch.no_grad()
    def update(self) -> None:
        """Move the averages towards the weights: one pass over memory, one call for all tensors."""
        decay = self.decay
        if self.first is not None:
            n = self.first + self.updates
            decay = min(decay, (1 + n) / (10 + n))
        weights = [p.to(a.dtype) for p, a in zip(self._parameters, self._averages, strict=True)]
        torch._foreach_lerp_(self._averages, weights, 1 - decay)
        self.updates += 1

    # --------------------------------------------------------------------------------- swapping

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Swap in the averages, in ``fit`` only."""
        if trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking:
            self.swap_in(pl_module)

    def on_validation_end(self, *args: Any, **kwargs: Any) -> None:
        """Restore the weights."""
        self.swap_out()

    # A validation may end by an exception, which `ModelCheckpoint` may save after.
    on_exception = teardown = on_validation_end

    def swap_in(self, module: nn.Module) -> None:
        """Replace the weights of ``module`` by the averages: pointers are swapped, not copied."""
        if self._raw is not None or not self._averages:
            return
        # All weights are stored before the first one is swapped, and all are restored, so an
        # interrupt at any point leaves nothing half done.
        self._raw = [p.data for p in self._parameters]
        hook = partial(self._put_raw)  # torch sets an attribute on it, which no method takes
        self._hook = module.register_state_dict_post_hook(hook)  # type: ignore[no-untyped-call]
        for parameter, average in zip(self._parameters, self._averages, strict=True):
            parameter.data = average.to(parameter.dtype)

    def swap_out(self) -> None:
        """Restore the weights, if they are swapped out."""
        if self._raw is None:
            return
        for parameter, raw in zip(self._parameters, self._raw, strict=True):
            parameter.data = raw
        if self._hook is not None:
            self._hook.remove()
        self._raw = None
        self._hook = None

    def _put_raw(self, module: nn.Module, state: dict[str, Any], prefix: str, _: Any) -> None:
        """Put the raw weights into a state dict, for checkpoints that a validation writes."""
        for name, position in self._index.items():
            if self._raw is not None and prefix + name in state:
                state[prefix + name] = self._raw[position]

    # ------------------------------------------------------------------------------------ state

    def state_dict(self) -> dict[str, Any]:
        """Return averages by parameter name (no copies) and the counters."""
        if not self._averages:
            return self._loaded
        return {
            "weights": self._by_name(),
            "updates": self.updates,
            "decay": self.decay,
            "step": self._step,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep a checkpoint's averages until training starts."""
        self._loaded = state_dict

    def _by_name(self) -> dict[str, Tensor]:
        """Return the averages by parameter name; tied parameters share one."""
        return {name: self._averages[position] for name, position in self._index.items()}

    def _restore(self, state: dict[str, Any]) -> None:
        """Set the averages and their number of updates to those of a checkpoint, after a check."""
        weights = state["weights"]
        averages = self._by_name()
        wrong = sorted(weights.keys() ^ averages.keys())
        for name in averages.keys() & weights.keys():
            if weights[name].shape != averages[name].shape:
                wrong.append(name)
        if wrong:
            raise ValueError(
                f"the checkpoint's EMA does not fit the {len(averages)} trained parameters: "
                f"{len(wrong)} are missing, unexpected or of another shape ({', '.join(wrong[:4])})"
                "; resume with the model that wrote it, or start from its weights alone: "
                "--model.init_args.weights CHECKPOINT"
            )
        check_numbers("the checkpoint's EMA", weights, averages)
        for name, average in averages.items():
            average.copy_(weights[name])
        self.updates = state["updates"]


def _precise(dtype: torch.dtype) -> torch.dtype:
    """Return the type in which weights of a type are averaged: float32, or their own if wider."""
    return dtype if dtype == torch.float64 or dtype.is_complex else torch.float32
