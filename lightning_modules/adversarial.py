"""Training against a discriminator: one step consists of an update of both optimisers.

In manual optimisation, Lightning counts the updates of all optimisers. Here a step is one update of
the main optimiser, for ``trainer.max_steps``, schedules, checkpoints and logs. Accumulation,
clipping and gradient averaging over ranks are implemented here: Lightning refuses its flags in
manual optimisation, and torch's DDP expects one backward pass per batch through all parameters.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, ClassVar, cast

import torch
import torch.distributed as dist
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from files.batch import Batch
from files.numbers import PositiveFloat, PositiveInt
from lightning_modules.base import SuperResolver
from lightning_modules.optimisation import adam, average_gradients, optimizer_of

MAIN, DISCRIMINATOR = 0, 1  # indices of the optimisers


class Adversarial(SuperResolver):
    """A method that trains against a discriminator.

    Args:
        scale: Factor by which images are enlarged; set by ``data.init_args.scale``.
        discriminator: The discriminator; without it there is only the main optimiser.
        discriminator_optimizer: Makes the discriminator's optimiser.
        accumulate: Batches per step, whose gradients are accumulated.
        clip: Largest norm of the gradient of a step, for each optimiser; unlimited by default.
        discriminator_weights: Weights from which the discriminator starts: a run that trained it,
            or a released file.

    Raises:
        ValueError: If there are weights of a discriminator, and no discriminator.
    """

    part_files: ClassVar[Mapping[str, str]] = {"discriminator_weights": "load_discriminator"}
    training_only: tuple[str, ...] = ("discriminator.",)
    group = ""  # prefix of these arguments in messages, such as "training."

    def __init__(
        self,
        scale: float,
        discriminator: nn.Module | None = None,
        discriminator_optimizer: OptimizerCallable = adam,
        accumulate: PositiveInt = 1,
        clip: PositiveFloat | None = None,
        discriminator_weights: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(scale, **kwargs)
        if discriminator_weights is not None and discriminator is None:
            raise ValueError(
                f"model.init_args.{self.group}discriminator_weights is set without "
                f"model.init_args.{self.group}discriminator: set both, or neither"
            )
        self.automatic_optimization = False
        self.discriminator = discriminator
        self.discriminator_weights = discriminator_weights
        self.discriminator_optimizer = discriminator_optimizer
        self.accumulate = accumulate
        self.clip = clip
        self._judged: list[Any] = []  # what the discriminator sees of the batches of this step
        self._norm = torch.zeros(())  # of the latest gradient, before it was clipped

    @property
    def uses_last_weights(self) -> bool:
        """Whether the last weights are the result: with a discriminator also of one pass."""
        return self.discriminator is not None or super().uses_last_weights

    @abstractmethod
    def generator_loss(self, batch: Batch) -> tuple[Tensor, Any]:
        """Return the loss of the other trainable parts, while the discriminator is frozen.

        Args:
            batch: Batch of ``training_step``.

        Returns:
            A scalar, and the input of ``discriminator_loss`` for this batch, without gradients.
        """

    @abstractmethod
    def discriminator_loss(self, judged: Any) -> Tensor:
        """Return the discriminator's loss, a scalar.

        Args:
            judged: Second result of ``generator_loss``.
        """

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Accumulate gradients; at the end of a step update both optimisers, main one first."""
        with self._unsynchronised(), frozen(self.discriminator):
            loss, judged = self.generator_loss(batch)
            self.manual_backward(loss / self.accumulate)
        self._judged.append(judged)
        if (batch_idx + 1) % self.accumulate == 0 or self.trainer.is_last_batch:
            self._update_generator()
            if self.discriminator is not None:
                self._update_discriminator()
            self._judged.clear()
        return loss.detach()

    def _update_generator(self) -> None:
        """Step the main optimiser and its schedule by the accumulated gradients."""
        optimizer = self._optimizers[MAIN]
        self._average_gradients(optimizer.optimizer)
        optimizer.step()
        self.log("train/gradient", self._norm)
        optimizer.zero_grad()
        schedule = self.lr_schedulers()  # which Lightning does not step in manual optimisation
        if schedule is not None:
            self.lr_scheduler_step(cast(Any, schedule), None)

    def _update_discriminator(self) -> None:
        """Compute gradients from the batches of this step, and step its optimiser."""
        optimizer = self._optimizers[DISCRIMINATOR].optimizer
        with self._unsynchronised():
            # FSDP gives a frozen discriminator gradients, too, in the generator's backward pass.
            optimizer.zero_grad()
            for judged in self._judged:
                self.manual_backward(self.discriminator_loss(judged) / self.accumulate)
            self._average_gradients(optimizer)
            # `LightningOptimizer.step` would count it in `global_step`.
            self.trainer.strategy.optimizer_step(optimizer, lambda: None)
            self.log("train/discriminator_gradient", self._norm)
            optimizer.zero_grad()

    @property
    def _optimizers(self) -> list[LightningOptimizer]:
        """The optimisers, main one first; Lightning returns a single one without a list."""
        optimizers = self.optimizers()
        return cast(Any, optimizers if isinstance(optimizers, list) else [optimizers])

    @property
    def batches_per_step(self) -> int:
        """Batches whose gradients are accumulated."""
        return self.accumulate

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Clip the gradient, which the AMP scaler has already unscaled."""
        parameters = _trained(optimizer)
        norm = get_total_norm(p.grad for p in parameters if p.grad is not None)
        if self.clip is not None:
            clip_grads_with_norm_(parameters, self.clip, norm)
        self._norm = norm.full_tensor() if isinstance(norm, DTensor) else norm

    def load_discriminator(self, path: Path) -> None:
        """Load the discriminator's weights from a run that trained it, or a released file."""
        if self.discriminator is not None:
            self.load_part_from(path, "discriminator")
            self._parts_with_own_files = ("discriminator.",)

    # ----------------------------------------------------------------------------------- processes

    @contextmanager
    def _unsynchronised(self) -> Iterator[None]:
        """Keep DDP from averaging gradients within the context."""
        # DDP's own averaging expects one backward pass through all parameters.
        wrapper = self.trainer.strategy.model
        is_ddp = isinstance(wrapper, DistributedDataParallel)
        with cast(Any, wrapper).no_sync() if is_ddp else nullcontext():
            yield

    def _average_gradients(self, optimizer: torch.optim.Optimizer) -> None:
        """Average gradients over the batches of this step, then over the processes."""
        average_gradients(optimizer, self.accumulate, len(self._judged))
        if not isinstance(self.trainer.strategy, DDPStrategy):
            return  # one process, or FSDP, which has averaged them
        gradients = [p.grad for p in _trained(optimizer) if p.grad is not None]
        # One tensor, so that processes exchange all gradients at once.
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(flat)
        flat /= self.trainer.world_size
        parts = torch.split(flat, [gradient.numel() for gradient in gradients])
        for gradient, part in zip(gradients, parts, strict=True):
            # In place: a fused optimiser reads memory order, so the layout must stay the weight's.
            gradient.copy_(part.view(gradient.shape))

    # ----------------------------------------------------------------------------------- optimisers

    def on_fit_start(self) -> None:
        """Drop what an earlier fit accumulated, which may have been stopped within a step."""
        super().on_fit_start()
        self._judged.clear()
        self.zero_grad()

    def configure_optimizers(self) -> Any:
        """Return the main optimiser with its schedule, and the discriminator's.

        Raises:
            ValueError: If nothing is trainable, or the schedule monitors a metric.
        """
        with frozen(self.discriminator):  # the main optimiser takes what is trainable
            configured = super().configure_optimizers()
        schedules = []
        if isinstance(configured, dict):
            schedules = [configured["lr_scheduler"]]
            if "monitor" in schedules[0]:
                raise ValueError(
                    f"{type(self).__name__} steps its schedule once a step: "
                    "model.init_args.lr_scheduler cannot be ReduceLROnPlateau"
                )
            configured = configured["optimizer"]
        optimizers = [configured]
        if self.discriminator is not None:
            judging = [p for p in self.discriminator.parameters() if p.requires_grad]
            optimizers.append(optimizer_of(self.discriminator_optimizer, judging))
        return optimizers, schedules


# ----------------------------------------------------------------------------------------- losses


def hinge_generator(fake: Sequence[Tensor]) -> Tensor:
    """Return the generator's hinge loss: the negative mean of the logits of its outputs.

    Args:
        fake: Maps of logits (B, 1, h, w), of one or more sizes with equal weights.

    Source: Lim and Ye, 2017 (arXiv 1705.02894), equation 14, for several outputs.
    """
    return -torch.stack([logits.mean() for logits in fake]).mean()


def hinge_discriminator(real: Sequence[Tensor], fake: Sequence[Tensor]) -> Tensor:
    """Return the discriminator's hinge loss: the mean of the losses on real and fake images.

    Args:
        real: Maps of logits (B, 1, h, w) of data.
        fake: Maps of logits of the generator's outputs.

    Source: Lim and Ye, 2017 (arXiv 1705.02894), equation 13, for several outputs.
    """
    losses = [
        (functional.relu(1 - of_real).mean() + functional.relu(1 + of_fake).mean()) / 2
        for of_real, of_fake in zip(real, fake, strict=True)
    ]
    return torch.stack(losses).mean()


@contextmanager
def frozen(module: nn.Module | None) -> Iterator[None]:
    """Freeze a module within the context, in evaluation mode; gradients pass through it.

    Its running statistics and spectral norms stay, too.

    Args:
        module: The module, which is restored afterwards. None for no module.
    """
    parameters = [] if module is None else list(module.parameters())
    modules = [] if module is None else list(module.modules())
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    training = [part for part in modules if part.training]
    for parameter in trained:
        parameter.requires_grad_(False)
    for part in training:
        part.training = False
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
        for part in training:
            part.training = True


def _trained(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """Return all parameters of an optimiser."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]
