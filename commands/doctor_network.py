"""``doctor``: whether two processes of this machine reach each other."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

from commands.doctor_lines import Check, Line, Options, broken, look, ok

PROCESSES = 2
PATIENCE = 120.0  # seconds, also on a machine that is busy with other things
INTERFACES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")
LOCAL = "127."  # addresses that no other machine reaches
FIREWALL = "look at firewalls, and set GLOO_SOCKET_IFNAME to the interface that all machines share"


def host_name(options: Options) -> Iterator[Line]:
    """Whether this machine knows its own name, by which gloo chooses an interface."""
    name = socket.gethostname()
    what = "host name"
    try:
        address = socket.gethostbyname(name)
    except OSError as error:
        yield look(what, f"{name} does not resolve ({error}): {_hosts(name)}")
        return
    if address.startswith(LOCAL) and not os.environ.get(INTERFACES[0]):
        text = f"{name} is {address}, which is enough for one machine; for several: {_hosts(name)}"
        yield ok(what, text)
    else:
        yield ok(what, f"{name} is {address}")


def interfaces(options: Options) -> Iterator[Line]:
    """Whether the interfaces that the environment names are there."""
    there = [name for _, name in socket.if_nameindex()]
    for variable in INTERFACES:
        value = os.environ.get(variable)
        if value is None:
            continue
        # NCCL's is a list of prefixes, or with = of names, or with ^ of what is left out.
        wanted = value.lstrip("=^").split(",")
        if any(name.startswith(prefix) for prefix in wanted for name in there):
            yield ok(variable, f"{value}, which is there")
        else:
            yield broken(variable, f"{value}, and there are {', '.join(there)}: set one of these")


def gloo(options: Options) -> Iterator[Line]:
    """Two processes that add up their numbers, on the CPU."""
    yield _tried("gloo", "fork", PROCESSES)


def nccl(options: Options) -> Iterator[Line]:
    """A process for each of two GPUs, where there are any."""
    import torch

    if not torch.cuda.is_available():
        yield ok("NCCL", "not tried, because there is no GPU")
        return
    yield _tried("nccl", "spawn", min(PROCESSES, torch.cuda.device_count()))


CHECKS: dict[str, Check] = {
    "host name": host_name,
    "interfaces": interfaces,
    "gloo": gloo,
    "NCCL": nccl,
}


# ------------------------------------------------------------------------------------------- parts


def summed(backend: str, rank: int, group: Any = None) -> float:
    """The sum over all processes of one number each, which are 1.

    Args:
        backend: ``gloo`` or ``nccl``.
        rank: Number of this process among those of this machine, which is that of its GPU.
        group: By default all of them.
    """
    import torch
    import torch.distributed as dist

    device = torch.device("cuda", rank) if backend == "nccl" else torch.device("cpu")
    one = torch.ones(1, device=device)
    dist.all_reduce(one, group=group)
    return float(one)


def _tried(backend: str, start: str, count: int) -> Line:
    from torch._C._distributed_c10d import TCPStore
    from torch.multiprocessing.spawn import start_processes

    name = "NCCL" if backend == "nccl" else backend
    processes = "1 process" if count == 1 else f"{count} processes"
    begun = time.monotonic()
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    started = start_processes(  # type: ignore[no-untyped-call]
        _rank, (store.port, count, backend), nprocs=count, join=False, start_method=start
    )
    try:
        while not started.join(timeout=0.2):
            if time.monotonic() - begun > PATIENCE:
                raise TimeoutError(f"there was no sum within {PATIENCE:g} s")
    except Exception as error:
        why = str(error).strip().splitlines()[-1]  # of the whole traceback of a process
        return broken(name, f"{processes} cannot add up a number ({why}): {FIREWALL}")
    finally:
        for process in started.processes:
            process.kill()
    taken = time.monotonic() - begun
    return ok(name, f"{processes} of this machine add up a number in {taken:.1f} s")


def _rank(rank: int, port: int, count: int, backend: str) -> None:
    import torch.distributed as dist
    from torch._C._distributed_c10d import TCPStore

    patience = timedelta(seconds=PATIENCE)
    store = TCPStore("127.0.0.1", port, is_master=False, timeout=patience)
    dist.init_process_group(backend, store=store, rank=rank, world_size=count, timeout=patience)
    found = summed(backend, rank)
    if found != count:
        raise ValueError(f"the sum of {count} ones is {found:g}")
    dist.destroy_process_group()


def _hosts(name: str) -> str:
    return f"put '{name}' with its address into /etc/hosts, or set {INTERFACES[0]}"
