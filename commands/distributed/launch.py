"""Launchers and strategies: torchrun, SLURM, FSDP.

FSDP 2 through Lightning's ``ModelParallelStrategy``, which lets the model shard itself. Checkpoints
are single files, as in any other run: a run may continue with ``ddp``, on another number of
processes, or on one.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from jsonargparse import Namespace
from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import (
    BatchSizeFinder,
    LearningRateFinder,
    ModelPruning,
    OnExceptionCheckpoint,
    StochasticWeightAveraging,
    WeightAveraging,
)
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.strategies import (
    DDPStrategy,
    DeepSpeedStrategy,
    ModelParallelStrategy,
    SingleDeviceStrategy,
)
from lightning.pytorch.trainer.states import TrainerFn
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.optim import Optimizer

from commands.errors import ConfigurationError
from commands.world import SLURM, World
from files.waits import WAITS
from files.weights import read_file
from lightning_modules.parallel import networks, refuse_other_results

# Lightning callbacks that cannot run here, and the reason.
REFUSED = {
    BatchSizeFinder: (
        "the order of the samples depends on the batch size: set data.init_args.batch_size"
    ),
    LearningRateFinder: (
        "its trial steps would count as steps of the run: set the learning rate of "
        "model.init_args.optimizer"
    ),
    WeightAveraging: "a continued run would train on from its averages: use callbacks.EMA",
    StochasticWeightAveraging: "no command uses its averages: use callbacks.EMA",
    OnExceptionCheckpoint: (
        "Lightning would resume from its file by itself: a run continues from the newest file of "
        "the group checkpoint"
    ),
    ModelPruning: "checkpoints do not hold its masks: prune the trained weights",
}
# Others pass a run to processes after it was built, or have checkpoints of another format.
DDP = ("ddp", "ddp_find_unused_parameters_false", "ddp_find_unused_parameters_true")
STRATEGIES = ("auto", *DDP, "fsdp")
STRATEGY_CLASSES = (DDPStrategy, ModelParallelStrategy, SingleDeviceStrategy)
# Trainer arguments that must be positive: Lightning divides by them, or trains nothing.
COUNTS = (
    "accumulate_grad_batches",
    "limit_train_batches",
    "val_check_interval",
    "check_val_every_n_epoch",
)
# Tensors on the CPU and Python objects go by gloo: no process waits for its GPU to exchange them.
# Lightning's own is NCCL alone.
BACKENDS = "cpu:gloo,cuda:nccl"
WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)


def refuse_unsupported(trainer: Namespace, callbacks: list[Any]) -> None:
    """Raise for trainer arguments and callbacks that cannot run here, before any work.

    Args:
        trainer: The trainer's arguments.
        callbacks: Callbacks of the configuration.

    Raises:
        ConfigurationError: If a strategy or a callback is not supported, a count is not positive,
            or the limit of gradients is negative.
    """
    for key in COUNTS:
        value = trainer[key]
        if isinstance(value, int | float) and value <= 0:
            raise ConfigurationError(
                f"trainer.{key} is {value}: it must be above 0 (--trainer.limit_val_batches 0 "
                "turns validation off)"
            )
    every = trainer.val_check_interval
    if not (every is None or isinstance(every, int | float)):
        raise ConfigurationError(
            f"trainer.val_check_interval is the time {every}, which each process would measure by "
            "its own clock: give it in batches"
        )
    clip = trainer.gradient_clip_val
    if isinstance(clip, int | float) and clip < 0:  # Lightning would not clip at all
        raise ConfigurationError(f"trainer.gradient_clip_val is {clip}: it must be at least 0")
    strategy = trainer.strategy
    is_supported = strategy in STRATEGIES or isinstance(strategy, STRATEGY_CLASSES)
    if not is_supported or isinstance(strategy, DeepSpeedStrategy):  # which is a DDPStrategy, too
        name = strategy if isinstance(strategy, str) else type(strategy).__name__
        raise ConfigurationError(
            f"trainer.strategy is {name!r}, which is not supported: set it to ddp or fsdp"
        )
    for callback in callbacks:
        for kind, reason in REFUSED.items():
            if isinstance(callback, kind):
                name = type(callback).__name__
                raise ConfigurationError(f"trainer.callbacks has {name}, but {reason}; remove it")


def own_plugins(plugins: Any, strategy: Any, world: World) -> Any:
    """Return the trainer's plugins, with an environment where Lightning's own does not fit.

    Args:
        plugins: Plugins of the configuration; an environment among them is kept.
        strategy: Strategy of the trainer, which may have its own environment.
        world: The processes.
    """
    plugins = plugins or []
    plugins = list(plugins) if isinstance(plugins, list | tuple) else [plugins]
    has_environment = getattr(strategy, "cluster_environment", None) is not None
    has_environment |= any(isinstance(plugin, ClusterEnvironment) for plugin in plugins)
    if world.launcher is SLURM and not has_environment:
        # Lightning's requeueing saves from inside a signal handler, in the middle of a step; we
        # resume from the last checkpoint when SLURM starts the job again.
        plugins.append(SLURMEnvironment(auto_requeue=False))
    return plugins


def own_strategy(strategy: Any, accelerator: Any, processes: int) -> Any:
    """Return ``trainer.strategy``, where it is a name of DDP or FSDP with our own settings.

    Args:
        strategy: Strategy of the configuration; objects are kept. ``auto`` is ``ddp`` for several
            processes, as it is for Lightning.
        accelerator: Accelerator of the configuration.
        processes: Number of processes.
    """
    cuda = accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()
    backend = BACKENDS if cuda else None
    if strategy == "fsdp":
        return FullySharded(processes, backend)
    if strategy == "auto" and processes > 1:
        strategy = "ddp"
    if strategy in DDP:
        limit, finds = timedelta(seconds=WAITS.limit), strategy.endswith("_true")
        return DDPStrategy(
            process_group_backend=backend, timeout=limit, find_unused_parameters=finds
        )
    return strategy


class FullySharded(ModelParallelStrategy):
    """Shard each block of each network, then the rest of the network.

    A block is a member of a ``ModuleList`` or ``Sequential``. Only ``forward`` and the methods in a
    network's attribute ``called`` may be called: others would see parameters that are not gathered.
    Networks that are completely frozen, such as autoencoders and text encoders, are not
    sharded.

    In a validation each process holds the whole parameters: processes have different numbers of
    images and of tiles, and one that gathers parameters waits for all others. Other evaluations do
    not shard.

    Args:
        processes: Number of processes, which share one copy of the parameters.
        backend: Backend of the process group; by default Lightning's for the device.
    """

    def __init__(self, processes: int, backend: str | None = None) -> None:
        super().__init__(
            data_parallel_size=processes,
            tensor_parallel_size=1,
            save_distributed_checkpoint=False,
            process_group_backend=backend,
            timeout=timedelta(seconds=WAITS.limit),
        )
        # The unsharded parameters' shapes and memory formats, by name: tensors without data.
        self._layouts: dict[str, torch.Tensor] = {}
        # What is sharded, and whether it is sharded again after its forward pass in training.
        self._parts: dict[FSDPModule, bool] = {}

    @property
    def lightning_restore_optimizer(self) -> bool:
        """True: ``load_optimizer_state_dict`` loads the states from the single file."""
        return True

    def setup(self, trainer: Trainer) -> None:
        """Shard a model that is trained, then create its optimisers."""
        self._parts = {}
        if trainer.state.fn == TrainerFn.FITTING:
            self._shard(self._connected_model())
        super().setup(trainer)

    def _shard(self, model: LightningModule) -> None:
        self.model_to_device()
        refuse_other_results(model)
        mesh = self.device_mesh["data_parallel"]
        # Convolution weights may be channels-last, which cannot be sharded.
        for name, parameter in model.named_parameters():
            self._layouts[name] = torch.empty_like(parameter, device="meta")
        for parameter in model.parameters():
            parameter.data = parameter.data.contiguous()
        for network in networks(model):
            if not any(parameter.requires_grad for parameter in network.parameters()):
                continue
            for block in reversed(list(_blocks_to_shard(network))):  # inner blocks first
                self._parts[fully_shard(block, mesh=mesh, reshard_after_forward=True)] = True
            # The backward pass begins with the rest.
            self._parts[fully_shard(network, mesh=mesh, reshard_after_forward=False)] = False
            for method in getattr(network, "called", ()):
                register_fsdp_forward_method(network, method)

    def on_validation_start(self) -> None:
        """Gather the whole parameters on each process."""
        for part in self._parts:
            part.set_reshard_after_forward(False, recurse=False)
            part.unshard()

    def on_validation_end(self) -> None:
        """Shard them again."""
        for part, reshards in self._parts.items():
            part.set_reshard_after_forward(reshards, recurse=False)
            part.reshard()

    def load_checkpoint(
        self, checkpoint_path: Any, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Return the whole file, on each process."""
        path = Path(self.broadcast(checkpoint_path))
        return read_file(path, mapped=True)

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Load this process's shard of the weights."""
        options = StateDictOptions(full_state_dict=True, strict=strict)
        set_model_state_dict(self._connected_model(), checkpoint["state_dict"], options=options)

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """Return the unsharded state on the first process, and an empty one on the others."""
        plain = optimizer.optimizer if isinstance(optimizer, LightningOptimizer) else optimizer
        if not plain.state:  # before the first step, torch would take one to create states
            return plain.state_dict() if self.global_rank == 0 else {}
        whole: dict[str, Any] = dict(
            get_optimizer_state_dict(self._connected_model(), plain, options=WHOLE)
        )
        if self.global_rank != 0:
            return {}
        numbers = {name: i for i, name in enumerate(self._parameter_names(plain))}
        return _convert_optimizer_state(whole, numbers, self._in_unsharded_layout)

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Load this process's shard of the states."""
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            if not state["state"]:
                continue
            names = self._parameter_names(optimizer)
            named = _convert_optimizer_state(state, names, _in_plain_layout)
            options = StateDictOptions(full_state_dict=True)
            set_optimizer_state_dict(self._connected_model(), optimizer, named, options=options)

    def _in_unsharded_layout(self, name: str, value: Any) -> Any:
        """Return a value of an optimiser's state in the memory format of its parameter.

        A fused optimiser reads weights and states in memory order, and does not check that both
        have the same format.
        """
        layout = self._layouts[name]
        if not isinstance(value, torch.Tensor) or value.shape != layout.shape:
            return value
        return torch.empty_strided(layout.shape, layout.stride(), dtype=value.dtype).copy_(value)

    def _connected_model(self) -> LightningModule:
        """Return the model that the trainer has given to this strategy."""
        module = self.lightning_module
        if module is None:
            raise RuntimeError("the trainer has not connected its model yet")
        return module

    def _parameter_names(self, optimizer: Optimizer) -> list[str]:
        """Return the names of an optimiser's parameters, in the order of its groups."""
        names = {id(p): name for name, p in self._connected_model().named_parameters()}
        parameters = itertools.chain(*(group["params"] for group in optimizer.param_groups))
        return [names[id(parameter)] for parameter in parameters]


def _blocks_to_shard(network: nn.Module) -> Iterator[nn.Module]:
    """Yield what is sharded by itself: each member of a ``ModuleList`` or ``Sequential``.

    Without lists of lists, which have no forward, and layers without layers of their own.
    """
    for module in network.modules():
        if isinstance(module, nn.ModuleList | nn.Sequential) and module is not network:
            for block in module.children():
                is_list = isinstance(block, nn.ModuleList | nn.ModuleDict)  # it has no forward
                if is_list or not any(True for _ in block.children()):
                    continue
                if any(True for _ in block.parameters()):
                    yield block


def _convert_optimizer_state(
    optimizer_state: Any, names: Any, convert: Callable[[Any, Any], Any]
) -> dict[Any, Any]:
    """Return an optimiser's ``state_dict`` with parameters by names instead of numbers, or back.

    Args:
        optimizer_state: The ``state_dict``.
        names: The new name or number of each parameter, by the old one.
        convert: Called with an old name and each of its values; returns the new value.
    """
    states = {}
    for old, values in optimizer_state["state"].items():
        states[names[old]] = {key: convert(old, value) for key, value in values.items()}
    groups = []
    for group in optimizer_state["param_groups"]:
        groups.append({**group, "params": [names[old] for old in group["params"]]})
    return {"state": states, "param_groups": groups}


def _in_plain_layout(_: Any, value: Any) -> Any:
    """Return a value in plain memory order; sharded tensors have no other."""
    return value.contiguous() if isinstance(value, torch.Tensor) else value
