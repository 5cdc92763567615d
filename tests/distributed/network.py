"""Two nodes and a server as network namespaces, with processes that can be killed.

Needs root and ``ip``; elsewhere tests that use it are skipped. A node is a namespace with an
address of its own, joined to the others by a bridge in the server's namespace, whose cables can be
pulled.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from tests.conftest import REPO

PORT = 29500
LIMIT = 300.0  # seconds of any wait; a loaded machine takes most of a minute


def ip(*args: str) -> str:
    done = subprocess.run(["ip", *args], check=True, capture_output=True, text=True)
    return done.stdout


def why_not() -> str | None:
    """Return why namespaces are unavailable, or None."""
    if shutil.which("ip") is None or shutil.which("unshare") is None:
        return "needs the programs ip and unshare"
    if os.geteuid() != 0:
        return "needs root, to make network namespaces"
    name = f"try-{os.getpid()}"
    try:
        ip("netns", "add", name)
        ip("netns", "del", name)
    except subprocess.CalledProcessError as error:
        return f"needs network namespaces: {error.stderr.strip()}"
    return None


class Process:
    """A program on a node, with its output."""

    def __init__(self, popen: subprocess.Popen[bytes], log: Path) -> None:
        self.popen, self.log = popen, log

    def wait(self, limit: float = LIMIT) -> int:
        """Wait for its exit status."""
        try:
            return self.popen.wait(limit)
        except subprocess.TimeoutExpired:
            pytest.fail(f"still running after {limit:g} s:\n{self.said()[-4000:]}")

    def said(self) -> str:
        return self.log.read_text(errors="replace")


class Node:
    """One machine.

    Args:
        network: Its network.
        number: Its rank among the nodes; -1 for the server, which is the bridge itself.
    """

    def __init__(self, network: Network, number: int) -> None:
        self.network, self.number = network, number
        self.name = "server" if number < 0 else f"node-{number}"
        self.namespace = f"{network.tag}-{self.name}"
        self.address = f"10.77.0.{254 if number < 0 else number + 1}"

    def run(self, command: Sequence[object], log: str, **environment: str) -> Process:
        """Start a program on this node."""
        path = self.network.folder / log
        # Its own host name, for messages, and those of the others.
        script = 'hostname "$0" && mount --bind hosts /etc/hosts && exec "$@"'
        inside = ["unshare", "--uts", "--mount", "sh", "-c", script, self.name]
        with path.open("ab") as file:
            popen = subprocess.Popen(
                ["ip", "netns", "exec", self.namespace, *inside, *map(str, command)],
                cwd=self.network.folder,
                env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        process = Process(popen, path)
        self.network.processes.append(process)
        return process

    def pids(self) -> list[int]:
        return [int(pid) for pid in ip("netns", "pids", self.namespace).split()]

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Signal every process on this node; by default SIGKILL, as after a power failure."""
        for pid in self.pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def trainer(self) -> int:
        """Return the training process, started by torchrun, or 0."""
        for pid in self.pids():
            with contextlib.suppress(OSError):
                words = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
                if str(REPO / "main.py") in words[1:4]:  # python [-u] main.py
                    return pid
        return 0

    def cable(self, state: str) -> None:
        """Pull the cable (``down``), or plug it in (``up``)."""
        ip("-n", self.network.server.namespace, "link", "set", f"port{self.number}", state)


class Network:
    """The nodes, the server, and all their programs.

    Args:
        folder: Where programs run and their output goes.
        nodes: Number of nodes beside the server.
    """

    def __init__(self, folder: Path, nodes: int = 2) -> None:
        self.folder, self.tag = folder, f"e{os.getpid()}"
        self.processes: list[Process] = []
        self.server = Node(self, -1)
        self.nodes = [Node(self, number) for number in range(nodes)]

    def __enter__(self) -> Network:
        try:
            self._build()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _build(self) -> None:
        everyone = (self.server, *self.nodes)
        names = [f"{node.address} {node.name}" for node in everyone]
        (self.folder / "hosts").write_text("\n".join(["127.0.0.1 localhost", *names]) + "\n")
        for node in everyone:
            ip("netns", "add", node.namespace)
            ip("-n", node.namespace, "link", "set", "lo", "up")
        bridge = self.server.namespace
        ip("-n", bridge, "link", "add", "bridge0", "type", "bridge")
        ip("-n", bridge, "addr", "add", f"{self.server.address}/24", "dev", "bridge0")
        ip("-n", bridge, "link", "set", "bridge0", "up")
        for node in self.nodes:
            port = f"port{node.number}"
            ends = ["eth0", "netns", node.namespace, "type", "veth", "peer", port, "netns", bridge]
            ip("link", "add", *ends)
            ip("-n", node.namespace, "addr", "add", f"{node.address}/24", "dev", "eth0")
            ip("-n", node.namespace, "link", "set", "eth0", "up")
            ip("-n", bridge, "link", "set", port, "master", "bridge0")
            ip("-n", bridge, "link", "set", port, "up")

    def __exit__(self, *_: object) -> None:
        known = ip("netns", "list")
        for node in (self.server, *self.nodes):
            if node.namespace in known:
                node.kill()
                ip("netns", "del", node.namespace)
        for process in self.processes:
            process.popen.wait(30)

    def serve(self, folder: Path, *faults: str, port: int = 8000) -> str:
        """Serve a folder by HTTP from the server's namespace; return its address."""
        command = [sys.executable, "-m", "tests.distributed.serve", folder, port, *faults]
        self.server.run(command, "server.log", PYTHONPATH=str(REPO), PYTHONHASHSEED="0")
        return f"http://{self.server.address}:{port}"

    def train(self, *args: object, log: str, **environment: str) -> list[Process]:
        """Start ``main.py`` by torchrun on all nodes, one process a node.

        Args:
            args: Of ``main.py``.
            log: Name of the logs.
            environment: Further variables; ``{node}`` is replaced by the node's name.
        """
        count = len(self.nodes)
        flags = ["--trainer.num_nodes", count, "--trainer.devices", 1, "--trainer.strategy", "ddp"]
        started = []
        for node in self.nodes:
            torchrun = [
                *(sys.executable, "-m", "torch.distributed.run", "--nnodes", count),
                *("--node_rank", node.number, "--nproc_per_node", 1),
                *("--master_addr", self.nodes[0].address, "--master_port", PORT),
            ]
            command = [*torchrun, REPO / "main.py", *args, *flags]
            name = f"{log}-{node.number}.log"
            own = {k: v.format(node=node.name) for k, v in environment.items()}
            started.append(node.run(command, name, GLOO_SOCKET_IFNAME="eth0", **own))
        return started


def wait_until(condition: Callable[[], bool], what: str, running: Sequence[Process] = ()) -> None:
    """Wait until a condition is true, while programs run."""
    deadline = time.monotonic() + LIMIT
    while not condition():
        for process in running:
            if process.popen.poll() is not None:
                pytest.fail(f"ended before {what}:\n{process.said()[-4000:]}")
        if time.monotonic() > deadline:
            said = "\n".join(process.said()[-2000:] for process in running)
            pytest.fail(f"waited {LIMIT:g} s for {what}:\n{said}")
        time.sleep(0.05)


@contextlib.contextmanager
def network(folder: Path, nodes: int = 2) -> Iterator[Network]:
    """Yield a network, or skip the test if it is unavailable; clean up afterwards."""
    reason = why_not()
    if reason is not None:
        pytest.skip(reason)
    with Network(folder, nodes) as made:
        yield made
