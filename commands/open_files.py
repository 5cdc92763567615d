"""How many files a process may have open: connections to the other processes are some of them."""

from __future__ import annotations

import os
import sys

MOST = 1 << 16  # nothing here needs more, also where the system has no limit
# For each process of a run: its connections to the store (ours, torch's, a new one in the place of
# a broken one), where rank 0 keeps it; gloo's to every other process; and as many again in reserve.
FOR_EACH = 6


def raise_limit() -> None:
    """Let this process, and those that it starts, have as many files open as the system allows.

    Systems begin with a low limit, 1,024 mostly, for the sake of programs that cannot do with
    more, and let each process raise it. Never lowers it.
    """
    try:
        import resource
    except ImportError:  # Windows
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (raised(soft, hard), hard))
    except (OSError, ValueError):  # macOS has a lower limit that it does not tell
        return


def raised(soft: int, hard: int) -> int:
    """What ``raise_limit`` makes of a limit.

    Args:
        soft: What holds; negative for no limit.
        hard: What it may be raised to; negative for no limit.
    """
    if soft < 0:
        return soft
    return max(soft, MOST if hard < 0 else min(hard, MOST))


def too_few(world: int) -> str:
    """Why the processes of a run could not all be connected; empty if they can.

    Args:
        world: Number of them.
    """
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if not 0 <= soft < FOR_EACH * world:
        return ""
    return (
        f"a process may have {soft} files open here, and {world} processes take up to "
        f"{FOR_EACH * world} for their connections: have the limit raised (ulimit -Hn says it; "
        "LimitNOFILE of systemd, --ulimit nofile of docker), or use fewer processes"
    )


def too_few_for_torchrun(world: int) -> str:
    """The same of the process that started this one, whose limit is not raised here."""
    if not sys.platform.startswith("linux"):
        return ""
    import resource

    try:
        soft, _ = resource.prlimit(os.getppid(), resource.RLIMIT_NOFILE)
    except OSError:  # it is another user's
        return ""
    if not 0 <= soft < FOR_EACH * world:
        return ""
    return (
        f"torchrun, which keeps the place where all {world} processes meet, may have {soft} files "
        f"open: if they cannot meet, give `ulimit -n {FOR_EACH * world}` before it"
    )
