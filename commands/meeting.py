"""Where processes meet: torch.distributed's key-value store, before and beside the training."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterable
from datetime import timedelta
from typing import Any

import torch.distributed as dist
from torch._C._distributed_c10d import PrefixStore, Store, TCPStore
from torch.distributed.rendezvous import rendezvous

from commands.errors import TemporaryError

POLL = 0.5  # seconds between two looks for those who are not there yet

Facts = dict[str, Any]


def open_store(rank: int, world: int, address: str, port: int, limit: float) -> Store:
    """Connect to the store that all processes of the run share.

    Args:
        rank: Number of this process.
        world: Number of all processes.
        address: Host that keeps it, which is that of rank 0.
        port: Of that host.
        limit: Seconds to wait for the process that keeps it.

    Raises:
        TemporaryError: It cannot be reached.
    """
    timeout = timedelta(seconds=limit)
    try:
        if dist.is_torchelastic_launched():  # then torchrun keeps it
            url = f"env://?rank={rank}&world_size={world}"
            store: Store = next(iter(rendezvous(url, timeout=timeout)))[0]
            # It may be that of the attempt before, with what was said then.
            return PrefixStore(f"attempt {os.environ['TORCHELASTIC_RESTART_COUNT']}", store)
        # torch's own store, opened later at the same place, shares the server with this one.
        return TCPStore(
            address,
            port,
            world,
            is_master=rank == 0,
            timeout=timeout,
            wait_for_workers=False,
            multi_tenant=True,
        )
    except dist.DistError as error:
        raise TemporaryError(
            f"rank {rank} on {socket.gethostname()} could not reach the place where all {world} "
            f"processes meet, {address}:{port}, within {limit:g} s ({_first_line(error)}): is the "
            "first node up, and its port open to this one?"
        ) from error


def gather(
    store: Store, name: str, rank: int, world: int, facts: Facts, limit: float
) -> list[Facts]:
    """Tell the others what holds here, and hear what holds there.

    Args:
        store: The store that all processes share.
        name: What this meeting is about; each name can be used once.
        rank: Number of this process.
        world: Number of all processes.
        facts: Plain values.
        limit: Seconds to wait for the others.

    Returns:
        The facts of all processes, by rank.

    Raises:
        TemporaryError: Some did not come in time; they are named.
    """
    keys = [f"{name}/{r}" for r in range(world)]
    host = socket.gethostname()
    try:
        store.set(keys[rank], json.dumps(facts))
        missing, deadline = set(range(world)), time.monotonic() + limit
        while True:
            missing = {r for r in missing if not store.check([keys[r]])}
            if not missing:
                break
            if time.monotonic() > deadline:
                raise TemporaryError(
                    f"rank {rank} on {host} waited {limit:g} s for all {world} processes to come "
                    f"to {name!r}, and there is no sign of {_ranks(missing)}: look at the output "
                    "of those, or raise run.preflight_minutes if they are only slow"
                )
            time.sleep(POLL)
        return [json.loads(value) for value in store.multi_get(keys)]
    except dist.DistError as error:
        raise TemporaryError(
            f"rank {rank} on {host} lost the place where all processes meet ({_first_line(error)}):"
            " the first node's process ended, or the network did"
        ) from error


def _ranks(ranks: Iterable[int]) -> str:
    named = [str(rank) for rank in sorted(ranks)]
    more = f" and {len(named) - 8} more" if len(named) > 8 else ""
    return f"rank{'s' if len(named) > 1 else ''} {', '.join(named[:8])}{more}"


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:200]
