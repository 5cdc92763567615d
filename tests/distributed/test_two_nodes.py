"""A run on two nodes with signals, power failures and pulled cables ends as an undisturbed one."""

import os
import signal
import time
from collections import Counter

import pytest

from commands.distributed.ranks import LOST
from tests.distributed.network import network, wait_until
from tests.distributed.records import assert_same, global_batches, newest, steps_of

pytestmark = [pytest.mark.distributed, pytest.mark.slow]

STEPS = 36
BATCH = 4
IMAGES = 10
CROPS = 2
LIMIT = 36.0  # seconds, of a process that waits for another one
OVERLAY = f"""
data:
  init_args:
    train: {{class_path: datamodules.Shards, init_args: {{urls: "shards/*.tar"}}}}
trainer:
  max_steps: {STEPS}
  val_check_interval: 12
  check_val_every_n_epoch: null
  callbacks+:
    - class_path: tests.distributed.records.Record
      init_args: {{folder: PLACE, seconds: 0.15}}
checkpoint: {{every_n_steps: 5}}
run: {{wait_minutes: {LIMIT / 60}}}
"""


@pytest.fixture(scope="module")
def net(tmp_path_factory, photo_folder):
    with network(tmp_path_factory.mktemp("nodes"), photo_folder) as made:
        yield made


def start(net, run, log):
    (net.folder / f"{run}.yaml").write_text(OVERLAY.replace("PLACE", run))
    config = f"--config tiny.yaml --config {run}.yaml --run.name {run}"
    return net.train(f"fit {config}", log=f"{run}-{log}")


def after_step(net, run, step, processes):
    """Wait until both nodes have done a step."""

    def done():
        return all(max(steps_of(net.folder / run, rank), default=0) >= step for rank in (0, 1))

    wait_until(done, f"step {step} of {run}", processes)


def assert_ends_well(processes):
    for process in processes:
        assert process.wait() == 0, process.said()


def assert_ends_with(process, status, limit=300.0):
    assert process.wait(limit) == 1  # torchrun's own
    assert process.trainers_status() == status, process.said()


@pytest.fixture(scope="module")
def whole(net):
    """The undisturbed run."""
    assert_ends_well(start(net, "whole", "only"))
    return net.folder / "runs" / "whole"


def assert_unharmed(net, run, whole):
    assert_same(newest(net.folder / "runs" / run), newest(whole))
    batches = global_batches(net.folder / run)
    assert batches == global_batches(net.folder / "whole")
    assert list(batches) == list(range(1, STEPS + 1))
    # Each image as often as planned, in each complete epoch.
    length = IMAGES * CROPS // BATCH
    for first in range(1, STEPS - length + 2, length):
        epoch = Counter()
        for step in range(first, first + length):
            assert batches[step].total() == BATCH
            epoch.update(key for key, _seed in batches[step].elements())
        assert epoch.total() == IMAGES * CROPS
        assert set(epoch.values()) == {CROPS}


def test_a_signal_to_one_node_stops_both_and_a_short_cut_stops_none(net, whole):
    processes = start(net, "stopped", "first")
    after_step(net, "stopped", 7, processes)
    os.kill(net.nodes[1].trainer(), signal.SIGTERM)
    for process in processes:
        assert_ends_with(process, 128 + signal.SIGTERM)
        assert "stopped by SIGTERM after step" in process.said()
    step = newest(net.folder / "runs" / "stopped")["global_step"]
    assert 7 <= step < STEPS
    for rank in (0, 1):
        assert steps_of(net.folder / "stopped", rank)[-1] == step

    processes = start(net, "stopped", "second")
    after_step(net, "stopped", step + 3, processes)
    net.nodes[1].cable("down")
    time.sleep(LIMIT / 6)
    net.nodes[1].cable("up")
    assert_ends_well(processes)

    assert_unharmed(net, "stopped", whole)


def test_a_lost_node_and_a_long_cut_end_the_other_within_the_limit(net, whole):
    processes = start(net, "lost", "first")
    after_step(net, "lost", 8, processes)
    net.nodes[1].kill()
    assert_ends_with(processes[0], LOST)
    processes[1].wait()

    processes = start(net, "lost", "second")
    after_step(net, "lost", 15, processes)
    net.nodes[1].cable("down")
    try:
        for process in processes:
            assert_ends_with(process, LOST, 2 * LIMIT)
    finally:
        net.nodes[1].cable("up")

    assert_ends_well(start(net, "lost", "third"))
    assert_unharmed(net, "lost", whole)
