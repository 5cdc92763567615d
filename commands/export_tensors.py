"""``export``: the weights as safetensors, with facts about them in the metadata."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from lightning_modules.backbone.frozen import sources
from lightning_modules.image_model import ImageModel
from lightning_modules.weights import read_weights

if TYPE_CHECKING:
    from commands.export_about import About

MEGABYTE = 1e6


def exported_tensors(model: ImageModel) -> dict[str, Tensor]:
    """Return the tensors of an exported file, by name.

    Excluded are parts that only training needs, and frozen parts with a source of their own, which
    the metadata names.

    Args:
        model: The model.
    """
    trained = set(model.checkpoint_keys())
    named = tuple(f"{part}." if part else "" for part in sources(model))
    return {
        name: tensor.detach().cpu().contiguous()
        for name, tensor in model.state_dict().items()
        if not name.startswith(model.training_only)
        and (name in trained or not name.startswith(named))
    }


def write_tensors(model: ImageModel, path: Path, about: About) -> str:
    """Write the file, and compare it with what is read again.

    Args:
        model: The model with its weights.
        path: The file.
        about: Facts about the weights.

    Returns:
        A line for the user.

    Raises:
        OSError: If the file could not be written, or reads back differently.
    """
    tensors = exported_tensors(model)
    # Tied tensors are copied: the format has one name for each tensor.
    copies = {name: tensor.clone() for name, tensor in tensors.items()}
    try:
        save_file(copies, path, head(about))
    except SafetensorError as error:
        raise OSError(f"{path} could not be written ({error}): set another export.out") from error
    if not same(read_weights(path).tensors, tensors):
        raise OSError(f"{path} reads back differently: is the disk damaged?")
    size = path.stat().st_size / MEGABYTE
    return f"{path.name}: {len(tensors)} tensors, {size:.1f} MB, read again bit for bit"


def head(about: About) -> dict[str, str]:
    """Return the metadata of a file, whose values are all strings."""
    return {
        "format": "pt",  # which other libraries read
        **{key: v if isinstance(v, str) else json.dumps(v) for key, v in about.items()},
    }


def same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    """Return whether tensors have the same names and values, whatever their number types."""
    return one.keys() == other.keys() and all(
        tensor.shape == other[name].shape and bool((tensor == other[name].to(tensor.dtype)).all())
        for name, tensor in one.items()
    )
