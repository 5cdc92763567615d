"""Members of a sample that are no images: arrays, captions and JSON, from their bytes."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from files.images.decode import UnreadableImage
from files.paths import read_bytes

T = TypeVar("T")


def parse_member(parse: Callable[[bytes], T], data: bytes, name: str) -> T:
    """Return the parsed content of a member; one that is broken becomes ``UnreadableImage``.

    Args:
        parse: ``parse_array``, ``parse_json``, ``parse_caption`` and the like.
        data: The member's bytes.
        name: The member's name, for the message.

    Raises:
        UnreadableImage: If the parser fails, so that training skips the sample and counts it.
    """
    with _errors_as_unreadable(name):
        return parse(data)


def parse_file(parse: Callable[[bytes], T], path: Path) -> T:
    """Return the parsed content of a file. Args and errors as ``parse_member``.

    Raises:
        UnreadableImage: Also if the file cannot be read.
    """
    with _errors_as_unreadable(str(path)):
        return parse(read_bytes(path))


@contextmanager
def _errors_as_unreadable(name: str) -> Iterator[None]:
    """Raise every error as ``UnreadableImage``: of arbitrary bytes, NumPy raises anything."""
    try:
        yield
    except Exception as error:
        raise UnreadableImage(f"{name}: {error}") from error


def parse_json(data: bytes) -> Any:
    """Return the content of a JSON member; None if it is empty."""
    return json.loads(data or "null")


def parse_array(data: bytes) -> NDArray[Any]:
    """Return the array of a ``.npy`` member; pickled objects are refused."""
    array: NDArray[Any] = np.load(io.BytesIO(data), allow_pickle=False)
    return array


def parse_floats(data: bytes, dimensions: int) -> NDArray[np.floating[Any]]:
    """Return the float16 or float32 array of a ``.npy`` member.

    Raises:
        ValueError: If it has another type, or another number of dimensions.
    """
    array = parse_array(data)
    if array.ndim != dimensions or array.dtype not in (np.float16, np.float32):
        raise ValueError(
            f"it is {array.dtype} {array.shape}; expected floats of {dimensions} dimensions"
        )
    return array
