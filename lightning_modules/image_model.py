"""What all methods share: optimisers, random seeds, logging, weights and checkpoints."""

from __future__ import annotations

import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from degradations.draws import seed_of
from lightning_modules.backbone.frozen import (
    bare_names,
    check_numbers,
    check_sources,
    check_tensors,
    loaded_apart,
    recognised,
    sources,
)
from lightning_modules.optimisation import check_length, optimizer_of, schedule_of, step_schedule
from lightning_modules.plateau import check_plateaus, step_plateaus
from lightning_modules.weights import read_weights

if TYPE_CHECKING:
    from datamodules.base import Batch

log = logging.getLogger(__name__)


def adam(parameters: Iterable[Tensor]) -> torch.optim.Optimizer:
    """Adam with a learning rate of 2e-4, as most super-resolution papers use."""
    return torch.optim.Adam(parameters, lr=2e-4, fused=True)


class ImageModel(LightningModule, ABC):
    """Base of all methods: the command line accepts any subclass.

    Args:
        scale: Factor by which images are enlarged; set by ``data.init_args.scale``.
        optimizer: Makes the optimiser of the trainable parameters.
        lr_scheduler: Makes the learning-rate schedule, stepped once a step (or once a validation
            where it monitors a validation metric); none by default.
        weights: Weights to start from: a file, or a name of ``configs/weights.yaml``, in which
            ``{scale}`` is filled in.

    Raises:
        ValueError: If ``scale`` is not a number of at least 1.
    """

    # Prefixes of parts that only training needs, such as a discriminator. Weights and checkpoints
    # with such parts also load into a model without them.
    training_only: tuple[str, ...] = ()

    def __init__(
        self,
        scale: float,
        optimizer: OptimizerCallable = adam,
        lr_scheduler: LRSchedulerCallable | None = None,
        weights: str | None = None,
    ) -> None:
        super().__init__()
        number = isinstance(scale, int | float) and not isinstance(scale, bool)
        if not number or not math.isfinite(scale) or scale < 1:
            raise ValueError(
                f"{type(self).__name__} got scale {scale!r}; it must be a number of at least 1: "
                "set data.init_args.scale"
            )
        self.scale = float(scale)
        self.optimizer, self.lr_scheduler, self.weights = optimizer, lr_scheduler, weights
        self._in_batch = False  # of training
        self._logs_batch = False  # whether this batch's values go to Lightning
        self._unlogged: dict[str, tuple[Any, dict[str, Any]]] = {}  # values and arguments, by name
        # The weights that were loaded; None while all are as initialised.
        self.weights_source: str | None = None
        self.noise_seed = 0  # the run's seed: selects the output of a stochastic method
        self.drew_noise = False  # whether any output has depended on it so far

    @abstractmethod
    def training_step(self, batch: Batch, batch_idx: int) -> Tensor | None:
        """One step of the paper's training algorithm.

        Args:
            batch: ``hr`` (B, 3, H, W) and ``lr`` (B, 3, h, w), float32 in [0, 1].
            batch_idx: Number of the batch in this epoch.

        Returns:
            The loss, a scalar.
        """

    @property
    def needs_weights(self) -> bool:
        """Whether all weights are as initialised, so that outputs would be meaningless."""
        return self.weights_source is None and any(True for _ in self.parameters())

    def _own_seeds(self, batch: Batch) -> Batch:
        """Return ``batch`` with seeds for the method's own noise.

        The degradation uses the images' seeds, which are the same in all runs. Another
        ``noise_seed`` therefore changes only what the method draws.
        """
        seeds = [seed_of(self.noise_seed, "model", int(seed)) for seed in batch["seed"]]
        return cast("Batch", {**batch, "seed": torch.tensor(seeds, dtype=torch.int64)})

    # -------------------------------------------------------------------------------- optimisation

    def optimized(self) -> Sequence[Tensor] | Sequence[dict[str, Any]]:
        """Return all trainable parameters, or groups of them with their own settings."""
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    def configure_optimizers(self) -> Any:
        """Return the optimiser, and the schedule that is stepped once a step.

        Raises:
            ValueError: If nothing is trainable, the schedule monitors a value without a name, or
                one of the two classes refuses its arguments.
        """
        trainable = self.optimized()
        if not trainable:
            raise ValueError(
                f"{class_path(self)} has no trainable parameters: use test or predict, or another "
                "model.class_path for fit"
            )
        optimizer = optimizer_of(self.optimizer, trainable)
        if self.lr_scheduler is None:
            return optimizer
        schedule = schedule_of(self.lr_scheduler, optimizer)
        return {"optimizer": optimizer, "lr_scheduler": schedule}

    def on_train_start(self) -> None:
        """Raise if the schedule cannot be followed. Subclasses must call super() first."""
        check_plateaus(self.trainer)
        check_length(self.trainer)

    def lr_scheduler_step(self, scheduler: Any, metric: Any | None) -> None:
        """Step as Lightning does, with a clear error if the schedule fails."""
        step_schedule(super().lr_scheduler_step, scheduler, metric)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Seed torch's generators by the samples of this batch. Subclasses must call super() first.

        A sample's seed is a hash of (run seed, epoch, position in the plan). So every rank and
        every batch differs, and a resumed run draws the same numbers as an uninterrupted one.
        """
        trainer = self._trainer
        # With overfit_batches, repeated batches draw new noise in each epoch.
        repeated = getattr(trainer, "overfit_batches", 0)
        again = (self.trainer.current_epoch,) if repeated else ()
        seed = seed_of("model", batch["seed"].numpy().tobytes(), *again)
        # torch.manual_seed records the call stack each time while CUDA is not initialised.
        torch.default_generator.manual_seed(seed)
        if self.device.type != "cpu":
            torch.get_device_module(self.device).manual_seed(seed)
        if trainer is not None:
            # The first batch: errors appear early. The last: callbacks read it after the epoch.
            first_or_last = batch_idx == 0 or trainer.is_last_batch
            self._logs_batch = first_or_last or _writes_step(trainer)
            self._in_batch = True

    def on_validation_start(self) -> None:
        """Stop synchronising the ranks, which may have different numbers of images."""
        self._synchronise_buffers(False)

    def on_validation_end(self) -> None:
        """Synchronise again, and step the schedules that monitor this validation."""
        self._synchronise_buffers(True)
        step_plateaus(self.trainer)

    def _synchronise_buffers(self, synchronise: bool) -> None:
        # In `fit`, validation goes through the DDP wrapper, which broadcasts the buffers before
        # every forward pass: the other ranks would wait forever for one with fewer images.
        wrapper = self.trainer.strategy.model
        if isinstance(wrapper, DistributedDataParallel):
            wrapper.require_forward_param_sync = synchronise

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Log the values of the steps that are written. Subclasses must call super()."""
        self._in_batch = False
        trainer = self.trainer
        # Lightning also writes this step if a callback has just stopped the run.
        if self._logs_batch or trainer.should_stop or trainer.global_step == trainer.max_steps:
            for name, (value, how) in self._unlogged.items():
                # On the CPU; otherwise the progress bar would wait for the device at every batch.
                super().log(name, value.cpu() if isinstance(value, Tensor) else value, **how)
            self._unlogged.clear()

    def log(self, name: str, value: Any, *args: Any, **kwargs: Any) -> None:
        """Log as Lightning does, with the same numbers at the same steps, at less cost.

        Lightning takes about 0.1 ms for each value at each batch. So the values of a training batch
        are passed on only at the steps that are written (``trainer.log_every_n_steps``), unless
        they are accumulated over the epoch or reduced over ranks.
        """
        accumulates = kwargs.get("on_epoch") or kwargs.get("on_step") is False
        if not self._in_batch or accumulates or args or kwargs.get("sync_dist"):
            super().log(name, value, *args, **kwargs)
        else:
            self._unlogged[name] = value.detach() if isinstance(value, Tensor) else value, kwargs

    # ------------------------------------------------------------------------------------- weights

    def load_parts(self, find: Callable[[str, str], Path]) -> None:
        """Load frozen parts that have their own files, before the weights of the whole model.

        Args:
            find: Returns the file for an argument's name and value. The value is a path, the
                folder of a run, or a name of ``configs/weights.yaml``.
        """

    def load_weights(self, path: str | Path) -> None:
        """Load weights without optimiser state.

        Args:
            path: Our checkpoint (EMA weights are preferred), an exported file, or an official one.

        Raises:
            FileNotFoundError: If the file is missing.
            ValueError: If the weights belong to another method or to other frozen weights, or
                tensors are missing, unexpected, of another shape, or hold NaN.
        """
        weights = read_weights(path)
        if weights.model not in (None, class_path(self)):
            raise ValueError(
                f"{path} was trained with {weights.model}, but the model here is "
                f"{class_path(self)}: set model.class_path to that, or name another file"
            )
        frozen = weights.frozen.items()
        check_sources(self, {k: v for k, v in frozen if not f"{k}.".startswith(self.unchecked)})
        state = weights.tensors if weights.model else self._named(weights.tensors)
        state = recognised(self, state, str(path))
        own = self.state_dict()
        state = self._needed(state, own)
        trained = set(self.checkpoint_keys())
        missing = [k for k in own if k not in state and (k in trained or not weights.model)]
        if weights.model:  # parts that only training needs may be missing; they start anew
            missing = [k for k in missing if not k.startswith(self.training_only)]
        check_tensors(path, own, state, missing, lambda: self._explained(state))
        check_numbers(str(path), state)
        self.load_state_dict({**own, **state})
        self.weights_source = weights.name
        log.info("weights: %s", weights.name)

    def import_official(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Map the tensors of the authors' file to this model's names.

        Override this if such a file exists. Return all tensors of the model, with the current ones
        of a frozen part that has another source. Files with this model's names are not mapped.

        Args:
            tensors: Tensors by the names in the file.

        Returns:
            Tensors by this model's names.
        """
        return tensors

    def scale_of(self, tensors: dict[str, Tensor]) -> float | None:
        """Return the scale of tensors that do not fit this model; None if unknown.

        Args:
            tensors: Tensors by this model's names.
        """
        return None

    def _explained(self, tensors: dict[str, Tensor]) -> str:
        scale = self.scale_of(tensors)
        if scale is None:
            return ""
        return (
            f"They are weights for x{scale:g}, and data.init_args.scale is {self.scale:g}: set it "
            f"to {scale:g}, or name weights for x{self.scale:g}"
        )

    def _named(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        bare = bare_names(tensors)
        if self.state_dict().keys().isdisjoint(bare):
            return self.import_official(tensors)
        return {**self._not_exported(), **bare}  # our file, without metadata

    @property
    def unchecked(self) -> tuple[str, ...]:
        """Prefixes of frozen parts that may differ from those the weights were trained with."""
        return self.training_only

    def _not_exported(self) -> dict[str, Tensor]:
        # Frozen parts with their own files, and parts that only training needs.
        apart = tuple(f"{part}." for part in loaded_apart(self))
        trained = set(self.checkpoint_keys())
        return {
            name: own
            for name, own in self.state_dict().items()
            if name.startswith(self.training_only)
            or (name not in trained and name.startswith(apart))
        }

    def _needed(self, state: dict[str, Tensor], own: Iterable[str]) -> dict[str, Tensor]:
        absent = tuple(p for p in self.training_only if not any(k.startswith(p) for k in own))
        return {k: v for k, v in state.items() if not k.startswith(absent)}

    def checkpoint_keys(self) -> list[str]:
        """Return the names that a checkpoint holds: trained parameters and their buffers.

        A buffer belongs to the nearest enclosing module with parameters. So running statistics
        without weights of their own train with their network, and those in a frozen network do not.
        """
        parameters = dict(self.named_parameters(remove_duplicate=False))
        trains: dict[str, bool] = {}
        for name, parameter in parameters.items():
            for module in _around(name):
                trains[module] = trains.get(module, False) or parameter.requires_grad
        return [
            name
            for name in self.state_dict()
            if (
                parameters[name].requires_grad
                if name in parameters
                else next((trains[module] for module in _around(name) if module in trains), True)
            )
        ]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep only what training changes; frozen parts are stored by the name of their source."""
        keys = set(self.checkpoint_keys())
        checkpoint["state_dict"] = {k: v for k, v in checkpoint["state_dict"].items() if k in keys}
        checkpoint["model"], checkpoint["frozen"] = class_path(self), sources(self)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Check the checkpoint, and add the frozen parts of this model to it.

        Raises:
            ValueError: If the checkpoint belongs to another method, another network size, or other
                frozen weights.
        """
        model = checkpoint.get("model")
        if model != class_path(self):
            raise ValueError(
                f"the checkpoint was trained with {model or 'an unnamed model'}, but "
                f"the model here is {class_path(self)}: set model.class_path to that"
            )
        check_sources(self, checkpoint.get("frozen", {}))
        state = recognised(self, checkpoint["state_dict"], "the checkpoint")
        own = self.state_dict()
        state = self._needed(state, own)
        missing = [k for k in self.checkpoint_keys() if k not in state]
        check_tensors("the checkpoint", own, state, missing, lambda: self._explained(state))
        checkpoint["state_dict"] = {**own, **state}


def class_path(model: nn.Module) -> str:
    """Return the import path of a model's class, as configurations name it."""
    return f"{type(model).__module__}.{type(model).__qualname__}"


def _writes_step(trainer: Any) -> bool:
    # Lightning's own condition. No public counter equals its count of steps with accumulation, two
    # optimisers, skipped updates, and resumed runs with another accumulation.
    return bool(trainer.fast_dev_run or trainer._logger_connector.should_update_logs)


def _around(name: str) -> list[str]:
    """Return the names of the modules around a tensor, from the inside to the root ("")."""
    parts = name.split(".")[:-1]
    return [".".join(parts[:n]) for n in range(len(parts), -1, -1)]
