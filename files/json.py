"""JSON files that hold an object."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any


def read_json_object(path: Path) -> dict[str, Any] | None:
    """Return the object in a JSON file; None if it is damaged, or holds something else.

    Raises:
        OSError: If the file cannot be read.
    """
    data = path.read_bytes()
    content = None
    with contextlib.suppress(ValueError, RecursionError):
        content = json.loads(data)
    return content if isinstance(content, dict) else None
