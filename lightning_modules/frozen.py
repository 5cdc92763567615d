"""Frozen parts of a method: whose weights they have, by source and hash.

A checkpoint holds what training changes. For a frozen part it holds the source of its weights and
their hash, so that a run cannot silently continue with other weights.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import nn

_HASH = re.compile(r"\b[0-9a-f]{16}\b")  # as of `files.weights.fingerprint`


def frozen_parts(model: nn.Module) -> dict[str, str]:
    """Return the source and hash of the weights of each frozen part that has them from elsewhere.

    They are those with an attribute ``source``, which is empty until the weights are loaded.
    """
    frozen = {}
    for name, part in model.named_modules():
        source = getattr(part, "source", None)
        if isinstance(source, str) and not _trains_whole(part):
            frozen[name] = source
    return frozen


def is_random(part: nn.Module | None) -> bool:
    """Whether a frozen part has a ``source`` of its weights that is still empty.

    Args:
        part: A part of a method; None for a part that is left out.
    """
    if part is None or getattr(part, "source", None) != "":
        return False
    has_weights = any(True for _ in part.parameters())
    return has_weights and not _trains_whole(part)


def sources(model: nn.Module) -> dict[str, str]:
    """Return the source of each frozen part whose weights are loaded, by the part's name."""
    return {name: source for name, source in frozen_parts(model).items() if source}


def same_weights(one: str, other: str) -> bool:
    """Whether two sources are the same weights: only hashes count, as files may be moved."""
    return _HASH.findall(one) == _HASH.findall(other)


def hash_of(source: str) -> str:
    """Return the hashes in a source, or the whole source if it has none."""
    return " ".join(_HASH.findall(source)) or source


def check_sources(model: nn.Module, stored: Mapping[str, str]) -> None:
    """Raise if a checkpoint was trained with other frozen weights.

    Only hashes count, as folders may be moved.

    Args:
        model: The model.
        stored: The result of ``sources`` when the checkpoint was written.

    Raises:
        ValueError: If a frozen part has other weights now.
    """
    current = sources(model)
    for name, source in stored.items():
        here = current.get(name, "")
        if not same_weights(here, source):
            raise ValueError(
                f"the checkpoint was trained with {name} from {source}, and here it is "
                f"{here or 'missing'}: set the same weights in model.init_args"
            )


def _trains_whole(module: nn.Module) -> bool:
    """Return whether all parameters of a module train; False without any."""
    # A network with LoRA trains some of its parameters, and still has a frozen base.
    trained = [parameter.requires_grad for parameter in module.parameters()]
    return bool(trained) and all(trained)
