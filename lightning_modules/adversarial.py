"""Training against a discriminator: two optimisers in turns, which make one step together.

Lightning leaves this to the method, and counts the updates of all optimisers. Here a step is one
update of the main optimiser: that is what ``trainer.max_steps``, schedules, checkpoints and logs
count. Accumulation, clipping, the discriminator's own AMP scaler and the mean of the gradients over
processes are done here, for Lightning refuses its flags, and torch's DDP expects one backward pass
a batch through all parameters.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.distributed as dist
from lightning.pytorch.cli import OptimizerCallable, ReduceLROnPlateau
from lightning.pytorch.core.optimizer import do_nothing_closure
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from lightning_modules.base import SuperResolver
from lightning_modules.image_model import adam
from lightning_modules.optimisation import optimizer_of

if TYPE_CHECKING:
    from datamodules.base import Batch

BUCKET = 2**23  # values that are averaged over the processes in one call
MAIN, SECOND = 0, 1


class Adversarial(SuperResolver):
    """A method that a discriminator judges in training.

    Args:
        scale: Factor by which images are enlarged; set by ``data.init_args.scale``.
        discriminator: Judges what is made; without it there is only the main optimiser.
        discriminator_optimizer: Makes the discriminator's optimiser.
        accumulate: Batches whose gradients make one step.
        clip: Largest norm of the gradient of a step, for each optimiser; by default any.

    Raises:
        ValueError: ``accumulate`` or ``clip`` is out of range.
    """

    training_only: tuple[str, ...] = ("discriminator.",)

    def __init__(
        self,
        scale: float,
        discriminator: nn.Module | None = None,
        discriminator_optimizer: OptimizerCallable = adam,
        accumulate: int = 1,
        clip: float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(scale, **kwargs)
        if accumulate < 1 or (clip is not None and not clip > 0):
            raise ValueError(
                f"model.init_args.accumulate is {accumulate} and clip {clip}; expected 1 or more, "
                "and a number above 0 or null"
            )
        self.automatic_optimization = False
        self.discriminator = discriminator
        self.discriminator_optimizer = discriminator_optimizer
        self.accumulate, self.clip = accumulate, clip
        self._made: list[Any] = []  # in the batches of the step at hand
        self._scaler: torch.amp.GradScaler | None = None  # the discriminator's
        self._scaler_state: dict[str, Any] = {}

    @abstractmethod
    def generator_loss(self, batch: Batch) -> tuple[Tensor, Any]:
        """The loss of what is trained besides the discriminator, which is frozen meanwhile.

        Args:
            batch: As ``training_step`` gets it.

        Returns:
            A scalar, and what ``discriminator_loss`` wants of this batch, without gradients.
        """

    @abstractmethod
    def discriminator_loss(self, made: Any) -> Tensor:
        """The discriminator's loss, a scalar.

        Args:
            made: What ``generator_loss`` gave.
        """

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """A part of a step, or its end: all of the main one's batches, then the discriminator's."""
        with self._unsynchronised(), frozen(self.discriminator):
            loss, made = self.generator_loss(batch)
            self.manual_backward(loss / self.accumulate)
        self._made.append(made)
        if self._completes(batch_idx):
            self._update(MAIN)
            if self.discriminator is not None:
                with self._scaled(), self._unsynchronised():
                    for made in self._made:
                        self.manual_backward(self.discriminator_loss(made) / self.accumulate)
                    self._update(SECOND)
            self._made.clear()
        return loss.detach()

    def _completes(self, batch_idx: int) -> bool:
        done = batch_idx + 1
        return done % self.accumulate == 0 or done >= self.trainer.num_training_batches

    def _update(self, index: int) -> None:
        optimizers = self.optimizers()
        optimizer = cast(Any, optimizers[index] if isinstance(optimizers, list) else optimizers)
        self._average(optimizer.optimizer)
        if index == SECOND:  # not counted; Lightning sets both anew in each batch
            optimizer._on_before_step = optimizer._on_after_step = do_nothing_closure
        before = self.trainer.global_step
        optimizer.step()
        optimizer.zero_grad()
        # Guard may have left out the step, and then the schedule waits for the next one.
        schedule = cast(Any, self.lr_schedulers())
        if index == MAIN and schedule is not None and self.trainer.global_step > before:
            self.lr_scheduler_step(schedule, None)

    def counts(self, optimizer: torch.optim.Optimizer) -> bool:
        """Whether this optimiser's updates are steps: only the main one's."""
        return optimizer is self.trainer.optimizers[MAIN]

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Clip the gradient, which the AMP scaler has brought to its own size by now."""
        if self.clip is not None:
            nn.utils.clip_grad_norm_(_trained(optimizer), self.clip)

    # ----------------------------------------------------------------------------------- processes

    @contextmanager
    def _unsynchronised(self) -> Iterator[None]:
        # DDP's own averaging expects that one backward pass reaches all parameters.
        wrapper = self.trainer.strategy.model
        apart = isinstance(wrapper, DistributedDataParallel)
        with cast(Any, wrapper).no_sync() if apart else nullcontext():
            yield

    def _average(self, optimizer: torch.optim.Optimizer) -> None:
        if self.trainer.world_size == 1:
            return
        gradients = [p.grad for p in _trained(optimizer) if p.grad is not None]
        for bucket in _buckets(gradients):
            flat = torch.cat([gradient.flatten() for gradient in bucket])
            dist.all_reduce(flat)
            parts = torch.split(flat.div_(self.trainer.world_size), [g.numel() for g in bucket])
            for gradient, part in zip(bucket, parts, strict=True):
                gradient.copy_(part.view_as(gradient))

    # ------------------------------------------------------------------------------------ precision

    @contextmanager
    def _scaled(self) -> Iterator[None]:
        # A scaler changes its factor after each of its updates, by what it saw in that: with one
        # for both, the discriminator's gradients would set the generator's factor.
        plugin: Any = self.trainer.precision_plugin
        own = getattr(plugin, "scaler", None)
        if own is None:
            yield
            return
        if self._scaler is None:
            self._scaler = torch.amp.GradScaler(self.device.type)
            if self._scaler_state:
                self._scaler.load_state_dict(self._scaler_state)
        plugin.scaler = self._scaler
        try:
            yield
        finally:
            plugin.scaler = own

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the discriminator's scaler as well."""
        super().on_save_checkpoint(checkpoint)
        state = self._scaler_state if self._scaler is None else self._scaler.state_dict()
        if state:  # also where the run was stopped again before the discriminator's turn
            checkpoint["discriminator_scaler"] = state

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take it from there. Raises as ``ImageModel.on_load_checkpoint``."""
        super().on_load_checkpoint(checkpoint)
        self._scaler, self._scaler_state = None, checkpoint.get("discriminator_scaler", {})

    # ----------------------------------------------------------------------------------- optimisers

    def on_fit_start(self) -> None:
        """See that the strategy is one whose gradients can be averaged here.

        Raises:
            ValueError: It shares out parameters among processes, or buffers that training changes
                would differ among them.
        """
        strategy = self.trainer.strategy
        if not isinstance(strategy, DDPStrategy | SingleDeviceStrategy):
            raise ValueError(
                f"{type(self).__name__} trains with two optimisers, which trainer.strategy "
                f"{type(strategy).__name__} cannot: set trainer.strategy to ddp"
            )
        moving = [
            name
            for name, module in self.named_modules()
            if isinstance(module, nn.modules.batchnorm._NormBase) and module.track_running_stats
            if any(p.requires_grad for p in module.parameters())
        ]
        if moving and self.trainer.world_size > 1:
            raise ValueError(
                f"{moving[0]} keeps running statistics, which {type(self).__name__} does not bring "
                "together from several processes: use group norms, or --trainer.devices 1"
            )

    def configure_optimizers(self) -> Any:
        """The main optimiser with its schedule, and the discriminator's.

        Raises:
            ValueError: Nothing is trainable, the schedule waits for a metric, the discriminator
                cannot be trained, or an optimiser's or the schedule's class refuses its arguments.
        """
        own = nn.ModuleList() if self.discriminator is None else self.discriminator
        with frozen(own):
            configured = super().configure_optimizers()
        schedules = []
        if isinstance(configured, dict):
            schedules = [configured["lr_scheduler"]]
            if isinstance(schedules[0]["scheduler"], ReduceLROnPlateau):
                raise ValueError(
                    f"{type(self).__name__} steps its schedule once a step: "
                    "model.init_args.lr_scheduler cannot be ReduceLROnPlateau"
                )
            configured = configured["optimizer"]
        optimizers = [configured]
        if self.discriminator is not None:
            judging = [p for p in own.parameters() if p.requires_grad]
            if not judging:
                raise ValueError(
                    "model.init_args.discriminator has no trainable parameters: train it, or leave "
                    "it out"
                )
            argument = "discriminator_optimizer"
            optimizers.append(optimizer_of(self.discriminator_optimizer, judging, argument))
        return optimizers, schedules


# ----------------------------------------------------------------------------------------- losses


def hinge_generator(fake: Sequence[Tensor]) -> Tensor:
    """What a generator loses by the logits of what it made, a scalar: their negative mean.

    Args:
        fake: Maps of logits (B, 1, h, w), of one or more sizes, which count alike.

    Source: Lim and Ye, 2017 (arXiv 1705.02894), equation 14, for several outputs.
    """
    return -torch.stack([logits.mean() for logits in fake]).mean()


def hinge_discriminator(real: Sequence[Tensor], fake: Sequence[Tensor]) -> Tensor:
    """What a discriminator loses, a scalar: half of each side's mean, as it is usually written.

    Args:
        real: Maps of logits (B, 1, h, w) of data.
        fake: Those of what the generator made.

    Source: Lim and Ye, 2017 (arXiv 1705.02894), equation 13, for several outputs.
    """
    losses = [
        (functional.relu(1 - of_real).mean() + functional.relu(1 + of_fake).mean()) / 2
        for of_real, of_fake in zip(real, fake, strict=True)
    ]
    return torch.stack(losses).mean()


@contextmanager
def frozen(module: nn.Module | None) -> Iterator[None]:
    """Let gradients through a module, and none to its parameters.

    Args:
        module: Its parameters are as before afterwards; None for no module.
    """
    trained = [p for p in module.parameters() if p.requires_grad] if module is not None else []
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)


def _trained(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _buckets(gradients: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    # In the order of the parameters, which all processes share.
    bucket: list[Tensor] = []
    values = 0
    for gradient in gradients:
        bucket.append(gradient)
        values += gradient.numel()
        if values >= BUCKET:
            yield bucket
            bucket, values = [], 0
    if bucket:
        yield bucket
