"""What several processes can train: one rule for all methods, by their modules and parameters.

DDP averages the gradients of all parameters. FSDP shards those of networks, which are the outermost
modules with a ``forward``, and averages no others.
"""

from __future__ import annotations

from collections.abc import Iterator

from lightning.pytorch import LightningModule
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase


def refuse_other_results(method: LightningModule) -> None:
    """Raise if the processes of a trainer would train a method to other weights than one process.

    Args:
        method: The method, with its trainer, on its device.

    Raises:
        ValueError: If so; the message names the part and what to change.
    """
    if isinstance(method.trainer.strategy, FSDPStrategy | ModelParallelStrategy):
        _refuse_sharding(method)
    if method.trainer.world_size == 1:
        return
    for name, module in method.named_modules():
        if _has_own_statistics(module, synchronises=method.device.type != "cpu"):
            raise ValueError(
                f"{name} is a {type(module).__name__}, and each process would have statistics of "
                "its own crops: set trainer.sync_batchnorm to true (batch norms, by ddp on GPUs), "
                "or trainer.devices to 1"
            )


def networks(module: nn.Module) -> Iterator[nn.Module]:
    """Yield the outermost modules within a module that are called, whose parameters are sharded.

    They have a ``forward``, or name the methods by which they are called instead in ``called``.

    Args:
        module: A method, or a container within it.
    """
    for child in module.children():
        if type(child).forward is not nn.Module.forward or hasattr(child, "called"):
            yield child
        else:
            yield from networks(child)


def _refuse_sharding(method: LightningModule) -> None:
    """Raise if FSDP would not shard a trainable parameter, or not average its gradient."""
    sharded = {id(p) for network in networks(method) for p in network.parameters()}
    seen = set[int]()
    for name, parameter in method.named_parameters(remove_duplicate=False):
        if not parameter.requires_grad:
            continue
        reason = ""  # that FSDP would not shard the parameter, or not average its gradients
        if id(parameter) not in sharded:
            reason = "is in no module with a forward"
        elif not parameter.ndim:
            reason = "is one number"
        elif id(parameter) in seen:
            reason = "is also a parameter of another module"
        if reason:
            raise ValueError(
                f"trainer.strategy fsdp shards the parameters of networks, and {name} of "
                f"{type(method).__name__} {reason}: set trainer.strategy to ddp"
            )
        seen.add(id(parameter))


def _has_own_statistics(module: nn.Module, synchronises: bool) -> bool:
    """Return whether each process would normalise by statistics of its own crops."""
    if not isinstance(module, _NormBase) or not module.training:
        return False
    if isinstance(module, nn.SyncBatchNorm) and synchronises:
        return False
    # Instance norms use each image alone, unless they also collect running statistics.
    return isinstance(module, _BatchNorm) or module.running_mean is not None
