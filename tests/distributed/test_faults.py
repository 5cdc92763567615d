"""Losses of power at random moments, and every other fault.

Two nodes train on shards that a third one serves. After each fault comes the same command, until
the run is through; then it has the same bits as the run that nothing happened to, and every global
batch held the same crops.
"""

import json
import os
import random
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path

import pytest

from benchmarks.report import machine
from callbacks.provenance import commit
from commands.distributed.ranks import LOST
from tests.distributed.network import network, wait_until
from tests.distributed.records import assert_same, global_batches, newest, steps_of

pytestmark = [pytest.mark.distributed, pytest.mark.slow]

KILLS = int(os.environ.get("KILLS", 4))  # 20 by ``make test-faults``
STEPS = 50 + 5 * KILLS
SEED = 4
BATCH = 4
IMAGES = 10
CROPS = 2  # of each image in an epoch
LIMIT = 36.0  # seconds that a process waits for another one
CONFIG = f"""
data:
  init_args:
    train:
      class_path: datamodules.Shards
      init_args:
        urls: "http://10.77.0.254:8000/{{0..2}}.tar"
        cache_dir: $TARS
        index_cache: $INDICES
trainer:
  max_steps: {STEPS}
  val_check_interval: 10
  check_val_every_n_epoch: null
  callbacks+:
    - class_path: tests.distributed.records.Record
      init_args: {{folder: PLACE, seconds: 0.1}}
checkpoint: {{every_n_steps: 1}}
run: {{wait_minutes: {LIMIT / 60}}}
"""


@pytest.fixture
def net(tmp_path, photo_folder):
    for run in ("whole", "harmed"):
        (tmp_path / f"{run}.yaml").write_text(CONFIG.replace("PLACE", run))
    with network(tmp_path, photo_folder) as made:
        # At first the server ends connections in the middle of a shard.
        made.serve(tmp_path / "shards", "cut", "503", "cut")
        yield made


class Rounds:
    """Starts of both nodes, one for each fault, and how each ended.

    A run with faults goes to `harmed`, one without to `whole`.
    """

    def __init__(self, net):
        self.net = net
        self.random = random.Random(SEED)
        self.rounds = []
        self.cache = net.folder / "caches"

    def start(self, run, tars=None):
        config = f"--config tiny.yaml --config {run}.yaml --run.name {run}"
        places = {
            "TARS": str((tars or self.cache / "tars") / "{node}"),
            "INDICES": str(self.cache / "indices" / "{node}"),
        }
        return self.net.train(f"fit {config}", log=f"{run}-{len(self.rounds)}", **places)

    def start_and_wait(self, tars=None):
        processes = self.start("harmed", tars)
        self.wait(processes)
        return processes

    def wait(self, processes):
        """Wait until both have done some more steps of `harmed`."""
        folder = self.net.folder / "harmed"
        more = self.random.randint(1, 6)
        targets = [len(steps_of(folder, rank)) + more for rank in (0, 1)]

        def done():
            return all(len(steps_of(folder, rank)) >= targets[rank] for rank in (0, 1))

        wait_until(done, f"{more} more steps", processes)
        time.sleep(self.random.uniform(0.0, 0.3))  # anywhere in a step, or in a checkpoint

    def note(self, fault, processes, expected):
        """Wait for the expected statuses; None is that of a node without power."""
        statuses = []
        for process, status in zip(processes, expected, strict=True):
            launcher = process.wait()
            if status is not None:
                statuses.append(0 if launcher == 0 else process.trainers_status())
                assert statuses[-1] == status, f"{fault}: {process.said()[-3000:]}"
            else:
                statuses.append(None)
        run = self.net.folder / "runs" / "harmed"
        step = newest(run)["global_step"] if (run / "checkpoints").is_dir() else 0
        self.rounds.append({"fault": fault, "statuses": statuses, "continues at step": step})
        print(self.rounds[-1], flush=True)

    # ---------------------------------------------------------------------------------- the faults

    def kill(self):
        processes = self.start_and_wait()
        victims = self.random.choice([(0,), (1,), (0, 1)])
        for victim in victims:
            self.net.nodes[victim].kill()
        expected = [None if number in victims else LOST for number in (0, 1)]
        self.note(f"SIGKILL of node {' and '.join(map(str, victims))}", processes, expected)

    def signal(self):
        processes = self.start_and_wait()
        os.kill(self.net.nodes[self.random.randint(0, 1)].trainer(), signal.SIGTERM)
        self.note("SIGTERM to one node", processes, [143, 143])

    def long_cut(self):
        processes = self.start_and_wait()
        self.net.nodes[1].cable("down")
        try:
            self.note("cable pulled for longer than the limit", processes, [LOST, LOST])
        finally:
            self.net.nodes[1].cable("up")

    def short_cut(self):
        processes = self.start_and_wait()
        self.net.nodes[1].cable("down")
        time.sleep(LIMIT / 6)
        self.net.nodes[1].cable("up")
        self.wait(processes)  # it goes on
        self.net.nodes[0].kill()
        self.note("cable pulled for a short time, then SIGKILL of node 0", processes, [None, LOST])

    def full_disk(self):
        """The disk of the cache has no space for a shard."""
        place = self.net.folder / "small"
        place.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", place], check=True)
        try:
            processes = self.start_and_wait(place)
            self.net.nodes[1].kill()
            self.note("full disk of the caches, then SIGKILL of node 1", processes, [LOST, None])
        finally:
            for node in self.net.nodes:
                node.kill()
            time.sleep(1)
            subprocess.run(["umount", place], check=True)


def assert_each_epoch_has_all_crops_of_each_image(batches):
    assert list(batches) == list(range(1, STEPS + 1))
    length = IMAGES * CROPS // BATCH  # of an epoch, in steps
    for first in range(1, STEPS - length + 2, length):
        epoch = Counter()
        for step in range(first, first + length):
            assert batches[step].total() == BATCH
            epoch.update(key for key, _seed in batches[step].elements())
        assert len(epoch) == IMAGES
        assert set(epoch.values()) == {CROPS}


def write_report(rounds, minutes):
    """Write what `make test-faults` publishes."""
    done = steps_of(rounds.net.folder / "harmed", rank=0)
    report = {
        "command": "make test-faults",
        "commit": commit(),
        "machine": machine(),
        "seed": SEED,
        "results": {
            "steps": STEPS,
            "steps done by the first process, repeated ones included": len(done),
            "bit-equal to the undisturbed run": True,
            "global batches equal": True,
            "rounds": rounds.rounds,
            "minutes": minutes,
        },
    }
    Path(os.environ["ENLARGER_FAULTS"]).write_text(json.dumps(report, indent=2) + "\n")


def test_a_run_through_losses_of_power_and_all_other_faults_equals_one_without(net):
    """Started again after each fault, it ends with the same bits, and saw the same crops."""
    rounds = Rounds(net)
    began = time.monotonic()
    rounds.note("none", rounds.start("whole"), [0, 0])
    faults = [rounds.kill] * KILLS
    faults += [rounds.signal, rounds.long_cut, rounds.short_cut, rounds.full_disk]
    rounds.random.shuffle(faults)
    for fault in faults:
        fault()
    rounds.note("none", rounds.start("harmed"), [0, 0])

    assert_same(newest(net.folder / "runs/harmed"), newest(net.folder / "runs/whole"))
    whole = global_batches(net.folder / "whole")
    assert global_batches(net.folder / "harmed") == whole
    assert_each_epoch_has_all_crops_of_each_image(whole)
    if "ENLARGER_FAULTS" in os.environ:
        write_report(rounds, minutes=round((time.monotonic() - began) / 60, 1))
