"""``export``: the weights as safetensors, with what is to be known of them in the file's head."""

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
    """What an exported file holds, by name.

    All but parts for training alone and frozen parts that have a source of their own, by which the
    file names them as a checkpoint does.

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
    """Write the file and compare what is read again.

    Args:
        model: With its weights.
        path: The file.
        about: What is to be known of them.

    Returns:
        A line for the user.

    Raises:
        OSError: The file could not be written, or what is read is not what was written.
    """
    tensors = exported_tensors(model)
    # A copy of those that are tied: the format has no two names for one tensor.
    copies = {name: tensor.clone() for name, tensor in tensors.items()}
    try:
        save_file(copies, path, head(about))
    except SafetensorError as error:
        raise OSError(f"{path} could not be written ({error}): set another export.out") from error
    if not same(read_weights(path).tensors, tensors):
        raise OSError(f"{path} is not what was written: is the disk damaged?")
    size = path.stat().st_size / MEGABYTE
    return f"{path.name}: {len(tensors)} tensors, {size:.1f} MB, read again bit for bit"


def head(about: About) -> dict[str, str]:
    """The metadata of a file, in which all values are strings."""
    return {
        "format": "pt",  # of libraries that read such files
        **{key: v if isinstance(v, str) else json.dumps(v) for key, v in about.items()},
    }


def same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    """Whether tensors have the same names and the same bits, whatever their number types."""
    return one.keys() == other.keys() and all(
        tensor.shape == other[name].shape and bool((tensor == other[name].to(tensor.dtype)).all())
        for name, tensor in one.items()
    )
