"""How long this process waits."""

from __future__ import annotations


class Waits:
    """The limit of a command's waits for its own processes.

    limit: Seconds after which a wait for a worker or another process of the run is an error.
    """

    limit = 600.0


WAITS = Waits()
