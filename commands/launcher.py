"""Processes that something else has started, and what of a trainer cannot run here."""

from __future__ import annotations

import logging
import os
from typing import Any

from jsonargparse import Namespace
from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import (
    BatchSizeFinder,
    LearningRateFinder,
    ModelPruning,
    StochasticWeightAveraging,
    Timer,
    WeightAveraging,
)

from commands.accumulation import gradients_pending
from commands.errors import ConfigurationError
from commands.world import SLURM, TORCHRUN, World, knows_address

log = logging.getLogger(__name__)

# Callbacks of Lightning that cannot run here, and why.
REFUSED = {
    BatchSizeFinder: (
        "the order of the samples depends on the size of a batch: leave it out, and set "
        "data.init_args.batch_size"
    ),
    LearningRateFinder: (
        "its trial steps would be steps of the run, and a continued run would search again: leave "
        "it out, and set the learning rate of model.init_args.optimizer"
    ),
    WeightAveraging: (
        "it puts averages in the place of the weights that training goes on from: use "
        "callbacks.ema.EMA, whose averages test, validate and predict take"
    ),
    ModelPruning: (
        "its masks are in no checkpoint, so a continued run would be another: leave it out, and "
        "prune the weights when they are trained"
    ),
}
# Strategies of Lightning that cannot run here, by a part of their names, and why.
STRATEGIES = {
    "deepspeed": "its checkpoints are folders, one form for each number of processes",
    "fsdp_": "its checkpoints have the first form of FSDP",
    "fsdpstrategy": "its checkpoints have the first form of FSDP",
    "xla": "nothing here is made for TPUs",
    "tpu": "nothing here is made for TPUs",
}
# Of the trainer's arguments: what is said of one that is no count.
COUNTS = {
    "accumulate_grad_batches": "",
    "val_check_interval": " (--trainer.limit_val_batches 0 validates never)",
    "check_val_every_n_epoch": " (--trainer.limit_val_batches 0 validates never)",
}


def refuse_what_cannot_run(trainer: Namespace, callbacks: list[Any]) -> None:
    """Say so before any work.

    Args:
        trainer: The trainer's arguments.
        callbacks: Those that the user asks for.

    Raises:
        ConfigurationError: The strategy starts processes by giving them the whole run, or a
            callback changes the size of batches, which the plan of all epochs is made of, or
            something is to be done each zeroth time.
    """
    for key in COUNTS:
        if isinstance(trainer[key], int | float) and trainer[key] <= 0:
            # Lightning divides by it: a gradient by -1 leads uphill.
            raise ConfigurationError(
                f"trainer.{key} is {trainer[key]}: it must be above 0{COUNTS[key]}"
            )
    name = trainer.strategy
    if isinstance(name, str) and any(way in name for way in ("spawn", "fork", "notebook")):
        raise ConfigurationError(
            f"trainer.strategy is {name!r}, whose processes are given a run that has been built "
            "already: set it to ddp, whose processes each start the command"
        )
    made = name if isinstance(name, str) else type(name).__name__
    if other := next((kind for kind in STRATEGIES if kind in made.lower()), None):
        raise ConfigurationError(
            f"trainer.strategy is {made!r}, but {STRATEGIES[other]}: set it to ddp or fsdp"
        )
    for callback in callbacks:
        why = next((why for kind, why in REFUSED.items() if isinstance(callback, kind)), None)
        if why is not None:
            name = type(callback).__name__
            raise ConfigurationError(f"trainer.callbacks has {_article(name)} {name}, but {why}")
        if isinstance(callback, StochasticWeightAveraging):
            log.warning(
                "checkpoints hold the weights as they are trained, no command uses the averages of "
                "StochasticWeightAveraging, and a run that goes on within an epoch has other "
                "learning rates to its end: use callbacks.ema.EMA"
            )


def _article(name: str) -> str:
    return "an" if name[0] in "AEIO" else "a"


class MaxTime(Timer):
    """``trainer.max_time``: a limit of this start, not of all starts of a run together.

    Args:
        duration: As in the configuration.
    """

    def __init__(self, duration: Any) -> None:
        super().__init__(duration, verbose=False)

    @property
    def state_key(self) -> str:
        """That of Lightning's own, which older checkpoints have."""
        return Timer.__qualname__

    def state_dict(self) -> dict[str, Any]:
        """Nothing: the next start has its own time."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Older checkpoints have the time so far."""

    def on_train_batch_end(self, trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        """Look at the clock where a checkpoint can be written: gradients are in none."""
        if not gradients_pending(trainer):
            super().on_train_batch_end(trainer, *args, **kwargs)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say why training ends."""
        super().on_train_end(trainer, pl_module)
        finished = trainer.max_steps != -1 and trainer.global_step >= trainer.max_steps
        if (self.time_remaining() or 0.0) <= 0 and not finished:
            log.info(
                "trainer.max_time is over: stopped after step %d; the same command continues",
                trainer.global_step,
            )


def own_timer(trainer: Namespace, callbacks: list[Any]) -> list[Any]:
    """Our own callback for ``trainer.max_time``, in the place of Lightning's.

    Args:
        trainer: The trainer's arguments; its ``max_time`` is taken.
        callbacks: Those that the user asks for; a ``Timer`` among them counts, and says so.

    Raises:
        ConfigurationError: It is no time, or none is left by it.
    """
    if trainer.max_time is None or any(isinstance(callback, Timer) for callback in callbacks):
        return []
    try:
        made = MaxTime(trainer.max_time)
    except (MisconfigurationException, TypeError):  # the second: a key that is no unit of time
        made = None
    if made is None or (made.time_remaining() or 0.0) <= 0:
        raise ConfigurationError(
            f"trainer.max_time is {trainer.max_time}: it must be above 0, as DD:HH:MM:SS, or by "
            "unit, as {hours: 1, minutes: 30}"
        )
    trainer.max_time = None
    return [made]


class Started(ClusterEnvironment):
    """The processes that something started which Lightning does not know: by their variables.

    Args:
        world: What they say.
    """

    def __init__(self, world: World) -> None:
        super().__init__()
        self._world = world

    @property
    def creates_processes_externally(self) -> bool:
        """Always: all of them run."""
        return True

    @property
    def main_address(self) -> str:
        """Where the first process is."""
        return os.environ["MASTER_ADDR"]

    @property
    def main_port(self) -> int:
        """Where it listens."""
        return int(os.environ["MASTER_PORT"])

    @staticmethod
    def detect() -> bool:
        """Never by Lightning."""
        return False

    def world_size(self) -> int:
        """Number of all processes."""
        return self._world.size

    def set_world_size(self, size: int) -> None:
        """It is fixed."""

    def global_rank(self) -> int:
        """Number of this process."""
        return self._world.rank

    def set_global_rank(self, rank: int) -> None:
        """It is fixed."""

    def local_rank(self) -> int:
        """Number of this process on its node."""
        return self._world.local_rank

    def node_rank(self) -> int:
        """Number of the node."""
        return self._world.rank // (self._world.size // self._world.num_nodes)


def own_plugins(plugins: Any, strategy: Any, world: World) -> Any:
    """The trainer's plugins, and one that knows the processes where Lightning's own would not do.

    Args:
        plugins: Those of the configuration; an environment among them is left as it is.
        strategy: The trainer's; it may have an environment of its own.
        world: The processes.
    """
    plugins = [] if plugins is None else plugins
    given = list(plugins) if isinstance(plugins, list | tuple) else [plugins]
    own = getattr(strategy, "cluster_environment", None)
    if own is not None or any(isinstance(plugin, ClusterEnvironment) for plugin in given):
        return given
    launcher = world.claim.launcher
    if launcher is TORCHRUN:
        return given
    if launcher is SLURM or not world.claim.several:
        # Lightning's own requeueing saves from inside a signal handler, at any moment of a step;
        # ours resumes from the last checkpoint when SLURM starts the job again.
        started = (launcher is SLURM and world.claim.several) or SLURMEnvironment.detect()
        return [*given, SLURMEnvironment(auto_requeue=False)] if started else given
    if world.claim.rank is None or knows_address(world.claim, os.environ):
        return given
    return [*given, Started(world)]
