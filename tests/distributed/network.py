"""Two nodes and a server as network namespaces, with processes that can be killed.

Needs root and ``ip``; elsewhere tests that use it are skipped. A node is a namespace with an
address of its own, joined to the others by a bridge in the server's namespace, whose cables can be
pulled.
"""

import contextlib
import io
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest

from tests.conftest import REPO, words_of, write_tiny

LIMIT = 300.0  # seconds of any wait; a loaded machine takes most of a minute


def ip(command):
    words = ["ip", *command.split()]
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout


def why_not():
    """Why namespaces are unavailable, or None."""
    if shutil.which("ip") is None or shutil.which("unshare") is None:
        return "needs the programs ip and unshare"
    if os.geteuid() != 0:
        return "needs root, to make network namespaces"
    try:
        ip(f"netns add try-{os.getpid()}")
        ip(f"netns del try-{os.getpid()}")
    except subprocess.CalledProcessError as error:
        return f"needs network namespaces: {error.stderr.strip()}"
    return None


class Process:
    """A program on a node, with its output."""

    def __init__(self, popen, log):
        self.popen = popen
        self.log = log

    def wait(self, limit=LIMIT):
        """Wait for its exit status."""
        try:
            return self.popen.wait(limit)
        except subprocess.TimeoutExpired:
            pytest.fail(f"still running after {limit:g} s:\n{self.said()[-4000:]}")

    def said(self):
        return self.log.read_text(errors="replace")

    def trainers_status(self):
        """The status of the process that torchrun reports as failed."""
        return int(re.findall(r"exitcode\s*: (-?\d+)", self.said())[-1])


class Node:
    """One machine.

    Args:
        network: Its network.
        number: Its rank among the nodes; -1 for the server, which is the bridge itself.
    """

    def __init__(self, network, number):
        self.network = network
        self.number = number
        self.name = "server" if number < 0 else f"node-{number}"
        self.namespace = f"{network.tag}-{self.name}"
        self.address = f"10.77.0.{254 if number < 0 else number + 1}"

    def run(self, command, log, **environment):
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

    def pids(self):
        return [int(pid) for pid in ip(f"netns pids {self.namespace}").split()]

    def kill(self, number=signal.SIGKILL):
        """Signal every process on this node; by default SIGKILL, as after a power failure."""
        for pid in self.pids():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def trainer(self):
        """The training process, started by torchrun, or 0."""
        for pid in self.pids():
            with contextlib.suppress(OSError):
                words = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
                if str(REPO / "main.py") in words[1:4]:  # python [-u] main.py
                    return pid
        return 0

    def cable(self, state):
        """Pull the cable (``down``), or plug it in (``up``)."""
        ip(f"-n {self.network.server.namespace} link set port{self.number} {state}")


class Network:
    """The nodes, the server, and all their programs.

    Args:
        folder: Where programs run and their output goes.
    """

    def __init__(self, folder):
        self.folder = folder
        self.tag = f"e{os.getpid()}"
        self.processes = []
        self.server = Node(self, -1)
        self.nodes = [Node(self, 0), Node(self, 1)]

    def __enter__(self):
        try:
            self._build()
        except BaseException:
            self.__exit__()
            raise
        return self

    def _build(self):
        bridge = self.server.namespace
        hosts = ["127.0.0.1 localhost"]
        for node in (self.server, *self.nodes):
            hosts.append(f"{node.address} {node.name}")
            ip(f"netns add {node.namespace}")
            ip(f"-n {node.namespace} link set lo up")
        (self.folder / "hosts").write_text("\n".join(hosts) + "\n")
        ip(f"-n {bridge} link add bridge0 type bridge")
        ip(f"-n {bridge} addr add {self.server.address}/24 dev bridge0")
        ip(f"-n {bridge} link set bridge0 up")
        for node in self.nodes:
            port = f"port{node.number}"
            ip(f"link add eth0 netns {node.namespace} type veth peer {port} netns {bridge}")
            ip(f"-n {node.namespace} addr add {node.address}/24 dev eth0")
            ip(f"-n {node.namespace} link set eth0 up")
            ip(f"-n {bridge} link set {port} master bridge0")
            ip(f"-n {bridge} link set {port} up")

    def __exit__(self, *args):
        known = ip("netns list")
        for node in (self.server, *self.nodes):
            if node.namespace in known:
                node.kill()
                ip(f"netns del {node.namespace}")
        for process in self.processes:
            process.popen.wait(30)

    def serve(self, folder, *faults):
        """Serve a folder by HTTP from the server's namespace, at port 8000."""
        command = [sys.executable, "-m", "tests.distributed.serve", folder, 8000, *faults]
        self.server.run(command, "server.log", PYTHONPATH=str(REPO), PYTHONHASHSEED="0")

    def train(self, typed, log, **environment):
        """Start ``main.py`` by torchrun on all nodes, one process a node.

        Args:
            typed: Of ``main.py``.
            log: Name of the logs.
            environment: Further variables; ``{node}`` is replaced by the node's name.
        """
        first = self.nodes[0].address
        launcher = f"-m torch.distributed.run --nnodes 2 --nproc_per_node 1 --master_addr {first}"
        options = "--trainer.num_nodes 2 --trainer.devices 1 --trainer.strategy ddp"
        started = []
        for node in self.nodes:
            place = f"--master_port 29500 --node_rank {node.number}"
            words = words_of(f"{launcher} {place} {REPO / 'main.py'} {typed} {options}")
            own = {key: value.format(node=node.name) for key, value in environment.items()}
            log_of_node = f"{log}-{node.number}.log"
            command = [sys.executable, *words]
            started.append(node.run(command, log_of_node, GLOO_SOCKET_IFNAME="eth0", **own))
        return started


def wait_until(condition, what, running):
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
def network(folder, photos):
    """Yield two nodes in a folder with `tiny.yaml` and plain tars of photographs in `shards`.

    The test is skipped where there is no network; all is cleaned up afterwards.
    """
    reason = why_not()
    if reason is not None:
        pytest.skip(reason)
    write_tiny(folder, photos)
    (folder / "shards").mkdir()
    files = sorted(photos.iterdir())
    for number in range(3):
        with tarfile.open(folder / "shards" / f"{number}.tar", "w") as tar:
            for path in files[number::3]:
                member = tarfile.TarInfo(path.name)
                member.size = path.stat().st_size
                tar.addfile(member, io.BytesIO(path.read_bytes()))
    with Network(folder) as made:
        yield made
