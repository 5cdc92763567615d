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
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from commands.errors import ConfigurationError

if TYPE_CHECKING:
    from jsonargparse import Namespace
    from lightning.pytorch import Trainer


class Launcher(NamedTuple):
    """The variables that a launcher sets for a process; '' for those that it does not set."""

    name: str
    rank: str
    world: str
    local_rank: str
    local_world: str = ""  # processes on each node
    nodes: str = ""

    @property
    def variables(self) -> tuple[str, ...]:
        """Names of all variables."""
        return tuple(name for name in self[1:] if name)


TORCHRUN = Launcher(
    "torchrun", "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_WORLD_SIZE"
)
SLURM = Launcher(
    *("SLURM", "SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID"),
    *("SLURM_NTASKS_PER_NODE", "SLURM_NNODES"),
)
# Set by hand, by Kubernetes' PyTorchJob, DeepSpeed and others; Lightning's own have no RANK.
PLAIN = Launcher("the environment", "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
# Variables by which other launchers tell the number of processes.
OTHERS = (
    *("JSM_NAMESPACE_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE"),
    "HOROVOD_SIZE",
)
SIGN = "TORCHELASTIC_RUN_ID"  # by which torch and Lightning detect torchrun
ADDRESS = ("MASTER_ADDR", "MASTER_PORT")
LOOPBACK = ("127.0.0.1", "localhost", "::1")
INTERACTIVE = ("bash", "interactive")  # names of SLURM jobs that Lightning treats as a shell


class Claim(NamedTuple):
    """What the environment says about this process; None for what it does not say."""

    launcher: Launcher
    rank: int | None
    world: int | None
    local_rank: int | None
    local_world: int | None
    nodes: int | None
    node: int | None = None  # rank of this process's node

    @property
    def several(self) -> bool:
        """Whether there are other processes."""
        return not self.is_first or (self.world or 1) > 1

    @property
    def is_first(self) -> bool:
        """Whether this is the first process of all."""
        return not self.rank if self.rank is not None else not (self.local_rank or self.node)

    @property
    def said(self) -> str:
        """The variables and their values, for messages."""
        given = {self.launcher.rank: self.rank, self.launcher.world: self.world}
        if self.rank is None:
            given |= {self.launcher.local_rank: self.local_rank, "NODE_RANK": self.node}
        parts = [f"{name} is {value}" for name, value in given.items() if value is not None]
        return f"in the environment {' and '.join(parts)}"

    @property
    def unset(self) -> str:
        """How to unset the variables, for messages."""
        names = [name for name in (*self.launcher.variables, "NODE_RANK") if name in os.environ]
        return f"(or unset leftover variables: env {' '.join(f'-u {n}' for n in names)} COMMAND)"


class World(NamedTuple):
    """The trainer's processes, and which of them this is."""

    rank: int
    size: int
    devices: Any
    num_nodes: int
    strategy: Any
    claim: Claim
    local_rank: int = 0

    @property
    def is_first(self) -> bool:
        """Whether this is the first process of all nodes, which writes the run directory."""
        return self.rank == 0

    def check(self, trainer: Trainer) -> None:
        """Compare with the trainer as built: its plugins or strategy may disagree.

        Raises:
            ConfigurationError: If its rank or number of processes differs.
        """
        made = (trainer.global_rank, trainer.world_size)
        size = self.size if self.claim.several else trainer.world_size
        if made != (self.rank, size):
            raise ConfigurationError(
                f"this is process {self.rank} of {size}, but the trainer, by its strategy "
                f"{type(trainer.strategy).__name__} and its plugins, is process {made[0]} of "
                f"{made[1]}: remove trainer.plugins and trainer.strategy {self.claim.unset}"
            )


# ------------------------------------------------------------------------------- the environment


def claimed(environment: Mapping[str, str] = os.environ) -> Claim:
    """Return what the environment says about this process, whatever launcher started it.

    Args:
        environment: The variables.

    Raises:
        ConfigurationError: If variables are not numbers, contradict each other, or are missing.
    """
    claim = _claimed(environment)
    if claim.several:
        _number("MASTER_PORT", environment)  # must be a number if set
    return claim


def _claimed(environment: Mapping[str, str]) -> Claim:
    if SIGN in environment:
        missing = [name for name in TORCHRUN.variables if name not in environment]
        if missing:
            raise ConfigurationError(
                f"{SIGN} is set, as torchrun does, but {', '.join(missing)} is not: start the "
                f"command with torchrun, or without that variable (env -u {SIGN} COMMAND)"
            )
        return _read(TORCHRUN, environment)
    found = [_read(launcher, environment) for launcher in (SLURM, PLAIN)]
    several = [claim for claim in found if claim.several]
    for other in several[1:]:
        _refuse_contradiction(several[0], other)
    ranked = [claim for claim in several if claim.rank is not None]
    single = [claim for claim in found if claim.world == 1]
    chosen = next(iter([*ranked, *several, *single, found[1]]))
    _refuse_without_torchrun(chosen, environment)
    for name in OTHERS if not chosen.several else ():
        if (_number(name, environment) or 1) > 1:
            raise ConfigurationError(
                f"the environment variable {name} is {environment[name]}: start the processes with "
                "torchrun or srun, or set RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and "
                "MASTER_PORT for each of them"
            )
    return chosen


def _read(launcher: Launcher, environment: Mapping[str, str]) -> Claim:
    rank, world, local_rank, local_world, nodes = (
        _number(name, environment) for name in launcher[1:]
    )
    node = None
    if launcher is PLAIN and rank is None:
        node = _number("NODE_RANK", environment)
        node = _number("GROUP_RANK", environment) if node is None else node
    if launcher is not PLAIN and not rank and (world is None or _is_shell(launcher, environment)):
        rank = world = local_rank = None  # an allocation, with this single process
    claim = Claim(launcher, rank, world, local_rank, local_world, nodes, node)
    if world == 0 or (world is not None and (rank or 0) >= world):
        raise ConfigurationError(
            f"{claim.said}: ranks must be from 0 to the number of processes - 1 {claim.unset}"
        )
    if rank is not None and (local_rank or 0) > rank:
        raise ConfigurationError(
            f"{claim.said}, and {launcher.local_rank} {local_rank}, which must not exceed the rank "
            f"{claim.unset}"
        )
    return claim


def _is_shell(launcher: Launcher, environment: Mapping[str, str]) -> bool:
    # The shell of an allocation; srun within it sets the number of started tasks.
    tasks = _number("SLURM_STEP_NUM_TASKS", environment) or 1
    named = environment.get("SLURM_JOB_NAME") in INTERACTIVE
    return launcher is SLURM and named and tasks == 1


def _number(name: str, environment: Mapping[str, str]) -> int | None:
    text = environment.get(name) if name else None
    if text is None:
        return None
    if not text.strip().isdecimal():
        raise ConfigurationError(
            f"the environment variable {name} is {text!r}, but must be a whole number, by which "
            f"processes find each other: set it, or unset it (env -u {name} COMMAND)"
        )
    return int(text)


def _refuse_contradiction(one: Claim, other: Claim) -> None:
    for name in ("rank", "world", "local_rank"):
        mine, theirs = getattr(one, name), getattr(other, name)
        if None not in (mine, theirs) and mine != theirs:
            raise ConfigurationError(
                f"{one.said}, but {other.said}: {one.launcher.name} and {other.launcher.name} "
                "disagree about this process; unset the variables of the launcher that did not "
                f"start it ({', '.join(one.launcher.variables)}; or "
                f"{', '.join(other.launcher.variables)})"
            )


def _refuse_without_torchrun(claim: Claim, environment: Mapping[str, str]) -> None:
    # Kubeflow sets torchrun's arguments in a container, but the command must call torchrun.
    given = {name: environment.get(f"PET_{name}", "1") for name in ("NNODES", "NPROC_PER_NODE")}
    counts = [value.rpartition(":")[2] for value in given.values()]
    asked = [int(count) if count.isdecimal() else 1 for count in counts]
    if asked[0] * asked[1] > 1 and (asked[1] > 1 or not claim.several):
        raise ConfigurationError(
            f"in the environment PET_NNODES is {given['NNODES']} and PET_NPROC_PER_NODE "
            f"{given['NPROC_PER_NODE']}, which torchrun reads, but torchrun has not started this "
            "process: write torchrun instead of python"
        )


# ----------------------------------------------------------------------------------- the trainer


def agree(
    trainer: Namespace, environment: Mapping[str, str] = os.environ, command: str = "fit"
) -> World:
    """Return the processes on which trainer and environment agree.

    Defaults of ``trainer.devices``, ``num_nodes`` and ``strategy`` are replaced by the launcher's
    values: Lightning would count the devices of the machine (one on a CPU), and each process would
    do the whole work alone.

    Args:
        trainer: The trainer's arguments.
        environment: The variables.
        command: Name of the command; ``export`` runs in one process.

    Raises:
        ConfigurationError: If trainer and environment differ in the number of processes.
    """
    claim = claimed(environment)
    if command == "export" and claim.several:
        raise ConfigurationError(
            f"{claim.said}, but export runs in one process: start it once {claim.unset}"
        )
    if claim.rank is None:
        return _started_by_lightning(claim, trainer, environment)
    devices, nodes = trainer.devices, trainer.num_nodes
    shape, known = _shape(claim, trainer, environment)
    if shape is not None and known:
        devices = shape[0] if devices == "auto" else devices
        nodes = shape[1] if nodes == 1 else nodes
    elif shape is not None and (devices, nodes) == ("auto", 1):
        devices, nodes = shape
    here = _count(devices, trainer.accelerator)
    wrong = here * nodes != claim.world
    if claim.world is None:
        wrong = claim.rank > 0 or here * nodes > 1
    if wrong or (known and (here, nodes) != shape):
        raise ConfigurationError(_mismatch(claim, trainer, shape, here * trainer.num_nodes))
    local_rank = claim.rank % here if claim.local_rank is None else claim.local_rank
    if local_rank >= here:
        raise ConfigurationError(
            f"{claim.said}, and {claim.launcher.local_rank} {local_rank}, but trainer.devices is "
            f"{devices}: set --trainer.devices to the number of processes on each node, and "
            "--trainer.num_nodes to the number of nodes"
        )
    if claim.several:
        _refuse_without_address(claim, environment)
    strategy = trainer.strategy
    strategy = "ddp" if strategy == "auto" and claim.several else strategy
    return World(claim.rank, here * nodes, devices, nodes, strategy, claim, local_rank)


def _started_by_lightning(
    claim: Claim, trainer: Namespace, environment: Mapping[str, str]
) -> World:
    # One process on each node, from which Lightning starts the others with LOCAL_RANK and
    # WORLD_SIZE.
    here, nodes = _count(trainer.devices, trainer.accelerator), trainer.num_nodes
    size, local_rank, node = here * nodes, claim.local_rank or 0, claim.node or 0
    if claim.launcher is not PLAIN:
        raise ConfigurationError(
            f"{claim.said}, but {claim.launcher.rank}, the rank of this process, is not set: start "
            f"the command with {claim.launcher.name}'s launcher {claim.unset}"
        )
    if claim.world not in (None, size) or local_rank >= here or node >= nodes:
        raise ConfigurationError(_mismatch(claim, trainer, None, size))
    if size > 1:
        _number("MASTER_PORT", environment)
    if size > 1 and (nodes > 1 or claim.local_rank is not None):
        needed = [*ADDRESS, *(["NODE_RANK"] if nodes > 1 and claim.node is None else [])]
        missing = [name for name in needed if name not in environment]
        if missing:
            raise ConfigurationError(
                f"trainer.devices is {trainer.devices} and trainer.num_nodes {nodes}, but the "
                "environment has no address or rank of this process: start it with torchrun or "
                f"srun, or set {', '.join(missing)}"
            )
    given = (trainer.devices, nodes, trainer.strategy)
    return World(node * here + local_rank, size, *given, claim, local_rank)


def _shape(
    claim: Claim, trainer: Namespace, environment: Mapping[str, str]
) -> tuple[tuple[int, int] | None, bool]:
    """Return (processes on each node, nodes), and whether that is known rather than likely."""
    world, here = claim.world or 1, claim.local_world
    if world == 1:
        return ((1, 1), True) if claim.launcher is TORCHRUN else (None, False)
    if claim.launcher is SLURM:
        return _shape_by_slurm(claim, trainer, environment), True
    if here:
        if world % here:
            raise ConfigurationError(
                f"{claim.said}, and {claim.launcher.local_world} {here}: all nodes must have the "
                "same number of processes"
            )
        return (here, claim.nodes or world // here), True
    if environment.get("MASTER_ADDR") in LOOPBACK:  # all are on this machine
        return (world, 1), False
    return ((1, world), False) if claim.local_rank is None else (None, False)


def _shape_by_slurm(
    claim: Claim, trainer: Namespace, environment: Mapping[str, str]
) -> tuple[int, int]:
    world, here = claim.world or 1, claim.local_world
    nodes = claim.nodes or (world // here if here else 1)
    if here is None or here * nodes != world:
        each = world // nodes if world % nodes == 0 else "N"
        raise ConfigurationError(
            f"SLURM has started {world} tasks on {nodes} nodes, but not the same number on each by "
            f"--ntasks-per-node: give sbatch or srun --nodes {nodes} --ntasks-per-node {each} "
            "instead of --ntasks"
        )
    # An sbatch script without srun is a single process in an allocation for several.
    if trainer.devices == "auto" and not _number("SLURM_STEP_NUM_TASKS", environment):
        raise ConfigurationError(
            f"{claim.said}, but srun does not seem to have started this process: start it with "
            f"srun and --trainer.devices {here} --trainer.num_nodes {nodes}, or alone with "
            "srun --ntasks 1"
        )
    return here, nodes


def _refuse_without_address(claim: Claim, environment: Mapping[str, str]) -> None:
    if claim.launcher in (TORCHRUN, SLURM):
        return
    missing = [name for name in ADDRESS if name not in environment]
    if missing:
        raise ConfigurationError(
            f"{claim.said}, but not the address of the first process: set {' and '.join(missing)} "
            f"(a host and a free port of it) for all of them, or start them with torchrun "
            f"{claim.unset}"
        )


def _mismatch(
    claim: Claim, trainer: Namespace, shape: tuple[int, int] | None, processes: int
) -> str:
    given = f"trainer.devices is {trainer.devices} and trainer.num_nodes {trainer.num_nodes}"
    if claim.launcher in (TORCHRUN, SLURM) and shape is not None:
        return (
            f"{claim.launcher.name} has started {shape[0]} processes on each of {shape[1]} nodes, "
            f"but {given}: remove both, or set them to {shape[0]} and {shape[1]}"
        )
    number = "1 process" if processes == 1 else f"{processes} processes"
    fix = "set --trainer.devices and --trainer.num_nodes to what was started"
    shape = (1, 1) if claim.world == 1 else shape
    if shape is not None:
        fix = f"set --trainer.devices {shape[0]} --trainer.num_nodes {shape[1]}"
    return f"{claim.said}, but {given}, which makes {number}: {fix} {claim.unset}"


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
