"""A run on two nodes with signals, power failures and pulled cables ends as an undisturbed one."""

from __future__ import annotations

import io
import os
import re
import signal
import tarfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from commands.distributed.ranks import LOST
from tests.conftest import REPO
from tests.distributed.network import Network, Process, network, wait_until
from tests.distributed.records import assert_same, global_batches, newest, steps_of

pytestmark = [pytest.mark.distributed, pytest.mark.slow]

STEPS, BATCH, IMAGES, CROPS = 36, 4, 10, 2
LIMIT = 36.0  # seconds, of a process that waits for another one
OVERLAY = """
data:
  init_args:
    train: {{class_path: datamodules.Shards, init_args: {{urls: "{urls}"}}}}
trainer:
  max_steps: {steps}
  val_check_interval: 12
  check_val_every_n_epoch: null
  callbacks+:
    - class_path: tests.distributed.records.Record
      init_args: {{folder: PLACE, seconds: 0.15}}
checkpoint: {{every_n_steps: 5}}
run: {{wait_minutes: {minutes}}}
"""


def pack(photos: Path, folder: Path, shards: int = 3) -> None:
    """Write plain tars of the photographs."""
    folder.mkdir()
    files = sorted(photos.iterdir())
    for number in range(shards):
        with tarfile.open(folder / f"{number}.tar", "w") as tar:
            for path in files[number::shards]:
                content = path.read_bytes()
                entry = tarfile.TarInfo(path.name)
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory, photo_folder: Path) -> Iterator[Network]:
    """Yield two nodes with a shared working directory and a configuration."""
    folder = tmp_path_factory.mktemp("nodes")
    pack(photo_folder, folder / "shards")
    tiny = (REPO / "tests" / "tiny.yaml").read_text().replace("PHOTOS", str(photo_folder))
    (folder / "tiny.yaml").write_text(tiny)
    urls = folder / "shards" / "*.tar"
    overlay = OVERLAY.format(urls=urls, steps=STEPS, minutes=LIMIT / 60)
    (folder / "overlay.yaml").write_text(overlay)
    with network(folder) as made:
        yield made


def start(net: Network, run: str, log: str) -> list[Process]:
    overlay = (net.folder / "overlay.yaml").read_text().replace("PLACE", str(net.folder / run))
    (net.folder / f"{run}.yaml").write_text(overlay)
    config = ["--config", "tiny.yaml", "--config", f"{run}.yaml", "--run.name", run]
    return net.train("fit", *config, log=f"{run}-{log}")


def after_step(net: Network, run: str, step: int, processes: list[Process]) -> None:
    """Wait until both nodes have done a step."""

    def done() -> bool:
        return all(max(steps_of(net.folder / run, r), default=0) >= step for r in (0, 1))

    wait_until(done, f"step {step} of {run}", processes)


def status(process: Process) -> int:
    """Return the status of the process that torchrun reports as failed."""
    return int(re.findall(r"exitcode\s*: (-?\d+)", process.said())[-1])


@pytest.fixture(scope="module")
def whole(net: Network) -> Path:
    """Return the undisturbed run."""
    for process in start(net, "whole", "only"):
        assert process.wait() == 0, process.said()
    return net.folder / "runs" / "whole"


def assert_unharmed(net: Network, run: str, whole: Path) -> None:
    assert_same(newest(net.folder / "runs" / run), newest(whole))
    batches = global_batches(net.folder / run)
    assert batches == global_batches(net.folder / "whole")
    assert list(batches) == list(range(1, STEPS + 1))
    # Each image as often as planned, in each complete epoch.
    length = IMAGES * CROPS // BATCH
    for first in range(1, STEPS - length + 2, length):
        epoch: Counter[str] = Counter()
        for step in range(first, first + length):
            assert batches[step].total() == BATCH
            epoch.update(key for key, _seed in batches[step].elements())
        assert epoch.total() == IMAGES * CROPS
        assert set(epoch.values()) == {CROPS}


def test_a_signal_to_one_node_stops_both_and_a_short_cut_stops_none(
    net: Network, whole: Path
) -> None:
    processes = start(net, "stopped", "first")
    after_step(net, "stopped", 7, processes)
    os.kill(net.nodes[1].trainer(), signal.SIGTERM)
    for process in processes:
        assert process.wait() == 1  # torchrun's own
        assert status(process) == 128 + signal.SIGTERM, process.said()
        assert "stopped by SIGTERM after step" in process.said()
    step = newest(net.folder / "runs" / "stopped")["global_step"]
    assert (
        step == steps_of(net.folder / "stopped", 0)[-1] == steps_of(net.folder / "stopped", 1)[-1]
    )
    assert 7 <= step < STEPS

    processes = start(net, "stopped", "second")
    after_step(net, "stopped", step + 3, processes)
    net.nodes[1].cable("down")
    time.sleep(LIMIT / 6)
    net.nodes[1].cable("up")
    for process in processes:
        assert process.wait() == 0, process.said()
    assert_unharmed(net, "stopped", whole)


def test_a_lost_node_and_a_long_cut_end_the_other_within_the_limit(
    net: Network, whole: Path
) -> None:
    processes = start(net, "lost", "first")
    after_step(net, "lost", 8, processes)
    net.nodes[1].kill()
    assert processes[0].wait() == 1
    assert status(processes[0]) == LOST, processes[0].said()
    processes[1].wait()

    processes = start(net, "lost", "second")
    after_step(net, "lost", 15, processes)
    net.nodes[1].cable("down")
    try:
        for process in processes:
            assert process.wait(2 * LIMIT) == 1
            assert status(process) == LOST, process.said()
    finally:
        net.nodes[1].cable("up")

    for process in start(net, "lost", "third"):
        assert process.wait() == 0, process.said()
    assert_unharmed(net, "lost", whole)
