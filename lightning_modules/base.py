"""ImageModel, SuperResolver and Generator: the contracts of a method.

Your own method is a subclass of ``SuperResolver`` with ``training_step`` and ``restore``, or of
``Generator`` with ``training_step`` and ``generate``. What all methods share is elsewhere:
optimisers and schedules in ``optimisation.py``, weights and checkpoints in ``loading.py``, tiles
and colours in ``sampling/enlarging.py``.
"""

from __future__ import annotations

import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from itertools import islice
from typing import Any, Self, cast

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn

from degradations.draws import seed_of
from degradations.images import as_tensor
from files.batch import Batch
from files.own_modules import class_path
from files.weights import shape_text
from lightning_modules.backbone.condition import Texts
from lightning_modules.backbone.space import Space
from lightning_modules.loading import Loaded
from lightning_modules.networks.running import Frozen, freeze, to_channels_last
from lightning_modules.noise import Noise, Size, seeds_of, with_noise_seeds
from lightning_modules.optimisation import Optimised, adam
from lightning_modules.parallel import refuse_other_results
from lightning_modules.sampling.color import ColorFix
from lightning_modules.sampling.enlarging import InTiles, in_range
from lightning_modules.sampling.probing import is_slow_in_bf16
from lightning_modules.trainer import trainer_of

log = logging.getLogger(__name__)
Output = dict[str, Tensor]  # of a step: ``sr``, the images


class ImageModel(Loaded, Optimised, ABC):
    """Base of all methods: the command line accepts any subclass.

    Args:
        scale: Factor by which images are enlarged; set by ``data.init_args.scale``.
        optimizer: Makes the optimiser of the trainable parameters.
        lr_scheduler: Makes the learning-rate schedule, stepped once a step (or once an epoch
            where it monitors a validation metric); none by default.
        weights: Weights to start from: a file, or a name of ``configs/weights.yaml``, in which
            ``{scale}`` is filled in.
        weights_strict: Refuse ``weights`` unless all tensors fit. False: training starts from those
            that fit; the others are listed in the log and in ``weights.json`` of the run.

    Raises:
        ValueError: If ``scale`` is below 1.
    """

    # Whether outputs can be computed with all weights in half precision. These are never trained:
    # rounding would lose most of each step.
    half_outputs = True
    # Attributes that train; all other parts are frozen, in evaluation mode. None: all parts train
    # but those that are `Frozen`, as losses are.
    trained_parts: tuple[str, ...] | None = None
    latent_pairs = False  # whether it trains on pairs of latents (`main.py encode --encode.pairs`)

    def __init__(
        self,
        scale: float,
        optimizer: OptimizerCallable = adam,
        lr_scheduler: LRSchedulerCallable | None = None,
        weights: str | None = None,
        weights_strict: bool = True,
    ) -> None:
        super().__init__(optimizer, lr_scheduler)
        if not isinstance(scale, int | float) or not 1 <= scale < math.inf:
            raise ValueError(
                f"{type(self).__name__} got scale {scale!r}; it must be a number of at least 1: "
                "set data.init_args.scale"
            )
        self.scale = float(scale)
        self.initial_weights = weights
        self.weights_strict = weights_strict
        self._random_states: list[Tensor] = []
        self._averages_logs = False

    @property
    def trains(self) -> bool:
        """Whether a part trains on which outputs depend."""
        if self.trained_parts is None:
            return True
        for name in self.trained_parts:
            if f"{name}.".startswith(self.training_only):
                continue
            if getattr(self, name, None) is not None:
                return True
        return False

    @property
    def uses_last_weights(self) -> bool:
        """Whether the last weights are the result, not those of the best PSNR.

        PSNR falls as a generative method learns detail, so the best ones would be too early.
        """
        return True

    @property
    def needs_weights(self) -> bool:
        """Whether outputs would be meaningless, because what trains is as initialised."""
        return self.trains and super().needs_weights

    @abstractmethod
    def training_step(self, batch: Batch, batch_idx: int) -> Tensor | None:
        """One step of the paper's training algorithm.

        Args:
            batch: ``hr`` (B, 3, H, W) and ``lr`` (B, 3, h, w), float32 in [0, 1].
            batch_idx: Number of the batch in this epoch.

        Returns:
            The loss, a scalar.
        """

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Move; on a GPU, weights have the memory layout in which convolutions are fastest."""
        if torch.empty(0).to(*args, **kwargs).is_cuda:  # torch parses the arguments
            to_channels_last(self)  # activations follow; on a CPU the last bits would differ
        return super().to(*args, **kwargs)

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

    def setup(self, stage: str) -> None:
        """Load named files, refuse half precision, set modes. Subclasses call super().

        Raises:
            ValueError: If ``trainer.precision`` is 64-true, or it is bf16-true or 16-true, and this
                method cannot train, or compute outputs, in it.
        """
        super().setup(stage)
        if stage == "fit":
            for part in self.modules():
                # Lightning calls no `train`. That of this class would undo a constructor's `eval`.
                if type(part).train not in (nn.Module.train, ImageModel.train):
                    part.train(part.training)
        trainer = trainer_of(self)
        if trainer is not None:
            self._judge_precision(trainer, stage)

    def _judge_precision(self, trainer: Trainer, stage: str) -> None:
        """Refuse a precision that loses too much, and warn of one that is slow here."""
        precision = trainer.precision
        if precision == "64-true":
            raise ValueError("trainer.precision is 64-true; images are float32: set it to 32-true")
        is_converted = precision in ("bf16-true", "16-true")
        if is_converted and (stage == "fit" or not self.half_outputs):
            raise ValueError(
                f"trainer.precision is {precision}, by which {type(self).__name__} loses too much: "
                f"set it to {precision.removesuffix('true')}mixed"
            )
        if precision not in ("bf16-mixed", "bf16-true"):
            return
        if trainer.strategy.root_device.type == "cpu" and is_slow_in_bf16():
            log.warning(
                "this CPU takes some 30 times as long in %s as in float32: use "
                "--trainer.precision 32-true",
                precision,
            )

    def __setattr__(self, name: str, value: Any) -> None:
        """Freeze a part that does not train as soon as the method holds it."""
        super().__setattr__(name, value)
        if not isinstance(value, nn.Module) or self._trains(name, value):
            return
        # A subclass may add a part, and forget that it inherits the names of those that train.
        inherits = self.trained_parts is not None and "trained_parts" not in vars(type(self))
        if inherits and any(parameter.requires_grad for parameter in value.parameters()):
            method = class_path(type(self))
            log.warning(
                "%s of %s does not train: to train it, name it in trained_parts", name, method
            )
        freeze(value)

    def train(self, mode: bool = True) -> Self:
        """Set the mode, but keep the parts that do not train in evaluation mode."""
        super().train(mode)
        for name, part in self.named_children():
            if not self._trains(name, part):
                part.eval()
        return self

    def configure_model(self) -> None:
        """Freeze what ``setup`` added to the parts that do not train."""
        for name, part in self.named_children():
            if not self._trains(name, part):
                freeze(part)
        for module in self.modules():
            if isinstance(module, Frozen):
                freeze(module)

    def _trains(self, name: str, part: nn.Module) -> bool:
        """Return whether the part of this name trains."""
        if self.trained_parts is None:
            return not isinstance(part, Frozen)
        return name in self.trained_parts

    def on_fit_start(self) -> None:
        """Keep the state of torch's generators, which each batch seeds. Call super() first.

        Raises:
            ValueError: If several processes would train to other weights than one.
        """
        refuse_other_results(self)
        self.warn_of_unread()
        self.train_restored()
        self._random_states = [module.get_rng_state() for module in self._random_modules]

    def on_fit_end(self) -> None:
        """Restore the generators: otherwise the next model would begin like this one."""
        # There are none if a subclass's `on_fit_start` did not call this class's.
        for module, state in zip(self._random_modules, self._random_states, strict=False):
            module.set_rng_state(state)
        self._random_states = []

    @property
    def _random_modules(self) -> list[Any]:
        """Modules of torch with a global generator: that of the CPU, and of this device."""
        if self.device.type == "cpu":
            return [torch]
        return [torch, torch.get_device_module(self.device)]

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Seed torch's generators by the samples of this batch. Subclasses must call super() first.

        A sample's seed is a hash of (run seed, epoch, position in the plan). So every rank and
        every batch differs, and a resumed run draws the same numbers as an uninterrupted one.
        """
        self.mark_as_changed()
        # Other data repeat their seeds in each epoch, which shall draw new noise there.
        trainer: Any = trainer_of(self)
        parts: list[str | bytes | int] = ["model", seeds_of(batch).numpy().tobytes()]
        if trainer is not None and (trainer.overfit_batches or not _changes_seeds(trainer)):
            parts.append(trainer.current_epoch)
        seed = seed_of(*parts)
        # torch.manual_seed records the call stack each time while CUDA is not initialised.
        torch.default_generator.manual_seed(seed)
        for module in self._random_modules[1:]:
            module.manual_seed(seed)
        self._averages_logs = trainer is not None and _is_logged_by_many(trainer)

    def log(self, name: str, value: Any, *args: Any, **kwargs: Any) -> None:
        """Log as Lightning does; in training the mean over processes, not the first one's value.

        Processes exchange values only at steps that a logger writes (``log_every_n_steps``).
        """
        is_number = isinstance(value, int | float | Tensor)
        if is_number and self._averages_logs and self.trainer.training:
            number = torch.as_tensor(value, dtype=torch.float32, device=self.device)
            # A copy, since `reduce` works in place.
            value = self.trainer.strategy.reduce(number.detach().clone(), reduce_op="mean")
        super().log(name, value, *args, **kwargs)


class SuperResolver(InTiles, ImageModel):
    """A method that enlarges a given image.

    Args:
        scale: Factor by which images are enlarged; set by ``data.init_args.scale``.
        color_fix: How outputs get the colours of LR; see ``lightning_modules.sampling.color``.
    """

    # Whether `restore` is one pass of a network, at any size and without noise, so that it can be
    # exported to ONNX.
    one_pass = False
    # Possible, and not asked for; see `Method`.
    in_pieces: bool | None = False

    def __init__(self, scale: float, color_fix: ColorFix = "none", **kwargs: Any) -> None:
        super().__init__(scale, color_fix=color_fix, **kwargs)

    @property
    def uses_last_weights(self) -> bool:
        """Whether the last weights are the result, not those of the best PSNR.

        One pass of a network predicts the mean, for which PSNR is the right measure.
        """
        return not self.one_pass

    @abstractmethod
    def restore(self, batch: Batch, noise: Noise) -> Tensor:
        """Enlarge ``batch["lr"]`` by the paper's sampling algorithm.

        Args:
            batch: ``lr`` (B, 3, h, w) float32 in [0, 1] and ``size``, the (H, W) of the output.
            noise: The only source of randomness.

        Returns:
            (B, 3, H, W), about [0, 1]; the caller clamps it.
        """

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> Output:
        """Restore a batch to measure, as ``enlarge``; callbacks measure the output."""
        return self.enlarge(batch)

    test_step = validation_step

    def predict_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> Any:
        """Enlarge an image, in tiles if it is large; None if it could not be read.

        Returns:
            As ``enlarge_to_size``; or ``{"pieces": iterator}``, if a callback has set
            ``in_pieces``.
        """
        if "error" in batch:
            return None
        # The image's alpha, if it has one: `enlarge_to_size` enlarges it, too.
        metas = batch.get("meta", [])
        if len(metas) == 1 and metas[0].get("alpha") is not None:
            alpha = as_tensor(metas[0]["alpha"])[None, None]
            batch = cast("Batch", {**batch, "alpha": alpha})
        if self.in_pieces:
            return {"pieces": self.pieces(batch)}
        return self.enlarge_to_size(batch)


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
    def sample(self, batch: Batch) -> Output:
        """Generate, check and clamp.

        Args:
            batch: Batch as for ``generate``.

        Returns:
            ``{"sr": (B, 3, H, W) float32 in [0, 1]}``; for clips (B, F, 3, H, W).

        Raises:
            ValueError: If ``generate`` returns another size.
        """
        batch = with_noise_seeds(batch, self.noise_seed)
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
        return {"sr": in_range(images)}

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> Output:
        """Generate for a batch to measure, as ``sample``; callbacks measure the output."""
        return self.sample(batch)

    test_step = validation_step

    def predict_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> Output | None:
        """Generate the images of a batch, as ``sample``; None if it could not be read."""
        return None if "error" in batch else self.sample(batch)


class NothingToTrain:
    """Goes before the base class of a method that is only tested.

    ``configure_optimizers`` refuses ``fit`` of a method without trainable parameters.
    """

    trained_parts: tuple[str, ...] | None = ()

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Never called, since ``configure_optimizers`` refuses ``fit``."""
        raise NotImplementedError


def _is_logged_by_many(trainer: Any) -> bool:
    """Return whether a logger writes the values of this step, on several processes."""
    every = trainer.log_every_n_steps
    return trainer.world_size > 1 and every > 0 and (trainer.global_step + 1) % every == 0


def _changes_seeds(trainer: Any) -> bool:
    """Return whether the data are our data module's, whose seeds differ in each epoch."""
    return hasattr(trainer.datamodule, "degradation_seed")


@torch.no_grad()
def first_batches(method: ImageModel, count: int) -> Iterator[Batch]:
    """Yield the first batches of training, on the model's device, to measure something.

    The position of the data module does not change.

    Args:
        method: The method, with its trainer.
        count: Maximum number of batches, on each rank.
    """
    data: Any = method.trainer.datamodule  # type: ignore[attr-defined]
    if not _changes_seeds(method.trainer):
        method.trainer.fit_loop.setup_data()
        with torch.random.fork_rng(devices=[]):  # a loader's shuffling draws from torch's generator
            loader: Any = method.trainer.train_dataloader
            for batch in islice(loader, count):
                yield method.trainer.strategy.batch_to_device(batch, method.device)
        return
    for batch in islice(data.train_dataloader(), count):
        batch.pop("skipped", None)  # notes; in a trainer's loop the data module takes them out
        moved = data.transfer_batch_to_device(batch, method.device, 0)
        yield data.on_after_batch_transfer(moved, 0)
