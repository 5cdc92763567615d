"""ImageModel, SuperResolver and Generator: the contracts of a method.

Your own method is a subclass of ``SuperResolver`` with ``training_step`` and ``restore``, or of
``Generator`` with ``training_step`` and ``generate``. Validation, test and prediction are here;
everything else is in ``ImageModel``.
"""

from __future__ import annotations

import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from fractions import Fraction
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, final

import torch
import torch.distributed as dist
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from degradations.draws import seed_of
from files.class_path import class_path
from files.method import Method
from files.tensors import bare_names, check_numbers
from lightning_modules.lightning_internals import writes_step
from lightning_modules.noise import Noise, PlacedNoise, Size
from lightning_modules.optimisation import (
    VALIDATED,
    adam,
    average_gradients,
    check_length,
    check_plateaus,
    evaluation_weights,
    optimizer_of,
    schedule_of,
    step_plateaus,
    step_schedule,
    with_modes,
)
from lightning_modules.sampling.color import KINDS, ColorFix, fix_colors
from lightning_modules.sampling.tiling import (
    Tiling,
    Window,
    grid,
    halved_when_full,
    padded,
    restore_tiled,
    tiled,
    whole,
)
from lightning_modules.sampling.together import Together, check_same
from lightning_modules.weights import (
    EVALUATED,
    Weights,
    check_sources,
    check_tensors,
    compare_part,
    loaded_apart,
    read_weights,
    recognised,
    shape_text,
    sources,
)

if TYPE_CHECKING:
    from files.batch import Batch
    from lightning_modules.backbone.condition import Texts
    from lightning_modules.backbone.space import Space

log = logging.getLogger(__name__)
PROCESSES = {"process", "schedule"}  # arguments with `settings`


class ImageModel(Method, LightningModule, ABC):
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

    # Whether outputs can be computed with all weights in half precision, and whether these can be
    # trained: rounding would lose most of each step, except with an optimiser that keeps the rest.
    half_outputs = True
    half_training = False
    latent_pairs = False  # whether it trains on pairs of latents (`main.py encode --encode.pairs`)

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
        self.initial_weights = weights
        self._make_optimizer, self._make_schedule = optimizer, lr_scheduler
        self._has_trained = False
        # While `fit` validates: weights of an optimiser with `train()` and `eval()`.
        self._evaluated: list[tuple[Tensor, Tensor]] = []  # parameters, and those for evaluation
        self._trained: list[Tensor] = []  # those for training
        self._in_batch = False  # of training
        self._logs_batch = False  # whether this batch's values go to Lightning
        self._unlogged: dict[str, tuple[Any, dict[str, Any]]] = {}  # values and arguments, by name
        self.loaded_with: dict[str, Any] = {}  # what is known of their `trained_with`

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
    def default_steps(self) -> int | None:
        """Sampling steps, which the page of ``app`` lets visitors change; None for none."""
        return None

    def arguments_for_steps(self, steps: int) -> dict[str, Any]:
        """Return the constructor's arguments for another number of sampling steps.

        Args:
            steps: At least 1.

        Raises:
            ValueError: If the method cannot take so many.
        """
        return {"steps": steps}

    @property
    def latent_space(self) -> Space | None:
        """Space of the latents that ``main.py encode`` writes; None if the method has none."""
        return None

    @property
    def caption_encoder(self) -> Texts | None:
        """Encoder whose caption features ``encode --encode.texts`` writes, if any."""
        return None

    def enlarged_lr(self, lr: Tensor, size: Size) -> Tensor:
        """Return the image of the second latent of a pair, (B, 3, H, W).

        Args:
            lr: (B, 3, h, w) in [0, 1].
            size: (H, W).
        """
        raise NotImplementedError(f"{type(self).__name__} does not train on pairs of latents")

    @property
    def needs_weights(self) -> bool:
        """Whether all weights are as initialised, so that outputs would be meaningless."""
        return self.weights_source is None and any(True for _ in self.parameters())

    def _own_seeds(self, batch: Batch) -> Batch:
        """Return ``batch`` with seeds for the method's own noise.

        The degradation uses the images' seeds, which are the same in all runs. Another
        ``noise_seed`` therefore changes only what the method draws.
        """
        seeds = [seed_of(self.noise_seed, "model", seed) for seed in seeds_of(batch).tolist()]
        return cast("Batch", {**batch, "seed": torch.tensor(seeds, dtype=torch.int64)})

    @torch.no_grad()
    def first_batches(self, count: int) -> Iterator[Batch]:
        """Yield the first batches of training, on the model's device, to measure something.

        The position of the data module, and its pair pool, do not change.

        Args:
            count: Maximum number of batches, on each rank.
        """
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        if not hasattr(data, "apart_from_training"):  # not ours
            self.trainer.fit_loop.setup_data()
            with torch.random.fork_rng(devices=[]):  # the order of a loader comes from it
                loader: Any = self.trainer.train_dataloader
                for batch in islice(loader, count):
                    yield self.trainer.strategy.batch_to_device(batch, self.device)
            return
        with data.apart_from_training():
            for batch in islice(data.train_dataloader(), count):
                kept = {k: v for k, v in batch.items() if k not in ("skipped", "seconds")}
                moved = data.transfer_batch_to_device(kept, self.device, 0)
                yield data.on_after_batch_transfer(moved, 0)

    def transfer_batch_to_device(
        self, batch: Any, device: torch.device, dataloader_idx: int
    ) -> Any:
        """Move a batch of any DataLoader; ``seed`` stays on the host, where it is used."""
        kept = {"seed": batch["seed"]} if isinstance(batch, dict) and "seed" in batch else {}
        moving = {k: v for k, v in batch.items() if k not in kept} if kept else batch
        moved = super().transfer_batch_to_device(moving, device, dataloader_idx)
        return {**moved, **kept} if kept else moved

    # Lightning looks through wrappers; otherwise it would warn of data modules with this hook.
    transfer_batch_to_device.__wrapped__ = LightningModule.transfer_batch_to_device  # type: ignore[attr-defined]

    def setup(self, stage: str) -> None:
        """Raise if weights are in half precision where they cannot be. Subclasses call super().

        Raises:
            ValueError: If ``trainer.precision`` is bf16-true or 16-true, and this method cannot
                train, or compute outputs, in it.
        """
        super().setup(stage)
        precision = getattr(self._trainer, "precision", None)
        if precision not in ("bf16-true", "16-true"):
            return
        trains = stage == "fit"
        if not (self.half_training if trains else self.half_outputs):
            reason = (
                "trained weights would lose most of each step by rounding"
                if trains
                else f"{type(self).__name__} does not convert its images"
            )
            raise ValueError(
                f"trainer.precision is {precision}, which converts all weights, and {reason}: set "
                f"it to {precision.removesuffix('true')}mixed"
            )

    def configure_model(self) -> None:
        """Do nothing: constructors make all parts. Lightning requires the hook to shard them."""

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
                f"{class_path(type(self))} has no trainable parameters: use test or predict, "
                "or another model.class_path for fit"
            )
        optimizer = optimizer_of(self._make_optimizer, trainable)
        if self._make_schedule is None:
            return optimizer
        schedule = schedule_of(self._make_schedule, optimizer)
        return {"optimizer": optimizer, "lr_scheduler": schedule}

    def optimizer_step(
        self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None
    ) -> None:
        """Step by the mean loss, also with the fewer batches that an epoch's end leaves."""
        planned = self.trainer.accumulate_grad_batches

        def closure() -> Any:
            loss = optimizer_closure()
            average_gradients(optimizer, planned, batch_idx % planned + 1)
            return loss

        super().optimizer_step(epoch, batch_idx, optimizer, closure)

    def on_train_start(self) -> None:
        """Raise if the schedule cannot be followed. Subclasses must call super() first."""
        check_plateaus(self.trainer)
        check_length(self.trainer)
        for optimizer in with_modes(self.trainer):
            optimizer.train()
        self._has_trained = False

    def on_train_end(self) -> None:
        """Leave the weights for evaluation, if they are others. Subclasses must call super()."""
        self._has_trained = True
        for optimizer in with_modes(self.trainer) if self._fits else ():
            optimizer.eval()

    @torch.no_grad()
    def on_validation_model_eval(self) -> None:
        """Also use the weights for evaluation in ``fit``. Subclasses must call super()."""
        super().on_validation_model_eval()
        if self._fits and not self.trainer.sanity_checking:
            self._evaluated = evaluation_weights(self.trainer)
            self._trained = [p.detach().clone() for p, _ in self._evaluated]
            for parameter, weights in self._evaluated:
                parameter.copy_(weights)

    @torch.no_grad()
    def on_validation_model_train(self) -> None:
        """Restore the weights for training. Subclasses must call super()."""
        super().on_validation_model_train()
        for (parameter, _), trained in zip(self._evaluated, self._trained, strict=True):
            parameter.copy_(trained)
        self._evaluated, self._trained = [], []

    def lr_scheduler_step(self, scheduler: Any, metric: Any | None) -> None:
        """Step as Lightning does, by the mean of all processes, with a clear error if it fails."""
        if metric is not None and not str(getattr(scheduler, "monitor", "")).startswith(VALIDATED):
            # A process has its own values of training; by these, learning rates would differ.
            metric = self.trainer.strategy.reduce(torch.as_tensor(metric), reduce_op="mean")
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
        seed = seed_of("model", seeds_of(batch).numpy().tobytes(), *again)
        # torch.manual_seed records the call stack each time while CUDA is not initialised.
        torch.default_generator.manual_seed(seed)
        if self.device.type != "cpu":
            torch.get_device_module(self.device).manual_seed(seed)
        if trainer is not None:
            # The first batch: errors appear early. The last: callbacks read it after the epoch.
            first_or_last = batch_idx == 0 or trainer.is_last_batch
            self._logs_batch = first_or_last or writes_step(trainer)
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
                tensors are missing, unexpected, of another shape, or no finite floating-point
                numbers.
        """
        weights = read_weights(path)
        if weights.model not in (None, class_path(type(self))):
            raise ValueError(
                f"{path} was trained with {weights.model}, but the model here is "
                f"{class_path(type(self))}: set model.class_path to that, or name another file"
            )
        self.compare(weights)
        frozen = weights.frozen.items()
        check_sources(self, {k: v for k, v in frozen if not f"{k}.".startswith(self.unchecked)})
        state = weights.tensors if weights.model else self._named(weights.tensors)
        state = recognised(self, state, str(path))
        own = self.state_dict()
        state = self._needed(state, own)
        trained = set(self.checkpoint_keys())
        missing = [k for k in own if k not in state and (k in trained or not weights.model)]
        if weights.model:  # parts that only training needs may be missing; they start untrained
            missing = [k for k in missing if not k.startswith(self.training_only)]
        check_tensors(path, own, state, missing, lambda: self._explained(state))
        check_numbers(str(path), state, own)
        self.load_state_dict({**own, **state})
        self.weights_source, self.loaded_with = weights.name, weights.trained_with
        weights.log()

    @property
    def trained_with(self) -> dict[str, Any]:
        """Settings that weights are trained with and tensors do not show, of plain types.

        They are stored in checkpoints and exported files, for ``compare``. ``process`` and
        ``schedule`` are the ``settings`` of the attributes of these names.
        """
        return {}

    def compare(self, weights: Weights) -> None:
        """Warn if weights were trained with another process or schedule, which tensors do not show.

        Args:
            weights: The weights that are about to be loaded.
        """
        for name in PROCESSES & self.trained_with.keys():
            compare_part(weights, name, getattr(self, name))

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
        if scale is None or scale == self.scale:  # the scale is not the reason
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
        checkpoint["model"], checkpoint["frozen"] = class_path(type(self)), sources(self)
        checkpoint["trained_with"] = self.trained_with
        if self._fits and not self._has_trained:
            self._keep_both_weights(checkpoint)

    @property
    def _fits(self) -> bool:
        return isinstance(self._trainer, Trainer) and self._trainer.state.fn == "fit"

    def _keep_both_weights(self, checkpoint: dict[str, Any]) -> None:
        # A resumed run needs the exact weights for training; all others, those for evaluation.
        evaluated = self._evaluated or evaluation_weights(self.trainer)
        names = dict(self.named_parameters(remove_duplicate=False)).items()
        places = {id(parameter): n for n, (parameter, _) in enumerate(evaluated)}
        found = {name: places[id(p)] for name, p in names if id(p) in places}
        if found:
            checkpoint[EVALUATED] = {name: evaluated[n][1] for name, n in found.items()}
        if self._trained:  # the checkpoint is written during a validation
            checkpoint["state_dict"] |= {name: self._trained[n] for name, n in found.items()}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Check the checkpoint, and add the frozen parts of this model to it.

        Raises:
            ValueError: If the checkpoint belongs to another method, another network size, or other
                frozen weights.
        """
        model = checkpoint.get("model")
        if model != class_path(type(self)):
            raise ValueError(
                f"the checkpoint was trained with {model or 'an unnamed model'}, but "
                f"the model here is {class_path(type(self))}: set model.class_path to that"
            )
        check_sources(self, checkpoint.get("frozen", {}))
        evaluated = {} if self._fits else checkpoint.get(EVALUATED, {})
        state = recognised(self, {**checkpoint["state_dict"], **evaluated}, "the checkpoint")
        own = self.state_dict()
        state = self._needed(state, own)
        missing = [k for k in self.checkpoint_keys() if k not in state]
        check_tensors("the checkpoint", own, state, missing, lambda: self._explained(state))
        check_numbers("the checkpoint", state, own)
        checkpoint["state_dict"] = {**own, **state}


def seeds_of(batch: Any) -> Tensor:
    """Return the seeds of a batch's samples, (B,) int64 on the host.

    Args:
        batch: A batch of any DataLoader.

    Raises:
        ValueError: If it has none.
    """
    if "seed" not in batch:
        raise ValueError(
            "the batch has no seed: give each sample an integer, from which all of its noise "
            "follows, or use datamodules.SRDataModule (docs/plugins/method.md lists what a batch "
            "has)"
        )
    return torch.as_tensor(batch["seed"], dtype=torch.int64).cpu()


def _around(name: str) -> list[str]:
    """Return the names of the modules around a tensor, from the inside to the root ("")."""
    parts = name.split(".")[:-1]
    return [".".join(parts[:n]) for n in range(len(parts), -1, -1)]


class NothingToTrain:
    """Goes before the base class of a method that is only tested; ``fit`` is refused.

    Attributes:
        instead: What to do instead, for the message.
    """

    instead = "use test or predict, or another model.class_path for fit"

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Raise: there is nothing to train.

        Raises:
            ValueError: Always.
        """
        raise ValueError(f"{type(self).__name__} has nothing to train: {self.instead}")


class SuperResolver(ImageModel):
    """A method that enlarges a given image.

    Args:
        scale: Factor by which images are enlarged; set by ``data.init_args.scale``.
        color_fix: How outputs get the colours of LR; see ``lightning_modules.sampling.color``.

    Raises:
        ValueError: If ``color_fix`` is unknown.
    """

    # Sides of the LR and of the output in pixels. In prediction, larger images go through
    # overlapping tiles.
    tile, tile_output = 512, 1024
    tile_least = 1  # LR pixels; `restore` pads smaller tiles to this
    tile_overlap = 32  # LR pixels
    tile_window: Window = "linear"
    # LR pixels; `restore` pads to multiples of this. Tiles of at least four times this start at
    # multiples and have such sides; otherwise latents of two tiles would not share one lattice.
    tile_multiple = 1
    tile_always = False  # whether validation and test go through tiles too
    tiles_latents = False  # whether `restore` uses `in_tiles`, for `tiling.where: latent`
    color_share = 0.5  # of wavelet, with `color_fix: blend`
    # Whether `restore` is one pass of a network, at any size and without noise, so that it can be
    # exported to ONNX.
    one_pass = False

    def __init__(
        self,
        scale: float,
        color_fix: ColorFix = "none",
        **kwargs: Any,
    ) -> None:
        super().__init__(scale, **kwargs)
        if color_fix not in KINDS:
            raise ValueError(
                f"model.init_args.color_fix is {color_fix!r}; expected {', '.join(KINDS)}"
            )
        self.color_fix: ColorFix = color_fix
        self._tiling, self._tile_count = Tiling(), 1
        self._side: int | None = None  # of its tiles, in LR pixels; None for no tiles
        self._together = False  # whether all processes make them
        self._whole: tuple[Size, Size] | None = None  # LR and output of the image that they are of

    @abstractmethod
    def restore(self, batch: Batch, noise: Noise) -> Tensor:
        """Enlarge ``batch["lr"]`` by the paper's sampling algorithm.

        Args:
            batch: ``lr`` (B, 3, h, w) float32 in [0, 1] and ``size``, the (H, W) of the output.
            noise: The only source of randomness.

        Returns:
            (B, 3, H, W), about [0, 1]; the caller clamps it.
        """

    @property
    @final
    def tiling(self) -> Tiling:
        """How large images are cut into tiles: the command line's group ``tiling``."""
        return self._tiling

    @final
    def set_tiling(self, tiling: Tiling) -> None:
        """Set how large images are cut into tiles."""
        self._tiling = tiling

    @property
    def tiles_are_shared(self) -> bool:
        """Whether all processes make the tiles of each image of ``predict`` together."""
        return self.tiling.together

    @property
    def output_settings(self) -> dict[str, str | int | float]:
        """Settings that change outputs of the same weights; they label results.

        Subclasses add their own.
        """
        found: dict[str, str | int | float] = {}
        if self.color_fix != "none":
            found["color_fix"] = self.color_fix
        if self.tile_always:  # tiles only in prediction change no metric
            found |= self.tiling.options
        return found

    def color_reference(self, batch: Batch) -> Tensor:
        """The LR image whose colours ``color_fix`` takes, (B, 3, h, w) in [0, 1]."""
        return batch["lr"]

    @torch.no_grad()
    def enlarge(self, batch: Batch, tiled: bool = False) -> dict[str, Tensor]:
        """Restore, check, clamp and correct colours.

        Noise depends on the position in the image, whether it is enlarged whole or in tiles. So
        tiles change an output only as far as a method looks beyond the border of a tile.

        Args:
            batch: Batch as for ``restore``.
            tiled: Whether large images go through tiles, which are halved if a GPU runs out of
                memory. Tiles in evaluation (``tile_always``) are never halved.

        Returns:
            ``{"sr": (B, 3, H, W) float32 in [0, 1]}``.

        Raises:
            ValueError: If LR is missing, ``restore`` returns another size, the method has no tiles
                of latents, or the tiles are too small for it.
        """
        if "lr" not in batch:
            raise ValueError(
                f"{type(self).__name__} enlarges images, and {batch['key'][0]} has no LR: set "
                "images in data.init_args, such as data.init_args.predict FOLDER"
            )
        batch = self._own_seeds(batch)
        self._together = tiled and self.tiling.together and dist.is_initialized()
        if self.tiling.where == "latent" and not self.tiles_latents:
            raise ValueError(
                f"tiling.where is latent, and {type(self).__name__} has no tiles of latents: set "
                "it to pixels"
            )
        side = self._tile_side(batch) if tiled or self.tile_always else None
        if side is None or not tiled or self.tiling.size != "auto":
            sr = self._at_side(batch, side)
        else:
            sr = halved_when_full(partial(self._at_side, batch), side, self._least_side)
        return {"sr": fix_colors(sr, self.color_reference(batch), self.color_fix, self.color_share)}

    def in_tiles(
        self,
        function: Callable[[Tensor], Tensor],
        x: Tensor,
        per_lr: float = 1,
        factor: int | Fraction = 1,
        multiple: int = 1,
    ) -> Tensor:
        """Apply a part of ``restore``, in tiles if ``tiling.where`` is ``latent``.

        Args:
            function: An encoder, a decoder, or a denoiser at one step; as in ``tiling.tiled``.
            x: Input (B, C, h, w).
            per_lr: Pixels of ``x`` per LR pixel, along a side.
            factor: Factor by which ``function`` enlarges.
            multiple: Tiles start at multiples of so many pixels of ``x``.

        Returns:
            (B, C', factor h, factor w).
        """
        if self._side is None or self.tiling.where == "pixels":
            return function(x)
        tile, overlap = (math.ceil(n * per_lr) for n in (self._side, self._overlap))
        how = (self._window, factor, multiple, self.tiling.batch)
        return tiled(function, x, tile, overlap, *how)

    def _at_side(self, batch: Batch, side: int | None) -> Tensor:
        self._tile_count, self._side = 1, side
        h, w = batch["lr"].shape[-2:]
        if side and max(h, w) > side and self.tiling.where == "pixels":
            return self._in_pixel_tiles(batch, side)
        if not self._together:
            return self._restored(batch, self.whole_noise(batch))
        tile = whole((h, w), batch["size"])  # made by one process, so that none waits for another
        make = Together(
            lambda _: self._restored(batch, self.whole_noise(batch)), [[tile]], batch["lr"]
        )
        return make([tile])

    def whole_noise(self, batch: Batch) -> Noise:
        """Return the noise of images that are enlarged in one piece.

        Args:
            batch: Batch with the method's own seeds.
        """
        lr = batch["lr"]
        places = [whole((lr.shape[-2], lr.shape[-1]), batch["size"])] * len(batch["seed"])
        return PlacedNoise(batch["seed"], places, lr.device)

    def _in_pixel_tiles(self, batch: Batch, side: int) -> Tensor:
        (h, w), (H, W) = batch["lr"].shape[-2:], batch["size"]
        unit = self.tile_multiple if 4 * self.tile_multiple <= side else 1
        mirrored, size = padded(batch["lr"]), (H, W)
        if H % h == 0 and W % w == 0:  # so that the last tiles are as large as the others
            # As released with InvSR, a side below the tile's is first mirrored up to it.
            mirrored = padded(batch["lr"], unit, side if self._window == "released" else 1)
            size = mirrored.lr.shape[-2] * (H // h), mirrored.lr.shape[-1] * (W // w)
        inner = (mirrored.lr.shape[-2], mirrored.lr.shape[-1])
        tiles = grid(inner, size, side, self._overlap, self._window, unit)
        self._tile_count = len(tiles)
        trainer = self._trainer
        bar = trainer is not None and trainer.progress_bar_callback is not None
        first = trainer is None or trainer.is_global_zero
        full = cast("Batch", {**batch, "lr": mirrored.lr, "size": size})
        how = (self.tiling.batch, bar and first, self._together)
        self._whole = (h, w), (H, W)
        try:
            sr = restore_tiled(self._restored, full, tiles, *how)
        finally:
            self._whole = None
        return mirrored.crop(sr, (H, W)).clamp_(0, 1)  # weights add up to 1 except for rounding

    @property
    def _overlap(self) -> int:
        return self.tile_overlap if self.tiling.overlap is None else self.tiling.overlap

    @property
    def _window(self) -> Window:
        return self.tiling.window or self.tile_window

    @property
    def _least_side(self) -> int:
        # Latents are padded once, before they are cut into tiles.
        least = self.tile_least if self.tiling.where == "pixels" else 1
        return max(2 * self._overlap, least)

    def _tile_side(self, batch: Batch) -> int:
        asked = self.tiling.size
        if asked != "auto":
            if asked < self.tile_least and self.tiling.where == "pixels":
                raise ValueError(
                    f"tiling.size is {asked}, and {type(self).__name__} pads smaller tiles to "
                    f"{self.tile_least} pixels: set it to {self.tile_least} or more, or to auto"
                )
            return asked
        sides = batch["lr"].shape[-2:]
        factor = max(size / side for size, side in zip(batch["size"], sides, strict=True))
        # With tiles below four overlaps, nearly half of the computation would be discarded.
        least = max(4 * self._overlap, self.tile_least)
        return min(self.tile, max(int(self.tile_output / factor), least))

    def _restored(self, batch: Batch, noise: Noise) -> Tensor:
        sr = self.restore(batch, noise)
        self._drew_noise |= noise.drew
        expected = (len(batch["lr"]), 3, *batch["size"])
        if sr.shape != expected:
            raise ValueError(
                f"{type(self).__name__} made {shape_text(sr.shape)} of {batch['key'][0]} "
                f"({shape_text(batch['lr'].shape)}), expected {shape_text(expected)}: its scale is "
                f"{self.scale:g}; set data.init_args.scale (or the source's) to what it was "
                "trained for"
            )
        return _in_range(sr)

    def validation_step(
        self, batch: Batch, batch_idx: int, dataloader_idx: int = 0
    ) -> dict[str, Tensor]:
        """Restore a validation batch, as ``enlarge``; callbacks measure the output."""
        return self.enlarge(batch)

    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Tensor]:
        """Restore a test batch, as ``enlarge``; callbacks measure the output."""
        return self.enlarge(batch)

    def predict_step(
        self, batch: Batch, batch_idx: int, dataloader_idx: int = 0
    ) -> dict[str, Tensor] | None:
        """Enlarge one image as ``enlarge``, in tiles if it is large; None if it could not be read.

        Raises:
            ValueError: As in ``enlarge``; and if the processes are to make tiles together, and have
                different images.
        """
        if self.tiling.together and dist.is_initialized():
            check_same((batch["key"], "error" in batch))
        return None if "error" in batch else self.enlarge(batch, tiled=True)


class Generator(ImageModel):
    """A method that creates images from noise alone or from text.

    Args:
        scale: Factor between the base's own resolution and the output; set by
            ``data.init_args.scale``.
        optimizer: Makes the optimiser of the trainable parameters.
        lr_scheduler: Makes the learning-rate schedule, which is stepped once a step; by default
            there is none.
        weights: Weights to start from: a file, or a name of ``configs/weights.yaml``.
    """

    @abstractmethod
    def generate(self, batch: Batch, noise: Noise) -> Tensor:
        """Make one image for each key of the batch: the paper's sampling algorithm.

        Args:
            batch: ``key``, ``seed``, ``size``, ``frames`` for clips and, for conditioned methods,
                ``text``.
            noise: The only source of randomness.

        Returns:
            (B, 3, H, W), for clips (B, F, 3, H, W), about [0, 1]; the caller clamps it.
        """

    @torch.no_grad()
    def sample(self, batch: Batch) -> dict[str, Tensor]:
        """Generate, check and clamp.

        Args:
            batch: Batch as for ``generate``.

        Returns:
            ``{"sr": (B, 3, H, W) float32 in [0, 1]}``; for clips (B, F, 3, H, W).

        Raises:
            ValueError: If ``generate`` returns another size.
        """
        batch = self._own_seeds(batch)
        noise = Noise(batch["seed"], self.device)
        images = self.generate(batch, noise)
        self._drew_noise |= noise.drew
        frames = (batch["frames"],) if "frames" in batch else ()
        expected = (len(batch["key"]), *frames, 3, *batch["size"])
        if images.shape != expected:
            raise ValueError(
                f"{type(self).__name__} made {shape_text(images.shape)}, expected "
                f"{shape_text(expected)}"
            )
        return {"sr": _in_range(images)}

    def validation_step(
        self, batch: Batch, batch_idx: int, dataloader_idx: int = 0
    ) -> dict[str, Tensor]:
        """Generate for a validation batch, as ``sample``; callbacks measure the output."""
        return self.sample(batch)

    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Tensor]:
        """Generate for a test batch, as ``sample``; callbacks measure the output."""
        return self.sample(batch)

    def predict_step(
        self, batch: Batch, batch_idx: int, dataloader_idx: int = 0
    ) -> dict[str, Tensor] | None:
        """Generate the images of a batch, as ``sample``; None if it could not be read."""
        return None if "error" in batch else self.sample(batch)


def _in_range(images: Tensor) -> Tensor:
    # Clamping would hide infinity; NaN is counted and reported, and makes a metric NaN.
    images = images.float()
    return torch.where(images.isinf(), torch.nan, images.clamp(0, 1))
