"""``export``: diffusion networks and autoencoders in diffusers' layout, a folder each."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from torch import nn

from commands.errors import ConfigurationError
from commands.export_tensors import same
from lightning_modules.image_model import ImageModel


def backbones(model: ImageModel) -> dict[str, Any]:
    """Return the diffusers networks of a model, by the folder of each: ``unet``, ``vae``.

    Args:
        model: The model. Parts that only training needs are left out.
    """
    found: dict[str, Any] = {}
    for name, part in model.named_modules():
        inner = name.startswith(tuple(f"{outer}." for outer in found))
        if _of_diffusers(part) and not inner and not name.startswith(model.training_only):
            found[name] = part
    last = {name: name.rpartition(".")[2] for name in found}
    counts = Counter(last.values())
    return {last[k] if counts[last[k]] == 1 else k: network for k, network in found.items()}


def _of_diffusers(module: nn.Module) -> bool:
    return type(module).__module__.startswith("diffusers.") and hasattr(module, "save_pretrained")


def write_backbones(model: ImageModel, folder: Path) -> list[str]:
    """Write each network, and compare it with what diffusers reads again.

    Args:
        model: The model with its weights.
        folder: Parent folder.

    Returns:
        A line for each network.

    Raises:
        ConfigurationError: If diffusers can no longer read a network.
    """
    lines = []
    for name, network in backbones(model).items():
        kind = type(network).__name__
        _save(network, folder / name)
        # Or it would require accelerate.
        again = type(network).from_pretrained(folder / name, low_cpu_mem_usage=False)
        if not same(again.state_dict(), network.state_dict()):
            raise ConfigurationError(
                f"{name} is no longer a plain {kind} of diffusers, which would read different "
                "weights: remove --export.diffusers"
            )
        count = sum(parameter.numel() for parameter in network.parameters())
        lines.append(f"{name}: {kind}, {count:,} parameters, read again by diffusers")
    return lines


def _save(network: Any, folder: Path) -> None:
    before = [(parameter, parameter.data) for parameter in network.parameters()]
    try:
        for parameter, data in before:
            parameter.data = data.contiguous()  # the format has no memory layouts
        network.save_pretrained(folder)
    finally:
        for parameter, data in before:
            parameter.data = data
