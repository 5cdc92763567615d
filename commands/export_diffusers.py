"""``export``: diffusion networks and autoencoders in diffusers' layout, a folder each."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from commands.errors import ConfigurationError
from commands.export_tensors import same
from lightning_modules.backbone.library import networks_of, pretrained, save
from lightning_modules.base import ImageModel


def backbones(model: ImageModel) -> dict[str, Any]:
    """Networks of diffusers in a model, by the folder that is theirs: ``unet``, ``vae``.

    Args:
        model: The model. What only training needs is left out.
    """
    found = networks_of(model)
    found = {name: n for name, n in found.items() if not name.startswith(model.training_only)}
    last = {name: name.rpartition(".")[2] for name in found}
    counts = Counter(last.values())
    return {last[k] if counts[last[k]] == 1 else k: network for k, network in found.items()}


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
        save(network, folder / name)
        try:
            again = pretrained("--export.diffusers", kind, str(folder), name, None)
            whole = same(again.state_dict(), network.state_dict())
        except (ValueError, OSError, AttributeError) as error:
            whole, reason = False, error
        else:
            reason = ValueError("other tensors")
        if not whole:
            raise ConfigurationError(
                f"{name} is no longer a plain {kind} of diffusers ({reason}): leave "
                "--export.diffusers out"
            ) from reason
        count = sum(parameter.numel() for parameter in network.parameters())
        lines.append(f"{name}: {kind}, {count:,} parameters, read again by diffusers")
    return lines
