"""Processes that something else has started, and what of a trainer cannot run here."""

from __future__ import annotations

import os
from typing import Any

from jsonargparse import Namespace
from lightning.fabric.plugins.environments import SLURMEnvironment
from lightning.pytorch.callbacks import BatchSizeFinder
from lightning.pytorch.plugins.environments import ClusterEnvironment

from commands.errors import ConfigurationError
from commands.world import SLURM, TORCHRUN, World, knows_address

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
    if any(isinstance(callback, BatchSizeFinder) for callback in callbacks):
        raise ConfigurationError(
            "trainer.callbacks has a BatchSizeFinder, but the order of the samples depends on the "
            "size of a batch: leave it out, and set data.init_args.batch_size"
        )


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
