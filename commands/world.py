"""How many processes a run has and which one this is: by the environment and by the trainer.

Lightning takes a process's rank from the environment and its number of processes from the trainer's
arguments, and never compares them. Two processes that each believe to be alone would train in one
directory; one that a leftover ``RANK=1`` calls the second would write nothing. So both are compared
here before anything is written, and the first process, which locks the run, is decided here alone.

Imports nothing but the standard library at first: Lightning reads the variables when it is
imported, and fails with a traceback where one of them is no number.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from commands.errors import ConfigurationError

if TYPE_CHECKING:
    from jsonargparse import Namespace
    from lightning.pytorch import Trainer


class Launcher(NamedTuple):
    """The variables in which a launcher tells a process what it is; '' where it has none."""

    name: str
    rank: str
    world: str
    local_rank: str
    local_world: str = ""  # processes on each node
    nodes: str = ""

    @property
    def variables(self) -> tuple[str, ...]:
        """All of them."""
        return tuple(name for name in self[1:] if name)


TORCHRUN = Launcher(
    "torchrun", "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_WORLD_SIZE"
)
SLURM = Launcher(
    *("SLURM", "SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID"),
    *("SLURM_NTASKS_PER_NODE", "SLURM_NNODES"),
)
# By hand, by Kubernetes' PyTorchJob, DeepSpeed and others; Lightning gives no RANK to its own.
PLAIN = Launcher("the environment", "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
OTHERS = (
    Launcher("jsrun", "JSM_NAMESPACE_RANK", "JSM_NAMESPACE_SIZE", "JSM_NAMESPACE_LOCAL_RANK"),
    Launcher(
        *("Open MPI", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
        *("OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE"),
    ),
    Launcher("MPICH", "PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"),
    Launcher(
        *("MVAPICH", "MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_SIZE"),
        *("MV2_COMM_WORLD_LOCAL_RANK", "MV2_COMM_WORLD_LOCAL_SIZE"),
    ),
    Launcher("Horovod", "HOROVOD_RANK", "HOROVOD_SIZE", "HOROVOD_LOCAL_RANK", "HOROVOD_LOCAL_SIZE"),
)
SIGN = "TORCHELASTIC_RUN_ID"  # by which torch and Lightning tell torchrun's processes
ADDRESS = ("MASTER_ADDR", "MASTER_PORT")
LOOPBACK = ("127.0.0.1", "localhost", "::1")
INTERACTIVE = ("bash", "interactive")  # names of SLURM jobs that Lightning takes for a shell


class Claim(NamedTuple):
    """What the environment says of this process; None where it does not."""

    launcher: Launcher
    rank: int | None
    world: int | None
    local_rank: int | None
    local_world: int | None
    nodes: int | None
    node: int | None = None  # number of this process's node

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
        """How to run without what it says."""
        names = [name for name in (*self.launcher.variables, "NODE_RANK") if name in os.environ]
        return f"(or, where left over, unset: env {' '.join(f'-u {n}' for n in names)} COMMAND)"


class World(NamedTuple):
    """What the trainer is to be, and which of its processes this is."""

    rank: int
    size: int
    devices: Any
    num_nodes: int
    strategy: Any
    claim: Claim
    local_rank: int = 0

    @property
    def is_first(self) -> bool:
        """Whether this is the first process of all nodes, which writes the run's directory."""
        return self.rank == 0

    def check(self, trainer: Trainer) -> None:
        """Compare the trainer that was made: its plugins or its strategy may be of another mind.

        Raises:
            ConfigurationError: It is another process, or one of another number of processes.
        """
        made = (trainer.global_rank, trainer.world_size)
        size = self.size if self.claim.several else trainer.world_size
        if made != (self.rank, size):
            raise ConfigurationError(
                f"this is process {self.rank} of {size}, but the trainer, by its strategy "
                f"{type(trainer.strategy).__name__} and its plugins, is process {made[0]} of "
                f"{made[1]}: leave trainer.plugins and trainer.strategy out {self.claim.unset}"
            )


# ------------------------------------------------------------------------------- the environment


def claimed(environment: Mapping[str, str] = os.environ) -> Claim:
    """What the environment says of this process, by whichever launcher started it.

    Args:
        environment: The variables.

    Raises:
        ConfigurationError: They are no numbers, do not fit together, or lack one.
    """
    claim = _claimed(environment)
    if claim.several:
        _number("MASTER_PORT", environment)  # a number, where it is set
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
    found = [_read(launcher, environment) for launcher in (SLURM, PLAIN, *OTHERS)]
    several = [claim for claim in found if claim.several]
    for other in several[1:]:
        _refuse_contradiction(several[0], other)
    ranked = [claim for claim in several if claim.rank is not None]
    single = [claim for claim in found if claim.world == 1]
    chosen = next(iter([*ranked, *several, *single, found[1]]))
    _refuse_without_torchrun(chosen, environment)
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
        rank = world = local_rank = None  # of an allocation, in which this is one process
    claim = Claim(launcher, rank, world, local_rank, local_world, nodes, node)
    if world == 0 or (world is not None and (rank or 0) >= world):
        raise ConfigurationError(
            f"{claim.said}: ranks count from 0 to one below the number of processes {claim.unset}"
        )
    if rank is not None and (local_rank or 0) > rank:
        raise ConfigurationError(
            f"{claim.said}, and {launcher.local_rank} {local_rank}, which is never above the rank "
            f"{claim.unset}"
        )
    return claim


def _is_shell(launcher: Launcher, environment: Mapping[str, str]) -> bool:
    # The shell of an allocation; srun within it says how many tasks it has started.
    tasks = _number("SLURM_STEP_NUM_TASKS", environment) or 1
    named = environment.get("SLURM_JOB_NAME") in INTERACTIVE
    return launcher is SLURM and named and tasks == 1


def _number(name: str, environment: Mapping[str, str]) -> int | None:
    text = environment.get(name) if name else None
    if text is None:
        return None
    if not text.strip().isdecimal():
        raise ConfigurationError(
            f"the environment variable {name} is {text!r}, and must be a whole number, from which "
            f"processes find each other: set it, or leave it out (env -u {name} COMMAND)"
        )
    return int(text)


def _refuse_contradiction(one: Claim, other: Claim) -> None:
    for name in ("rank", "world", "local_rank"):
        mine, theirs = getattr(one, name), getattr(other, name)
        if None not in (mine, theirs) and mine != theirs:
            raise ConfigurationError(
                f"{one.said}, but {other.said}: {one.launcher.name} and {other.launcher.name} "
                "differ about which process this is; unset the variables of the one that did not "
                f"start it ({', '.join(one.launcher.variables)}; or "
                f"{', '.join(other.launcher.variables)})"
            )


def _refuse_without_torchrun(claim: Claim, environment: Mapping[str, str]) -> None:
    # Kubeflow sets torchrun's own arguments in a container, and leaves torchrun to the command.
    given = {name: environment.get(f"PET_{name}", "1") for name in ("NNODES", "NPROC_PER_NODE")}
    counts = [value.rpartition(":")[2] for value in given.values()]
    asked = [int(count) if count.isdecimal() else 1 for count in counts]
    if asked[0] * asked[1] > 1 and (asked[1] > 1 or not claim.several):
        raise ConfigurationError(
            f"in the environment PET_NNODES is {given['NNODES']} and PET_NPROC_PER_NODE "
            f"{given['NPROC_PER_NODE']}, which torchrun reads, but torchrun has not started this "
            "process: write torchrun in the place of python"
        )


# ----------------------------------------------------------------------------------- the trainer


def agree(
    trainer: Namespace, environment: Mapping[str, str] = os.environ, command: str = "fit"
) -> World:
    """Have the trainer train on all processes that were started, or refuse.

    What a launcher knows is filled in where ``trainer.devices``, ``num_nodes`` and ``strategy`` are
    at their defaults: Lightning counts the devices of the machine, on a CPU one, and each process
    would do the whole work by itself.

    Args:
        trainer: The trainer's arguments.
        environment: The variables.
        command: Of the command line; ``export`` is the work of one process.

    Raises:
        ConfigurationError: The trainer is of another number of processes than the environment.
    """
    claim = claimed(environment)
    if command == "export" and claim.several:
        raise ConfigurationError(
            f"{claim.said}, but export is the work of one process: start it once {claim.unset}"
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
            "--trainer.num_nodes to that of the nodes"
        )
    if claim.several:
        _refuse_without_address(claim, environment)
    strategy = trainer.strategy
    strategy = "ddp" if strategy == "auto" and claim.several else strategy
    return World(claim.rank, here * nodes, devices, nodes, strategy, claim, local_rank)


def _started_by_lightning(
    claim: Claim, trainer: Namespace, environment: Mapping[str, str]
) -> World:
    # One process a node, from which Lightning starts the others; they know LOCAL_RANK and
    # WORLD_SIZE.
    here, nodes = _count(trainer.devices, trainer.accelerator), trainer.num_nodes
    size, local_rank, node = here * nodes, claim.local_rank or 0, claim.node or 0
    if claim.launcher is not PLAIN:
        raise ConfigurationError(
            f"{claim.said}, but {claim.launcher.rank}, which says which of them this is, is not "
            f"set: start the command with {claim.launcher.name}'s launcher {claim.unset}"
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
                f"trainer.devices is {trainer.devices} and trainer.num_nodes {nodes}, but nothing "
                f"says where and as which of them this process meets the others: start it with "
                f"torchrun or srun, or set {', '.join(missing)}"
            )
    given = (trainer.devices, nodes, trainer.strategy)
    return World(node * here + local_rank, size, *given, claim, local_rank)


def _shape(
    claim: Claim, trainer: Namespace, environment: Mapping[str, str]
) -> tuple[tuple[int, int] | None, bool]:
    """Processes on each node and nodes, and whether that is known and not the likely one."""
    world, here = claim.world or 1, claim.local_world
    if world == 1:
        return ((1, 1), True) if claim.launcher is TORCHRUN else (None, False)
    if claim.launcher is SLURM:
        return _shape_by_slurm(claim, trainer, environment), True
    if here:
        if world % here:
            raise ConfigurationError(
                f"{claim.said}, and {claim.launcher.local_world} {here}: each node must have as "
                "many processes as the others"
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
            f"--ntasks-per-node: give sbatch or srun --nodes {nodes} --ntasks-per-node {each} in "
            "the place of --ntasks"
        )
    # A script of sbatch without srun is a single process of an allocation for several.
    if trainer.devices == "auto" and not _number("SLURM_STEP_NUM_TASKS", environment):
        raise ConfigurationError(
            f"{claim.said}, but srun does not seem to have started this process: start it with "
            f"srun and --trainer.devices {here} --trainer.num_nodes {nodes}, or alone with "
            "srun --ntasks 1"
        )
    return here, nodes


def _refuse_without_address(claim: Claim, environment: Mapping[str, str]) -> None:
    if claim.launcher in (TORCHRUN, SLURM) or knows_address(claim, environment):
        return
    missing = [name for name in ADDRESS if name not in environment]
    if missing:
        raise ConfigurationError(
            f"{claim.said}, but not where its processes meet: set {' and '.join(missing)} (a host, "
            f"and a free port of it) for all of them, or start them with torchrun {claim.unset}"
        )


def knows_address(claim: Claim, environment: Mapping[str, str]) -> bool:
    """Whether Lightning asks the launcher itself where processes meet, and needs no variables."""
    if all(name in environment for name in ADDRESS):
        return False
    if claim.launcher.name == "jsrun":
        return "LSB_DJOB_RANKFILE" in environment and "LSB_JOBID" in environment
    by_mpi = claim.launcher in OTHERS and claim.launcher.name != "Horovod"
    return by_mpi and importlib.util.find_spec("mpi4py") is not None


def _mismatch(
    claim: Claim, trainer: Namespace, shape: tuple[int, int] | None, processes: int
) -> str:
    given = f"trainer.devices is {trainer.devices} and trainer.num_nodes {trainer.num_nodes}"
    if claim.launcher in (TORCHRUN, SLURM) and shape is not None:
        return (
            f"{claim.launcher.name} has started {shape[0]} processes on each of {shape[1]} nodes, "
            f"but {given}: leave both out, or set them to {shape[0]} and {shape[1]}"
        )
    number = "1 process" if processes == 1 else f"{processes} processes"
    mend = "set --trainer.devices and --trainer.num_nodes to what was started"
    shape = (1, 1) if claim.world == 1 else shape
    if shape is not None:
        mend = f"set --trainer.devices {shape[0]} --trainer.num_nodes {shape[1]}"
    return f"{claim.said}, but {given}, which makes {number}: {mend} {claim.unset}"


def _count(devices: Any, accelerator: Any) -> int:
    """Number of devices that ``trainer.devices`` means."""
    if isinstance(devices, list | tuple):
        return max(1, len(devices))  # Lightning refuses none
    text = str(devices).strip()
    if "," in text:
        return max(1, len([part for part in text.split(",") if part.strip()]))
    if text.isdecimal():
        return max(1, int(text))
    if accelerator == "cpu":
        return 1
    import torch

    return torch.cuda.device_count() or 1
