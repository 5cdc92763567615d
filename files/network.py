"""Whether servers answer, asked once in a process."""

from __future__ import annotations

import contextlib
import functools
import socket
import urllib.request
from urllib.parse import urlsplit

from huggingface_hub.constants import ENDPOINT, HF_HUB_OFFLINE

PATIENCE = 5  # seconds


@functools.cache
def answers(address: str) -> bool:
    """Return whether the server of an address accepts connections; assumed behind a proxy.

    Args:
        address: A URL.
    """
    if urllib.request.getproxies():
        return True
    parts = urlsplit(address)
    with contextlib.suppress(OSError):
        socket.create_connection((parts.hostname or "", parts.port or 443), PATIENCE).close()
        return True
    return False


def hub_answers() -> bool:
    """Return whether the hub of Hugging Face may be asked, and answers."""
    return not HF_HUB_OFFLINE and answers(ENDPOINT)
