"""`doctor` between processes: the right machine is named."""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.distributed import HashStore

from commands import doctor_network, doctor_nodes
from commands.doctor_lines import Check, Line, Options, guarded
from commands.doctor_nodes import Place, place_of
from tests.conftest import REPO

Patch = pytest.MonkeyPatch


def said(check: Check) -> dict[str, str]:
    """Verdict and text of each line, by its name."""
    lines = guarded("check", check, Options())
    return {line.name: f"{line.verdict}: {line.text}" for line in lines}


# ------------------------------------------------------------------------------------ one machine


def test_a_host_name_that_does_not_resolve(monkeypatch: Patch) -> None:
    def fail(name: str) -> str:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "gethostname", lambda: "node-7")
    monkeypatch.setattr(socket, "gethostbyname", fail)
    text = said(doctor_network.host_name)["host name"]
    assert text.startswith("look: node-7 does not resolve")
    assert "put 'node-7' with its address into /etc/hosts" in text
    monkeypatch.setattr(socket, "gethostbyname", lambda name: "10.0.0.7")
    assert said(doctor_network.host_name) == {"host name": "ok: node-7 is 10.0.0.7"}
    monkeypatch.setattr(socket, "gethostbyname", lambda name: "127.0.1.1")
    assert "enough for one machine" in said(doctor_network.host_name)["host name"]


@pytest.mark.parametrize(("value", "verdict"), [("eth", "ok"), ("^docker,eth0", "ok"), ("ib0", "")])
def test_interfaces(monkeypatch: Patch, value: str, verdict: str) -> None:
    monkeypatch.setattr(socket, "if_nameindex", lambda: [(1, "lo"), (2, "eth0")])
    monkeypatch.delenv("GLOO_SOCKET_IFNAME", raising=False)
    monkeypatch.setenv("NCCL_SOCKET_IFNAME", value)
    text = said(doctor_network.interfaces)["NCCL_SOCKET_IFNAME"]
    assert text.startswith(verdict or "broken: ib0, and there are lo, eth0: set one of these")


def test_two_processes_add_up(monkeypatch: Patch) -> None:
    assert said(doctor_network.gloo)["gloo"].startswith("ok: 2 processes of this machine add up")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert said(doctor_network.nccl)["NCCL"].startswith("ok: not tried")


def test_two_processes_that_cannot(monkeypatch: Patch) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "nowhere0")
    text = said(doctor_network.gloo)["gloo"]
    assert text.startswith("broken: 2 processes cannot add up a number (")
    assert "nowhere0" in text


# -------------------------------------------------------------------------------- several of them


TORCHRUN = {
    **{"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"},
    **{"MASTER_ADDR": "head", "MASTER_PORT": "29500"},
}
SLURM = {
    **{"SLURM_PROCID": "2", "SLURM_STEP_NUM_TASKS": "5", "SLURM_LOCALID": "0"},
    **{"SLURM_STEP_NODELIST": "n[1-3]", "SLURM_STEP_TASKS_PER_NODE": "2(x2),1"},
    "SLURM_JOB_ID": "1234567",
}


def test_by_torchrun() -> None:
    place = place_of(TORCHRUN)
    assert place == Place(5, 8, 1, "head", 29500, (0, 0, 0, 0, 1, 1, 1, 1))
    assert place.leaders == [0, 4]
    assert place.told(1) == "machine 1 (ranks 4 to 7)"


def test_by_slurm() -> None:
    def scontrol(command: list[str], **_: Any) -> SimpleNamespace:
        assert command == ["scontrol", "show", "hostnames", "n[1-3]"]
        return SimpleNamespace(stdout="n1\nn2\nn3\n")

    place = doctor_nodes._by_slurm(SLURM, scontrol)
    assert place == Place(2, 5, 0, "n1", 19567, (0, 0, 1, 1, 2), ("n1", "n2", "n3"))
    assert place.told(2) == "machine 2, n3 (rank 4)"


def test_alone() -> None:
    assert place_of({}) is None
    assert place_of({**TORCHRUN, "RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}) is None
    assert place_of({"SLURM_PROCID": "0", "SLURM_NTASKS": "4"}) is None  # sbatch, without srun


Meeting = Callable[..., list[str]]


@pytest.fixture
def meeting(monkeypatch: Patch) -> Meeting:
    """Machines of one process each, as threads; gives what the first one says."""
    store = HashStore()
    monkeypatch.setattr(doctor_nodes, "_store", lambda place, options: store)
    monkeypatch.setattr(doctor_nodes, "POLL", 0.01)
    monkeypatch.setattr(doctor_nodes, "_added_up", lambda store, place, *_: float(place.world))
    hosts = threading.local()
    monkeypatch.setattr(socket, "gethostname", lambda: hosts.name)
    monkeypatch.setattr(doctor_nodes, "own_address", lambda: hosts.address)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(doctor_nodes, "_refusal", lambda facts: None)

    def meet(*addresses: str, here: int | None = None, wait: float = 60.0) -> list[str]:
        world = len(addresses)
        found: dict[int, list[Line]] = {}

        def be(rank: int) -> None:
            hosts.name, hosts.address = f"node-{rank}", addresses[rank]
            place = Place(rank, world, 0, "node-0", 1, tuple(range(world)))
            with doctor_nodes._listener() as listener:
                found[rank] = list(doctor_nodes._meet(place, listener, Options(wait=wait)))

        threads = [threading.Thread(target=be, args=(rank,)) for rank in range(here or world)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return [f"{line.verdict} {line.name}: {line.text}" for line in found[0]]

    return meet


def test_all_is_well(meeting: Meeting) -> None:
    first, last = meeting("10.0.0.1", "10.0.0.2")
    assert first == "ok machines: 2 processes on 2 machines have met: node-0, node-1"
    assert last.startswith("ok gloo: 2 processes of all machines add up a number in ")


def test_a_machine_that_is_not_there(meeting: Meeting) -> None:
    (line,) = meeting("10.0.0.1", "10.0.0.2", "10.0.0.3", here=2, wait=1.0)
    assert line == (
        "broken machines: machine 2 (rank 2) has not answered for 1 s: is it up, was the command "
        "started there, and is node-0:1 open to it?"
    )


def test_a_machine_that_gives_an_address_of_its_own(meeting: Meeting) -> None:
    _, line = meeting("10.0.0.1", "127.0.1.1")
    assert line.startswith("broken machines: node-1 takes 127.0.1.1 for its own address, where no")


def test_a_machine_that_cannot_be_reached(meeting: Meeting, monkeypatch: Patch) -> None:
    blocked = {"10.0.0.2": "timed out"}
    monkeypatch.setattr(doctor_nodes, "_refusal", lambda facts: blocked.get(facts["address"]))
    _, line = meeting("10.0.0.1", "10.0.0.2", "10.0.0.3")
    assert line.startswith("broken machines: node-1 does not answer node-0, node-2 at 10.0.0.2:")
    assert "(timed out): look at firewalls" in line


def test_a_machine_that_fails(meeting: Meeting, monkeypatch: Patch) -> None:
    def fail(store: Any, place: Place, *_: Any) -> float:
        if place.rank == 1:
            raise RuntimeError("no device of gloo")
        return 2.0

    monkeypatch.setattr(doctor_nodes, "_added_up", fail)
    line = meeting("10.0.0.1", "10.0.0.2")[-1]
    assert line.startswith("broken gloo: 2 processes of all machines cannot add up a number; it ")
    assert "failed on node-1 (RuntimeError: no device of gloo)" in line


def test_nobody_leaves_before_the_others_are_done(meeting: Meeting, monkeypatch: Patch) -> None:
    given = threading.local()
    monkeypatch.setattr(doctor_nodes, "place_of", lambda environment: given.place)
    left: list[int] = []

    def leave(rank: int) -> None:
        given.place = Place(rank, 2, 0, "node-0", 1, (0, 1))
        assert list(doctor_nodes.farewell(Options())) == []
        left.append(rank)

    first = threading.Thread(target=leave, args=(1,))
    first.start()
    first.join(timeout=0.2)
    assert left == []
    leave(0)
    first.join()
    assert sorted(left) == [0, 1]


def test_who_is_reached_and_who_is_not() -> None:
    with doctor_nodes._listener() as listener:
        facts = {"address": "127.0.0.1", "port": listener.getsockname()[1]}
        assert doctor_nodes._refusal(facts) is None
    assert "refused" in str(doctor_nodes._refusal(facts))


def test_the_address_of_an_interface(monkeypatch: Patch) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    assert doctor_nodes.own_address() == "127.0.0.1"
    monkeypatch.setattr("fcntl.ioctl", lambda number, request, given: answer(given))
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "ib0")
    assert doctor_nodes.own_address() == "10.1.2.3"


def answer(given: bytes) -> bytes:
    assert given.startswith(b"ib0\0")
    return given[:20] + struct.pack("4B", 10, 1, 2, 3) + given[24:]


@pytest.mark.slow
@pytest.mark.distributed
def test_two_processes_of_torchrun() -> None:
    """Their real store and their real sum."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]
    command += [str(REPO / "main.py"), "doctor", "--doctor.wait", "300"]
    command += ["--part", "nodes", "--checks", "machines"]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=env, check=True)
    assert "2 processes on 1 machine have met" in done.stdout
    assert "2 processes of all machines add up a number in" in done.stdout
    assert "broken" not in done.stdout
