"""Losses of power at random moments, and every other fault.

Two nodes train on shards that a third one serves. After each fault comes the same command, until
the run is through; then it has the same bits as the run that nothing happened to, and every global
batch held the same crops.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.report import machine
from callbacks.provenance import commit
from commands.distributed.ranks import LOST
from tests.conftest import REPO
from tests.distributed.network import Network, Process, network, wait_until
from tests.distributed.records import assert_same, global_batches, newest, steps_of
from tests.distributed.test_two_nodes import LIMIT, pack, status

pytestmark = [pytest.mark.distributed, pytest.mark.slow]

KILLS = int(os.environ.get("KILLS", 4))  # 20 by ``make test-faults``
STEPS = 50 + 5 * KILLS
SEED = 4
CONFIG = """
data:
  init_args:
    train:
      class_path: datamodules.Shards
      init_args:
        urls: "http://10.77.0.254:8000/{{0..2}}.tar"
        cache_dir: $TARS
        index_cache: $INDICES
trainer:
  max_steps: {steps}
  val_check_interval: 10
  check_val_every_n_epoch: null
  callbacks+:
    - class_path: tests.distributed.records.Record
      init_args: {{folder: PLACE, seconds: 0.1}}
checkpoint: {{every_n_steps: 1}}
run: {{wait_minutes: {minutes}}}
"""


@pytest.fixture
def net(tmp_path: Path, photo_folder: Path) -> Iterator[Network]:
    pack(photo_folder, tmp_path / "shards")
    tiny = (REPO / "tests" / "tiny.yaml").read_text().replace("PHOTOS", str(photo_folder))
    (tmp_path / "tiny.yaml").write_text(tiny)
    text = CONFIG.format(steps=STEPS, minutes=LIMIT / 60)
    for run in ("whole", "harmed"):
        (tmp_path / f"{run}.yaml").write_text(text.replace("PLACE", str(tmp_path / run)))
    with network(tmp_path) as made:
        # At first the server ends connections in the middle of a shard.
        made.serve(tmp_path / "shards", "cut", "503", "cut")
        yield made


class Rounds:
    """Repeated starts of both nodes, and the result of each."""

    def __init__(self, net: Network) -> None:
        self.net, self.random = net, random.Random(SEED)
        self.got: list[dict[str, Any]] = []
        self.cache = net.folder / "caches"

    def start(self, run: str, tars: Path | None = None) -> list[Process]:
        config = ["--config", "tiny.yaml", "--config", f"{run}.yaml", "--run.name", run]
        places = {
            "TARS": str((tars or self.cache / "tars") / "{node}"),
            "INDICES": str(self.cache / "indices" / "{node}"),
        }
        return self.net.train("fit", *config, log=f"{run}-{len(self.got)}", **places)

    def begun(self, processes: list[Process]) -> None:
        """Wait until both have done some more steps of `harmed`."""
        folder = self.net.folder / "harmed"
        before = [len(steps_of(folder, rank)) for rank in (0, 1)]
        more = self.random.randint(1, 6)

        def done() -> bool:
            return all(len(steps_of(folder, r)) >= before[r] + more for r in (0, 1))

        wait_until(done, f"{more} more steps", processes)
        time.sleep(self.random.uniform(0.0, 0.3))  # anywhere in a step, or in a checkpoint

    def note(self, fault: str, processes: list[Process], expected: list[int | None]) -> None:
        """Wait for all to end; None stands for a node without power."""
        statuses: list[int | None] = []
        for process, wanted in zip(processes, expected, strict=True):
            launcher = process.wait()
            if wanted is None:
                statuses.append(None)
                continue
            statuses.append(0 if launcher == 0 else status(process))
            assert statuses[-1] == wanted, f"{fault}: {process.said()[-3000:]}"
        checkpoints = self.net.folder / "runs" / "harmed" / "checkpoints"
        at = newest(checkpoints.parent)["global_step"] if checkpoints.is_dir() else 0
        self.got.append({"fault": fault, "statuses": statuses, "continues at step": at})
        print(self.got[-1], flush=True)

    # ---------------------------------------------------------------------------------- the faults

    def kill(self) -> None:
        processes = self.start("harmed")
        self.begun(processes)
        victims = self.random.choice([(0,), (1,), (0, 1)])
        for victim in victims:
            self.net.nodes[victim].kill()
        expected = [None if number in victims else LOST for number in (0, 1)]
        self.note(f"SIGKILL of node {' and '.join(map(str, victims))}", processes, expected)

    def signal(self) -> None:
        processes = self.start("harmed")
        self.begun(processes)
        os.kill(self.net.nodes[self.random.randint(0, 1)].trainer(), signal.SIGTERM)
        self.note("SIGTERM to one node", processes, [143, 143])

    def long_cut(self) -> None:
        processes = self.start("harmed")
        self.begun(processes)
        self.net.nodes[1].cable("down")
        try:
            self.note("cable pulled for longer than the limit", processes, [LOST, LOST])
        finally:
            self.net.nodes[1].cable("up")

    def short_cut(self) -> None:
        processes = self.start("harmed")
        self.begun(processes)
        self.net.nodes[1].cable("down")
        time.sleep(LIMIT / 6)
        self.net.nodes[1].cable("up")
        self.begun(processes)  # it goes on
        self.net.nodes[0].kill(signal.SIGKILL)
        self.note("cable pulled for a short time, then SIGKILL of node 0", processes, [None, LOST])

    def full_disk(self) -> None:
        """The disk of the cache has no space for a shard."""
        place = self.net.folder / "small"
        place.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", place], check=True)
        try:
            processes = self.start("harmed", place)
            self.begun(processes)
            self.net.nodes[1].kill()
            self.note("full disk of the caches, then SIGKILL of node 1", processes, [LOST, None])
        finally:
            for node in self.net.nodes:
                node.kill()
            time.sleep(1)
            subprocess.run(["umount", place], check=True)


def test_losses_of_power_and_all_other_faults(net: Network) -> None:
    rounds = Rounds(net)
    began = time.monotonic()
    rounds.note("none", rounds.start("whole"), [0, 0])
    others = [rounds.signal, rounds.long_cut, rounds.short_cut, rounds.full_disk]
    faults: list[Callable[[], None]] = [rounds.kill] * KILLS + others
    rounds.random.shuffle(faults)
    for fault in faults:
        fault()
    rounds.note("none", rounds.start("harmed"), [0, 0])

    assert_same(*(newest(net.folder / "runs" / name) for name in ("harmed", "whole")))
    harmed, whole = (global_batches(net.folder / name) for name in ("harmed", "whole"))
    assert harmed == whole
    assert list(whole) == list(range(1, STEPS + 1))
    done = len(steps_of(net.folder / "harmed", 0))
    results = {
        "steps": STEPS,
        "steps done by the first process, repeated ones included": done,
        "bit-equal to the undisturbed run": True,
        "global batches equal": True,
        "rounds": rounds.got,
        "minutes": round((time.monotonic() - began) / 60, 1),
    }
    if "ENLARGER_FAULTS" in os.environ:
        report = {
            **{"command": "make test-faults", "commit": commit(), "machine": machine()},
            **{"seed": SEED, "results": results},
        }
        Path(os.environ["ENLARGER_FAULTS"]).write_text(json.dumps(report, indent=2) + "\n")
