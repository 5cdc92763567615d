"""``doctor`` started by torchrun or srun: which machine does not answer, and to whom.

All processes meet in a store that the first of them keeps. The first of each machine listens at the
address that gloo would choose, and all others of these try to reach it; then all of them add up a
number. So a machine that is not there, one that cannot be reached, and one that fails can be told
apart.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from commands.doctor_lines import BROKEN, Check, Line, Options, broken, ok, said
from commands.doctor_network import FIREWALL, LOCAL, summed
from commands.world import claimed

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

NAME = "machines"
POLL = 0.2  # seconds between two looks for those who are not there yet
REACH = 5.0  # seconds for a connection
AT_ONCE = 16  # connections
ADDRESS_OF_INTERFACE = 0x8915  # SIOCGIFADDR of Linux
MEND = "is it up, was the command started there, and is {address}:{port} open to it?"


@dataclass(frozen=True)
class Place:
    """This process among all of them.

    Args:
        rank: Its number.
        world: How many there are.
        local_rank: Its number among those of its machine.
        address: The first machine.
        port: Of it, where all processes meet.
        nodes: For each rank, the number of its machine.
        hosts: Names of the machines, as far as they are known before anybody answers.
    """

    rank: int
    world: int
    local_rank: int
    address: str
    port: int
    nodes: tuple[int, ...]
    hosts: tuple[str, ...] = ()

    @property
    def leaders(self) -> list[int]:
        """The first rank of each machine."""
        return [self.nodes.index(node) for node in sorted(set(self.nodes))]

    def told(self, node: int) -> str:
        """A machine that has said nothing, in words."""
        ranks = [rank for rank, own in enumerate(self.nodes) if own == node]
        which = f"rank {ranks[0]}" if len(ranks) == 1 else f"ranks {ranks[0]} to {ranks[-1]}"
        host = f", {self.hosts[node]}" if node < len(self.hosts) else ""
        return f"machine {node}{host} ({which})"


def place_of(environment: Mapping[str, str]) -> Place | None:
    """Where torchrun or srun has put this process; None if it is alone.

    Args:
        environment: Its variables.
    """
    if {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"} <= environment.keys():
        claim = claimed(environment)
        rank, world, local = claim.rank or 0, claim.world or 1, claim.local_rank or 0
        here = claim.local_world or 1
        address, port = environment["MASTER_ADDR"], int(environment["MASTER_PORT"])
        place = Place(rank, world, local, address, port, tuple(r // here for r in range(world)))
    elif {"SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_STEP_NODELIST"} <= environment.keys():
        place = _by_slurm(environment)
    else:
        return None
    return place if place.world > 1 else None


def machines(options: Options) -> Iterator[Line]:
    """All processes together; the first one says what came of it."""
    place = place_of(os.environ)
    if place is None:
        return
    with _listener() as listener:
        found = _meet(place, listener, options)
        if place.rank == 0:
            yield from found
            return
        # What the first one says need not be said by all.
        found = iter(list(found))
    if any(line.verdict == BROKEN for line in found):
        yield broken(NAME, f"rank {place.rank} has failed too: the first process says at what")


def farewell(options: Options) -> Iterator[Line]:
    """Wait until all processes are done: torchrun ends them all when the first one fails."""
    place = place_of(os.environ)
    if place is None:
        return
    with contextlib.suppress(Exception):  # whoever is gone need not be waited for
        _gather(_store(place, options), "farewell", place, {}, options.wait)
        time.sleep(5 * POLL if place.rank == 0 else 0)  # who keeps the store is the last to go
    yield from ()


CHECKS: dict[str, Check] = {NAME: machines}


# ----------------------------------------------------------------------------------------- meeting


def _meet(place: Place, listener: socket.socket, options: Options) -> Iterator[Line]:
    import torch

    store = _store(place, options)
    facts = {
        "host": socket.gethostname(),
        "address": own_address(),
        "port": listener.getsockname()[1],
        "gpus": torch.cuda.device_count(),
    }
    everyone = _gather(store, "here", place, facts, options.wait)
    silent = sorted({place.nodes[r] for r in range(place.world) if r not in everyone})
    for node in silent:
        mend = MEND.format(address=place.address, port=place.port)
        waited = f"has not answered for {options.wait:g} s"
        yield broken(NAME, f"{place.told(node)} {waited}: {mend}")
    if silent:
        return
    hosts = [everyone[rank]["host"] for rank in place.leaders]
    machines = "1 machine" if len(hosts) == 1 else f"{len(hosts)} machines"
    yield ok(NAME, f"{place.world} processes on {machines} have met: {', '.join(hosts)}")
    unreached = list(_unreached(store, place, everyone, options))
    yield from unreached
    if unreached:
        return
    yield from _sum(store, place, everyone, "gloo", options)
    if all(facts["gpus"] > 0 for facts in everyone.values()):
        yield from _sum(store, place, everyone, "nccl", options)


def _unreached(
    store: Store, place: Place, everyone: dict[int, Any], options: Options
) -> Iterator[Line]:
    """A line for each machine that another one cannot connect to."""
    several = len({facts["host"] for facts in everyone.values()}) > 1
    for rank in place.leaders:
        facts = everyone[rank]
        if several and facts["address"].startswith(LOCAL):
            yield broken(
                NAME,
                f"{facts['host']} takes {facts['address']} for its own address, where no other "
                f"machine reaches it: correct its /etc/hosts, or set GLOO_SOCKET_IFNAME there",
            )
            return
    others = [rank for rank in place.leaders if rank != place.rank] if _leads(place) else []
    with ThreadPoolExecutor(AT_ONCE) as pool:
        failed = list(pool.map(lambda rank: _refusal(everyone[rank]), others))
    own = {str(rank): why for rank, why in zip(others, failed, strict=True) if why}
    told = _gather(store, "reached", place, own, options.wait)
    for rank in place.leaders:
        facts = everyone[rank]
        whys = {other: told[other][str(rank)] for other in told if str(rank) in told[other]}
        if whys:
            to = ", ".join(everyone[other]["host"] for other in sorted(whys))
            where, why = f"{facts['address']}:{facts['port']}", next(iter(whys.values()))
            yield broken(
                NAME, f"{facts['host']} does not answer {to} at {where} ({why}): {FIREWALL}"
            )


def _sum(
    store: Store, place: Place, everyone: dict[int, Any], backend: str, options: Options
) -> Iterator[Line]:
    """Add up a number over all processes, and say who could not."""
    begun = time.monotonic()
    problem = None
    try:
        found = _added_up(store, place, backend, options)
        if found != place.world:
            problem = f"the sum of {place.world} ones is {found:g}"
    except Exception as error:
        problem = said(error)
    told = _gather(store, f"sum by {backend}", place, {"problem": problem}, options.wait)
    taken, name = time.monotonic() - begun, backend if backend == "gloo" else "NCCL"
    what = f"{place.world} processes of all machines"
    bad = {r: told[r]["problem"] if r in told else "no word of it" for r in everyone}
    bad = {rank: problem for rank, problem in bad.items() if problem}
    if not bad:
        yield ok(name, f"{what} add up a number in {taken:.1f} s")
        return
    hosts = ", ".join(dict.fromkeys(everyone[rank]["host"] for rank in bad))
    why = next(iter(bad.values()))
    yield broken(name, f"{what} cannot add up a number; it failed on {hosts} ({why}): {FIREWALL}")


def _added_up(store: Store, place: Place, backend: str, options: Options) -> float:
    import torch
    import torch.distributed as dist
    from torch._C._distributed_c10d import PrefixStore

    patience = timedelta(seconds=options.wait)
    if not dist.is_initialized():
        dist.init_process_group(
            *("gloo", None, patience, place.world, place.rank), PrefixStore("doctor's sums", store)
        )
    if backend == "gloo":
        return summed(backend, place.local_rank)
    torch.cuda.set_device(place.local_rank % torch.cuda.device_count())
    group = dist.new_group(backend=backend, timeout=patience)
    return summed(backend, torch.cuda.current_device(), group)


# ------------------------------------------------------------------------------------------- parts


def own_address() -> str:
    """The address of this machine that gloo would choose: of the interface, or of the host name."""
    interface = os.environ.get("GLOO_SOCKET_IFNAME")
    name = socket.gethostname()
    try:
        if not interface:
            return socket.gethostbyname(name)
        import fcntl  # not on Windows

        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
            request = struct.pack("256s", interface.split(",")[0].encode())
            answer = fcntl.ioctl(asked.fileno(), ADDRESS_OF_INTERFACE, request)
        return socket.inet_ntoa(answer[20:24])
    except OSError:
        return "127.0.0.1"  # as gloo does


def _leads(place: Place) -> bool:
    return place.rank in place.leaders


def _store(place: Place, options: Options) -> Store:
    from commands.meeting import open_store

    return open_store(place.rank, place.world, place.address, place.port, options.wait)


def _gather(
    store: Store, name: str, place: Place, facts: Mapping[str, Any], limit: float
) -> dict[int, Any]:
    """The facts of all processes that have come within the limit, by rank."""
    keys = [f"doctor/{name}/{rank}" for rank in range(place.world)]
    store.set(keys[place.rank], json.dumps(facts))
    deadline = time.monotonic() + limit
    missing = set(range(place.world))
    while missing and time.monotonic() < deadline:
        missing = {rank for rank in missing if not store.check([keys[rank]])}
        time.sleep(POLL if missing else 0)
    here = sorted(set(range(place.world)) - missing)
    return dict(zip(here, map(json.loads, store.multi_get([keys[r] for r in here])), strict=True))


def _listener() -> socket.socket:
    return socket.create_server(("", 0), backlog=1024)


def _refusal(facts: Mapping[str, Any]) -> str | None:
    try:
        with socket.create_connection((facts["address"], facts["port"]), timeout=REACH):
            return None
    except OSError as error:
        return str(error)


def _by_slurm(environment: Mapping[str, str], run: Callable[..., Any] = subprocess.run) -> Place:
    # srun gives several processes to a machine, as in 8(x2),4, in the order of the list.
    counts = []
    for part in environment["SLURM_STEP_TASKS_PER_NODE"].split(","):
        count, _, times = part.partition("(x")
        counts += [int(count)] * int(times.rstrip(")") or 1)
    nodes = tuple(node for node, count in enumerate(counts) for _ in range(count))
    asked = ["scontrol", "show", "hostnames", environment["SLURM_STEP_NODELIST"]]
    told = run(asked, capture_output=True, text=True, timeout=20, check=True)
    hosts = tuple(told.stdout.split())
    # As Lightning chooses them.
    job = re.sub(r"\D", "", environment.get("SLURM_JOB_ID", ""))[-4:]
    port = int(environment.get("MASTER_PORT", 15000 + int(job or 0)))
    address = environment.get("MASTER_ADDR", hosts[0])
    rank, local = int(environment["SLURM_PROCID"]), int(environment["SLURM_LOCALID"])
    return Place(rank, len(nodes), local, address, port, nodes, hosts)
