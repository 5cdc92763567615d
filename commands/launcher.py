"""Processes that torchrun or SLURM has started, and what of a trainer cannot run here."""

from __future__ import annotations

import os
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch.callbacks import BatchSizeFinder

from commands.errors import ConfigurationError

# Of the trainer's arguments: what is said of one that is no count.
COUNTS = {
    "accumulate_grad_batches": "",
    "val_check_interval": " (--trainer.limit_val_batches 0 validates never)",
    "check_val_every_n_epoch": " (--trainer.limit_val_batches 0 validates never)",
}


def follow_torchrun(trainer: Namespace) -> None:
    """Train on all processes that torchrun has started, not on each of them alone.

    Lightning counts the machine's devices, on a CPU one: without ``trainer.devices`` each process
    would then do the whole work by itself, and all would write into one place.

    Args:
        trainer: The trainer's arguments; those left at their defaults are set.

    Raises:
        ConfigurationError: ``devices`` and ``num_nodes`` are of another number of processes.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return
    here, nodes = int(os.environ["LOCAL_WORLD_SIZE"]), int(os.environ["GROUP_WORLD_SIZE"])
    if here * nodes == 1:
        return
    if trainer.devices == "auto":
        trainer.devices = here
    if trainer.num_nodes == 1:
        trainer.num_nodes = nodes
    if trainer.strategy == "auto":
        trainer.strategy = "ddp"
    devices = trainer.devices
    count = len(devices) if isinstance(devices, list) else devices
    if str(count).isdigit() and (int(count), trainer.num_nodes) != (here, nodes):
        raise ConfigurationError(
            f"torchrun has started {here} processes on each of {nodes} nodes, but "
            f"trainer.devices is {trainer.devices} and trainer.num_nodes {trainer.num_nodes}: "
            f"leave both out, or set them to {here} and {nodes}"
        )


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


def own_plugins(plugins: Any) -> Any:
    """The trainer's plugins, and under SLURM one that leaves it to SLURM to start a job again.

    Args:
        plugins: Those of the configuration, which then are all there are.
    """
    from lightning.fabric.plugins.environments.slurm import SLURMEnvironment

    if not SLURMEnvironment.detect() or plugins:
        return plugins
    # Lightning's own requeueing saves from inside a signal handler, at any moment of a step; ours
    # resumes from the last checkpoint when SLURM starts the job again.
    return [SLURMEnvironment(auto_requeue=False)]
