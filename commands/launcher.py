"""Processes that torchrun or SLURM has started."""

from __future__ import annotations

import os
from typing import Any

from jsonargparse import Namespace

from commands.errors import ConfigurationError


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
