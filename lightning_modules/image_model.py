"""What all methods share: optimisers, randomness, what is logged, weights and checkpoints."""

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
from lightning_modules.plateau import check_plateaus, look_at_plateaus
from lightning_modules.weights import read_weights

if TYPE_CHECKING:
    from datamodules.base import Batch

log = logging.getLogger(__name__)


def adam(parameters: Iterable[Tensor]) -> torch.optim.Optimizer:
    """Adam with a learning rate of 2e-4, what most super-resolution papers start from."""
    return torch.optim.Adam(parameters, lr=2e-4, fused=True)


class ImageModel(LightningModule, ABC):
    """Base of all methods: the command line accepts any subclass.

    Args:
        scale: Factor by which images are enlarged; set by ``data.init_args.scale``.
        optimizer: Makes the optimiser of the trainable parameters.
        lr_scheduler: Makes the learning-rate schedule, which is stepped once a step (one that
            watches a value of validation, once a validation); by default there is none.
        weights: Weights to start from: a file, or a name of ``configs/weights.yaml``, in which
            ``{scale}`` is filled in.

    Raises:
        ValueError: ``scale`` is no number of at least 1.
    """

    # Beginnings of names of parts that only training needs, such as a discriminator. A model may be
    # without them; then they are passed over in weights and checkpoints that have them.
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
        self._unlogged: dict[str, tuple[Any, dict[str, Any]]] = {}  # latest values, and how to log
        # Which weights are in the model; None while they are as initialised.
        self.weights_source: str | None = None
        self.noise_seed = 0  # which of its outputs a stochastic method gives; the run's seed
        self.drew_noise = False  # whether an output has depended on it so far

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
        """Whether the model would give meaningless images, for its weights are as initialised."""
        return self.weights_source is None and any(True for _ in self.parameters())

    def _own_seeds(self, batch: Batch) -> Batch:
        """``batch`` with the seeds of the method's own noise in place of the images'.

        The degradation has drawn from those, which are the same for all runs: with another
        ``noise_seed`` only what the method draws is another.
        """
        seeds = [seed_of(self.noise_seed, "model", int(seed)) for seed in batch["seed"]]
        return cast("Batch", {**batch, "seed": torch.tensor(seeds, dtype=torch.int64)})

    # -------------------------------------------------------------------------------- optimisation

    def optimized(self) -> Sequence[Tensor] | Sequence[dict[str, Any]]:
        """What the optimiser is made of: all trainable parameters.

        A method overrides it for groups of them with settings of their own.
        """
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    def configure_optimizers(self) -> Any:
        """Optimiser of the trainable parameters, and the schedule, stepped once a step.

        Raises:
            ValueError: Nothing is trainable, the schedule waits for a value without a name, or
                either's class refuses its arguments.
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
        """As Lightning's; what the schedule cannot do is a sentence."""
        step_schedule(super().lr_scheduler_step, scheduler, metric)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Key all that the model draws in this batch by the batch's own samples.

        Their seeds are a hash of (run seed, epoch, position in the plan), so every rank and every
        batch differs, and a resumed run draws what the uninterrupted one would have drawn, with
        nothing saved. Who overrides this calls it first.
        """
        trainer = self._trainer
        # With overfit_batches, repeated batches draw new noise in each epoch.
        repeated = getattr(trainer, "overfit_batches", 0)
        again = (self.trainer.current_epoch,) if repeated else ()
        seed = seed_of("model", batch["seed"].numpy().tobytes(), *again)
        # Not torch.manual_seed: where CUDA is not in use, that notes the whole stack at each call.
        torch.default_generator.manual_seed(seed)
        if self.device.type != "cpu":
            torch.get_device_module(self.device).manual_seed(seed)
        if trainer is not None:
            # The first batch shows mistakes early; others read the values of an epoch's last one.
            first_or_last = batch_idx == 0 or trainer.is_last_batch
            self._logs_batch = first_or_last or _writes_step(trainer)
            self._in_batch = True

    def on_validation_start(self) -> None:
        """Let the processes run on their own: they may have differing numbers of images."""
        self._synchronise_buffers(False)

    def on_validation_end(self) -> None:
        """Train in step again, at the rate that this validation calls for."""
        self._synchronise_buffers(True)
        look_at_plateaus(self.trainer)

    def _synchronise_buffers(self, synchronise: bool) -> None:
        # In `fit`, validation goes through the DDP wrapper, which broadcasts the buffers before
        # every forward pass: a process with fewer images than the others would wait for ever.
        wrapper = self.trainer.strategy.model
        if isinstance(wrapper, DistributedDataParallel):
            wrapper.require_forward_param_sync = synchronise

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Log the values of the steps that are written. Subclasses must call super()."""
        self._in_batch = False
        trainer = self.trainer
        # A callback may have stopped the run just now, and then this step is written, too.
        if self._logs_batch or trainer.should_stop or trainer.global_step == trainer.max_steps:
            for name, (value, how) in self._unlogged.items():
                # On the CPU, or the progress bar would wait for the device at every batch.
                super().log(name, value.cpu() if isinstance(value, Tensor) else value, **how)
            self._unlogged.clear()

    def log(self, name: str, value: Any, *args: Any, **kwargs: Any) -> None:
        """Log as Lightning does, with the same numbers at the same steps, but nearly free.

        Lightning takes about 0.1 ms for each value at each batch. Here the values of a training
        batch reach it at the steps that are written (``trainer.log_every_n_steps``), unless they
        are accumulated over the epoch or reduced over ranks.
        """
        accumulates = kwargs.get("on_epoch") or kwargs.get("on_step") is False
        if not self._in_batch or accumulates or args or kwargs.get("sync_dist"):
            super().log(name, value, *args, **kwargs)
        else:
            self._unlogged[name] = value.detach() if isinstance(value, Tensor) else value, kwargs

    # ------------------------------------------------------------------------------------- weights

    def load_parts(self, find: Callable[[str, str], Path]) -> None:
        """Load frozen parts that come from files of their own; before any weights of the whole.

        Args:
            find: The file that an argument of this name means by its value: a path, the folder of
                a run, or a name of ``configs/weights.yaml``.
        """

    def load_weights(self, path: str | Path) -> None:
        """Start from weights only.

        A checkpoint of ours (EMA preferred), an exported file, or an official one.

        Args:
            path: The file.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: Another method's weights, or those that were trained beside other frozen
                ones; or tensors that are missing, unexpected or of another shape, or hold NaN.
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
        if weights.model:  # of a run without what only training needs, which begins afresh then
            missing = [k for k in missing if not k.startswith(self.training_only)]
        check_tensors(path, own, state, missing, lambda: self._explained(state))
        check_numbers(str(path), state)
        self.load_state_dict({**own, **state})
        self.weights_source = weights.name
        log.info("weights: %s", weights.name)

    def import_official(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Map the tensors of the authors' own file onto this model's names.

        Override it where there is such a file. All tensors of the model must come out: a method
        whose frozen part has another source adds that part's own. A file that has names of this
        model does not come here.

        Args:
            tensors: As the file has them.

        Returns:
            Tensors by this model's names.
        """
        return tensors

    def scale_of(self, tensors: dict[str, Tensor]) -> float | None:
        """Return the scale of tensors that do not fit this model, where it can be told.

        Args:
            tensors: By this model's names.
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
        return {**self._not_exported(), **bare}  # a file of ours that does not say so

    @property
    def unchecked(self) -> tuple[str, ...]:
        """Beginnings of names of frozen parts that may be others than weights were trained with."""
        return self.training_only

    def _not_exported(self) -> dict[str, Tensor]:
        # Frozen parts that have files of their own, and what only training needs. Nothing else:
        # what a file lacks is missing.
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
        """What a checkpoint holds: trainable parameters, and buffers of what trains.

        A buffer belongs to the nearest module around it that has parameters in it: running
        statistics without weights of their own train with their network, and what lies within a
        frozen network does not.
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
        """Keep what training changes; frozen parts are named by their source, not stored."""
        keys = set(self.checkpoint_keys())
        checkpoint["state_dict"] = {k: v for k, v in checkpoint["state_dict"].items() if k in keys}
        checkpoint["model"], checkpoint["frozen"] = class_path(self), sources(self)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse another method's checkpoint, and take the frozen parts from this model.

        Raises:
            ValueError: The checkpoint belongs to another method, another size of the network, or
                other frozen weights.
        """
        model = checkpoint.get("model")
        if model != class_path(self):
            raise ValueError(
                f"the checkpoint was trained with {model or 'a model that it does not name'}, but "
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
    """Import path of a model's class, as a configuration names it."""
    return f"{type(model).__module__}.{type(model).__qualname__}"


def _writes_step(trainer: Any) -> bool:
    # Lightning's own test: no public count is right for all of accumulation, two optimisers, a
    # skipped update, and a run that goes on with another accumulation.
    return bool(trainer.fast_dev_run or trainer._logger_connector.should_update_logs)


def _around(name: str) -> list[str]:
    """Names of the modules around a parameter or buffer, from the inside to the root ("")."""
    parts = name.split(".")[:-1]
    return [".".join(parts[:n]) for n in range(len(parts), -1, -1)]
