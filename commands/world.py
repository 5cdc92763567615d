"""Number and rank of the processes of a run, from the environment and the trainer.

Lightning takes the rank of a process from the environment and the number of processes from the
trainer's arguments, and never compares them. Two processes that each believe to be alone would
train in one directory; one with a leftover ``RANK=1`` would write nothing. So both are compared
here before anything is written, and only this module decides which process is the first, which
locks the run.

Imports only the standard library at first: Lightning reads the variables when it is imported, and
fails with a traceback if one of them is not a number.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, NamedTuple

from commands.errors import ConfigurationError

if TYPE_CHECKING:
    from jsonargparse import Namespace
    from lightning.pytorch import Trainer

TORCHRUN, SLURM, LIGHTNING = "torchrun", "srun", "Lightning"  # what starts processes
SIGN = "TORCHELASTIC_RUN_ID"  # by which torch and Lightning detect torchrun
INTERACTIVE = ("bash", "interactive")  # names of SLURM jobs that Lightning treats as a shell
# Variables by which other launchers tell the number of processes.
OTHERS = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE", "JSM_NAMESPACE_SIZE")
# Variables by which Lightning finds the other processes of its own.
OWN = ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK")


class Claim(NamedTuple):
    """What the environment says about this process.

    launcher: What started it. Of Lightning's own processes, only the two ranks are known.
    rank: Rank of this process.
    world: Number of processes.
    local_world: Processes on each node.
    nodes: Number of nodes.
    local_rank: Rank on its node.
    node: Rank of its node.
    """

    launcher: str
    rank: int = 0
    world: int = 1
    local_world: int = 1
    nodes: int = 1
    local_rank: int = 0
    node: int = 0

    @property
    def is_first(self) -> bool:
        """Whether this is the first process of all."""
        return not (self.rank or self.local_rank or self.node)


class World(NamedTuple):
    """The trainer's processes, and which of them this is."""

    rank: int
    size: int
    devices: Any
    num_nodes: int
    strategy: Any
    launcher: str

    @property
    def is_first(self) -> bool:
        """Whether this is the first process of all nodes, which writes the run directory."""
        return self.rank == 0

    def check(self, trainer: Trainer) -> None:
        """Compare with the trainer as built: its plugins or strategy may disagree.

        Raises:
            ConfigurationError: If its rank or number of processes differs.
        """
        rank, size = trainer.global_rank, trainer.world_size
        if self.launcher is not LIGHTNING and (rank, size) != (self.rank, self.size):
            raise ConfigurationError(
                f"this is process {self.rank} of {self.size}, but the trainer, by its strategy "
                f"{type(trainer.strategy).__name__} and its plugins, is process {rank} of "
                f"{size}: remove trainer.plugins and trainer.strategy"
            )


def claimed() -> Claim:
    """Return what the environment says about this process, whatever started it.

    Raises:
        ConfigurationError: If variables are not numbers, are missing, or are those of a launcher
            that is not supported.
    """

    def number(name: str, default: int) -> int:
        text = os.environ.get(name, str(default))
        if not text.strip().isdecimal():
            raise ConfigurationError(
                f"the environment variable {name} is {text!r}, but must be a whole number, by "
                f"which processes find each other: set it, or unset it (env -u {name} COMMAND)"
            )
        return int(text)

    rank, world = number("RANK", 0), number("WORLD_SIZE", 1)
    local_rank, node = number("LOCAL_RANK", 0), number("NODE_RANK", 0)
    if SIGN in os.environ:
        here, nodes = number("LOCAL_WORLD_SIZE", world), number("GROUP_WORLD_SIZE", 1)
        if "RANK" not in os.environ or here * nodes != world or rank >= world:
            raise ConfigurationError(
                f"{SIGN} is set, as torchrun does, but RANK, WORLD_SIZE, LOCAL_WORLD_SIZE and "
                f"GROUP_WORLD_SIZE do not fit together: start the command with torchrun, or unset "
                f"them all (env -u {SIGN} COMMAND)"
            )
        return Claim(TORCHRUN, rank, world, here, nodes, local_rank)
    tasks, step = number("SLURM_NTASKS", 1), number("SLURM_STEP_NUM_TASKS", 0)
    is_shell = os.environ.get("SLURM_JOB_NAME") in INTERACTIVE and step < 2
    if "SLURM_NTASKS" in os.environ and not is_shell:
        nodes = number("SLURM_NNODES", 1)
        here = number("SLURM_NTASKS_PER_NODE", 1)
        if here * nodes != tasks or (tasks > 1 and not step):
            raise ConfigurationError(
                f"SLURM has {tasks} tasks on {nodes} nodes: start the command with srun, and give "
                "--ntasks-per-node instead of --ntasks; a single process with srun --ntasks 1"
            )
        rank, local_rank = number("SLURM_PROCID", 0), number("SLURM_LOCALID", 0)
        return Claim(SLURM, rank, tasks, here, nodes, local_rank)
    if rank or (world > 1 and "LOCAL_RANK" not in os.environ):
        raise ConfigurationError(
            f"in the environment RANK is {rank} and WORLD_SIZE {world}, but neither torchrun nor "
            "srun has started this process: start all of them by one of the two (or unset "
            "leftover variables: env -u RANK -u WORLD_SIZE COMMAND)"
        )
    for name in OTHERS:
        if number(name, 1) > 1:
            raise ConfigurationError(
                f"in the environment {name} is {os.environ[name]}, of a launcher that is not "
                f"supported: use torchrun or srun (or unset it: env -u {name} COMMAND)"
            )
    return Claim(LIGHTNING, local_rank=local_rank, node=node)


def agree(trainer: Namespace, command: str = "fit") -> World:
    """Return the processes on which trainer and environment agree.

    Defaults of ``trainer.devices``, ``num_nodes`` and ``strategy`` are replaced by the launcher's
    values: Lightning would count the devices of the machine (one on a CPU), and each process would
    do the whole work alone.

    Args:
        trainer: The trainer's arguments.
        command: Name of the command; ``export`` runs in one process.

    Raises:
        ConfigurationError: If trainer and environment differ in the number of processes.
    """
    claim = claimed()
    if command == "export" and claim.world > 1:
        raise ConfigurationError(f"export runs in one process, but {claim.launcher} has started it")
    if claim.launcher is LIGHTNING:
        return _started_by_lightning(claim, trainer)
    devices = claim.local_world if trainer.devices == "auto" else trainer.devices
    nodes = claim.nodes if trainer.num_nodes == 1 else trainer.num_nodes
    if (_count(devices, trainer.accelerator), nodes) != (claim.local_world, claim.nodes):
        raise ConfigurationError(
            f"{claim.launcher} has started {claim.local_world} processes on each of {claim.nodes} "
            f"nodes, but trainer.devices is {trainer.devices} and trainer.num_nodes "
            f"{trainer.num_nodes}: remove both, or set them to {claim.local_world} and "
            f"{claim.nodes}"
        )
    strategy = "ddp" if trainer.strategy == "auto" and claim.world > 1 else trainer.strategy
    return World(claim.rank, claim.world, devices, nodes, strategy, claim.launcher)


def _started_by_lightning(claim: Claim, trainer: Namespace) -> World:
    """Return the processes where Lightning starts them: from one process on each node."""
    here, nodes = _count(trainer.devices, trainer.accelerator), trainer.num_nodes
    if claim.local_rank >= here or claim.node >= nodes:
        raise ConfigurationError(
            f"in the environment LOCAL_RANK is {claim.local_rank} and NODE_RANK {claim.node}, but "
            f"trainer.devices is {trainer.devices} and trainer.num_nodes {nodes}: set both to what "
            "was started (or unset leftover variables: env -u LOCAL_RANK -u NODE_RANK COMMAND)"
        )
    missing = [name for name in OWN if name not in os.environ] if nodes > 1 else []
    if missing:
        raise ConfigurationError(
            f"trainer.num_nodes is {nodes}, but the environment has no address of the first node "
            f"or rank of this one: start the command with torchrun or srun, or set "
            f"{', '.join(missing)}"
        )
    rank = claim.node * here + claim.local_rank
    return World(rank, here * nodes, trainer.devices, nodes, trainer.strategy, LIGHTNING)


def _count(devices: Any, accelerator: Any) -> int:
    """Return the number of devices in ``trainer.devices``."""
    if isinstance(devices, list | tuple):
        return max(1, len(devices))  # Lightning refuses an empty list
    text = str(devices).strip()
    if "," in text:
        return max(1, len([part for part in text.split(",") if part.strip()]))
    if text.isdecimal():
        return max(1, int(text))
    if accelerator == "cpu":
        return 1
    import torch

    return torch.cuda.device_count() or 1
