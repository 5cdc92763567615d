"""Arrays of numbers as members of shards."""

from __future__ import annotations

import io
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from datamodules.decode import UnreadableImage


def array_of(data: bytes, name: str, dimensions: int) -> NDArray[np.floating[Any]]:
    """Return the floats of a ``.npy`` member.

    Args:
        data: The member's bytes.
        name: The member's name, for messages.
        dimensions: The expected number of dimensions.

    Raises:
        UnreadableImage: If the member is broken, or not floats of that many dimensions.
    """
    try:
        found = np.load(io.BytesIO(data), allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise UnreadableImage(f"{name}: {error}") from error
    if found.ndim != dimensions or found.dtype not in (np.float16, np.float32):
        raise UnreadableImage(
            f"{name} is {found.dtype} {found.shape}; expected floats of {dimensions} dimensions"
        )
    return cast("NDArray[np.floating[Any]]", found)
