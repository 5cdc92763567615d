"""Ports for processes that tests start: none is taken by another before it is listened on."""

from __future__ import annotations

import socket

PORTS = range(20000, 30000)  # below those that systems give to connections
_held: list[socket.socket] = []


def free_port() -> int:
    """Return a free TCP port of this machine, and keep other tests from it.

    The UDP port of the same number is held until this process ends: it is what tests agree on, and
    leaves the TCP port to the process that listens there.

    Raises:
        OSError: If none is free.
    """
    for port in PORTS:
        held = socket.socket(type=socket.SOCK_DGRAM)
        try:
            held.bind(("127.0.0.1", port))
            with socket.socket() as tried:
                tried.bind(("", port))
        except OSError:  # another test has it, or another program
            held.close()
            continue
        _held.append(held)
        return port
    raise OSError(f"no port of {PORTS} is free")
