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
    """Networks of diffusers in a model, by the folder that is theirs: ``unet``, ``vae``.

    Args:
        model: The model. What only training needs is left out.
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
    """Write each, and compare what diffusers' own loader reads again.

    Args:
        model: With its weights.
        folder: In which each gets its own.

    Returns:
        A line each for the user.

    Raises:
        ConfigurationError: One of them is no longer a network that diffusers can read.
    """
    lines = []
    for name, network in backbones(model).items():
        kind = type(network).__name__
        _save(network, folder / name)
        # Without accelerate, which it would want.
        again = type(network).from_pretrained(folder / name, low_cpu_mem_usage=False)
        if not same(again.state_dict(), network.state_dict()):
            raise ConfigurationError(
                f"{name} is no longer a plain {kind} of diffusers, which would read other weights "
                "again: leave --export.diffusers out"
            )
        count = sum(parameter.numel() for parameter in network.parameters())
        lines.append(f"{name}: {kind}, {count:,} parameters, read again by diffusers")
    return lines


def _save(network: Any, folder: Path) -> None:
    before = [(parameter, parameter.data) for parameter in network.parameters()]
    try:
        for parameter, data in before:
            parameter.data = data.contiguous()  # the format has no other layout in memory
        network.save_pretrained(folder)
    finally:
        for parameter, data in before:
            parameter.data = data
