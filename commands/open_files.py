"""Limit of open files of a process, which include its connections to other processes."""

from __future__ import annotations

import os
import sys

MOST = 1 << 16  # nothing here needs more, even if the system has no limit
# For each process of a run: its connections to the store of rank 0 (ours, torch's, and one that
# replaces a broken one), gloo's to every other process, and as many again in reserve.
FOR_EACH = 6


def raise_limit() -> None:
    """Raise the limit of open files, for this process and its children, to the system's maximum.

    Systems start with a low limit, mostly 1,024, for old programs that cannot handle more, and let
    each process raise it. The limit is never lowered.
    """
    try:
        import resource
    except ImportError:  # Windows
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (raised(soft, hard), hard))
    except (OSError, ValueError):  # macOS has a lower limit that it does not report
        return


def raised(soft: int, hard: int) -> int:
    """Return the limit that ``raise_limit`` sets.

    Args:
        soft: The present limit; negative for no limit.
        hard: The maximum; negative for no limit.
    """
    if soft < 0:
        return soft
    return max(soft, MOST if hard < 0 else min(hard, MOST))


def too_few(world: int) -> str:
    """Return why the limit is too low to connect all processes; empty if it is not.

    Args:
        world: Number of processes.
    """
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if not 0 <= soft < FOR_EACH * world:
        return ""
    return (
        f"a process may have {soft} files open here, but {world} processes need up to "
        f"{FOR_EACH * world} for their connections: raise the hard limit (ulimit -Hn prints it; "
        "LimitNOFILE of systemd, --ulimit nofile of docker), or use fewer processes"
    )


def too_few_for_torchrun(world: int) -> str:
    """Return the same about torchrun, the parent process, whose limit is not raised here."""
    if not sys.platform.startswith("linux"):
        return ""
    import resource

    try:
        soft, _ = resource.prlimit(os.getppid(), resource.RLIMIT_NOFILE)
    except OSError:  # a process of another user
        return ""
    if not 0 <= soft < FOR_EACH * world:
        return ""
    return (
        f"torchrun, which holds the store of all {world} processes, may have {soft} files open: if "
        f"they cannot connect, run `ulimit -n {FOR_EACH * world}` before it"
    )
