"""The shared key-value store of torch.distributed, in which processes exchange facts."""

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

POLL = 0.5  # seconds between two checks for missing processes

Facts = dict[str, Any]


def open_store(rank: int, world: int, address: str, port: int, limit: float) -> Store:
    """Connect to the shared store of the run's processes.

    Args:
        rank: Rank of this process.
        world: Number of processes.
        address: Host of the store, which is that of rank 0.
        port: Port of that host.
        limit: Seconds to wait for the process that holds the store.

    Raises:
        TemporaryError: If the store cannot be reached.
    """
    timeout = timedelta(seconds=limit)
    try:
        if dist.is_torchelastic_launched():  # torchrun holds it
            url = f"env://?rank={rank}&world_size={world}"
            store: Store = next(iter(rendezvous(url, timeout=timeout)))[0]
            # It may still hold the values of the previous attempt.
            return PrefixStore(f"attempt {os.environ['TORCHELASTIC_RESTART_COUNT']}", store)
        # torch's own store, opened later at the same address, shares the server with this one.
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
            f"rank {rank} on {socket.gethostname()} could not reach the shared store of {world} "
            f"processes, {address}:{port}, within {limit:g} s ({_first_line(error)}): is the first "
            "node up, and its port open to this one?"
        ) from error


def gather(
    store: Store, name: str, rank: int, world: int, facts: Facts, limit: float
) -> list[Facts]:
    """Exchange facts with all other processes.

    Args:
        store: The shared store.
        name: Name of the meeting; each can be used once.
        rank: Rank of this process.
        world: Number of processes.
        facts: Facts of this process, as plain values.
        limit: Seconds to wait for the others.

    Returns:
        The facts of all processes, by rank.

    Raises:
        TemporaryError: If processes are missing after the limit; they are named.
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
                    f"rank {rank} on {host} waited {limit:g} s for all {world} processes at "
                    f"{name!r}, but {_ranks(missing)} did not answer: look at their output, or "
                    "raise run.preflight_minutes if they are only slow"
                )
            time.sleep(POLL)
        return [json.loads(value) for value in store.multi_get(keys)]
    except dist.DistError as error:
        raise TemporaryError(
            f"rank {rank} on {host} lost the shared store ({_first_line(error)}): the process on "
            "the first node ended, or the network failed"
        ) from error


def _ranks(ranks: Iterable[int]) -> str:
    named = [str(rank) for rank in sorted(ranks)]
    more = f" and {len(named) - 8} more" if len(named) > 8 else ""
    return f"rank{'s' if len(named) > 1 else ''} {', '.join(named[:8])}{more}"


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:200]
