"""``--trainer.strategy fsdp``: parameters, gradients and optimiser states sharded over all ranks.

FSDP 2 through Lightning's ``ModelParallelStrategy``, which lets the model shard itself. Checkpoints
are single files as of any other run: a run may continue with ``ddp``, on another number of
processes, or on one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.optim import Optimizer

from commands.lightning_internals import set_data_parallel_size

WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)


class FullySharded(ModelParallelStrategy):
    """Shard each block of each network, then the rest of the network.

    A block is a member of a ``ModuleList`` or ``Sequential``. Only ``forward`` and the methods in a
    network's attribute ``called`` may be called: others would see parameters that are not gathered.
    Networks that are completely frozen, such as autoencoders and text encoders, are not
    sharded.
    """

    def __init__(self) -> None:
        super().__init__(tensor_parallel_size=1, save_distributed_checkpoint=False)
        self._before: dict[str, torch.Tensor] = {}  # layouts of the unsharded parameters

    @property
    def lightning_restore_optimizer(self) -> bool:
        """True: ``load_optimizer_state_dict`` loads the states from the single file."""
        return True

    def setup_environment(self) -> None:
        """Start the process group; all processes share one copy of the parameters."""
        set_data_parallel_size(self, self.num_nodes * self.num_processes)
        super().setup_environment()

    def setup(self, trainer: Trainer) -> None:
        """Shard the model, then create its optimisers."""
        model = self._whole()
        mesh = self.device_mesh["data_parallel"]
        self.model_to_device()
        # Convolution weights may be channels-last, which cannot be sharded.
        self._before = {n: torch.empty_like(p, device="meta") for n, p in model.named_parameters()}
        for parameter in model.parameters():
            parameter.data = parameter.data.contiguous()
        for network in model.children():
            if not any(parameter.requires_grad for parameter in network.parameters()):
                continue
            for block in reversed(list(_blocks(network))):  # inner blocks first
                fully_shard(block, mesh=mesh)
            fully_shard(network, mesh=mesh)
            for method in getattr(network, "called", ()):
                register_fsdp_forward_method(network, method)
        model.configure_model = _done  # type: ignore[method-assign]  # Lightning requires it
        super().setup(trainer)

    def load_checkpoint(
        self, checkpoint_path: Any, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Return the whole file, on each process."""
        path = Path(self.broadcast(checkpoint_path))
        loaded: dict[str, Any] = torch.load(
            path, map_location="cpu", mmap=True, weights_only=weights_only is not False
        )
        return loaded

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Load this process's shard of the weights."""
        options = StateDictOptions(full_state_dict=True, strict=strict)
        set_model_state_dict(self._whole(), checkpoint["state_dict"], options=options)

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """Return the unsharded state on the first process, and an empty one on the others."""
        plain = optimizer.optimizer if isinstance(optimizer, LightningOptimizer) else optimizer
        if not plain.state:  # before the first step, torch would take one to create states
            return plain.state_dict() if self.global_rank == 0 else {}
        whole: dict[str, Any] = dict(get_optimizer_state_dict(self._whole(), plain, options=WHOLE))
        if self.global_rank != 0:
            return {}
        numbers = {name: i for i, name in enumerate(self._names(plain))}
        return {
            "state": {
                numbers[name]: {key: self._as_before(name, value) for key, value in state.items()}
                for name, state in whole["state"].items()
            },
            "param_groups": [
                {**group, "params": [numbers[name] for name in group["params"]]}
                for group in whole["param_groups"]
            ],
        }

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Load this process's shard of the states."""
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            if not state["state"]:
                continue
            names = self._names(optimizer)
            named: Any = {
                "state": {
                    names[i]: {key: _contiguous(value) for key, value in values.items()}
                    for i, values in state["state"].items()
                },
                "param_groups": [
                    {**group, "params": [names[i] for i in group["params"]]}
                    for group in state["param_groups"]
                ],
            }
            options = StateDictOptions(full_state_dict=True)
            set_optimizer_state_dict(self._whole(), optimizer, named, options=options)

    def _as_before(self, name: str, value: Any) -> Any:
        # A fused optimiser reads weights and states in memory order, and does not check that both
        # have the same layout.
        before = self._before[name]
        if not isinstance(value, torch.Tensor) or value.shape != before.shape:
            return value
        return torch.empty_strided(before.shape, before.stride(), dtype=value.dtype).copy_(value)

    def _whole(self) -> LightningModule:
        module = self.lightning_module
        if module is None:
            raise RuntimeError("the trainer has not connected its model yet")
        return module

    def _names(self, optimizer: Optimizer) -> list[str]:
        known = {id(p): name for name, p in self._whole().named_parameters()}
        return [known[id(p)] for group in optimizer.param_groups for p in group["params"]]


def _blocks(network: nn.Module) -> Iterator[nn.Module]:
    for module in network.modules():
        if isinstance(module, nn.ModuleList | nn.Sequential) and module is not network:
            for block in module.children():
                if _has_parameters(block) and any(True for _ in block.children()):
                    yield block


def _has_parameters(module: nn.Module) -> bool:
    return any(True for _ in module.parameters())


def _contiguous(value: Any) -> Any:
    return value.contiguous() if isinstance(value, torch.Tensor) else value


def _done() -> None:
    return
