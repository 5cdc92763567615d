"""How long this process waits."""

from __future__ import annotations


class Waits:
    """The limit of all waits.

    limit: Seconds after which a wait for a worker or another process is an error.
    """

    limit = 600.0


WAITS = Waits()
