"""Parts as tasks of Ray: the bytes of one process, also where tasks are killed or fail."""

from __future__ import annotations

import json
import os
import random
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from datamodules.pack import __main__ as pack
from datamodules.pack.journal import Journal, read_journal
from tests.conftest import REPO
from tests.datamodules.image_files import save
from tests.datamodules.pack.test_pack_resume import content
from tests.datamodules.poison import REASONS, poisoned

KILLS = 20
OPTIONS = ["--samples-per-shard", "4", "--crop", "8", "--encode", "png", "--workers", "0"]
CLUSTER = """
import sys
import ray
found = ray.init(
    "local", num_cpus=2, include_dashboard=False, logging_level=40, _node_ip_address="127.0.0.1"
)
print(found.address_info["address"], flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[dict[str, str]]:
    """The environment of a cluster with two cores, on this machine, with a token of its own."""
    pytest.importorskip("ray", reason="needs the extra ray")
    environment = {
        **{**os.environ, "PYTHONPATH": str(REPO), "RAY_USAGE_STATS_ENABLED": "0"},
        **{"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)},
        "RAY_worker_niceness": "0",
    }
    with subprocess.Popen(
        [sys.executable, "-c", CLUSTER],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        yield {**environment, "RAY_ADDRESS": process.stdout.readline().strip()}
        process.communicate("")


@pytest.fixture
def images(tmp_path: Path) -> Path:
    for number in range(60):
        # Equal ones in one block, in the next one and far away.
        seed = {3: 2, 8: 2, 50: 2}.get(number, number)
        save(tmp_path / "images" / f"{number:02d}.png", (8 * (1 + seed % 3), 8), seed=seed)
    (tmp_path / "images" / "13.png").write_bytes(b"")
    return tmp_path / "images"


def ray(environment: dict[str, str], *words: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "datamodules.pack", *map(str, words), "--engine", "ray"],
        cwd=REPO,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    )


def compared(out: Path) -> dict[str, object]:
    return {name: value for name, value in content(out).items() if "journal" not in name}


@pytest.mark.slow
def test_the_bytes_of_local(images: Path, tmp_path: Path, cluster: dict[str, str]) -> None:
    out, words = tmp_path / "out", [images, tmp_path / "out", *OPTIONS]
    assert pack.main([str(images), str(tmp_path / "whole"), *OPTIONS]) == 1
    assert pack.main([*map(str, words), "--part", "2/8"]) == 0
    with Journal(out / "shard.parts" / "shard-000009.journal.jsonl"):
        failing = ray(cluster, *words)
        said = failing.communicate(timeout=120)[1]
    assert failing.returncode == 2
    assert "1 of 8 parts were packed already" in said
    assert "error: 1 of the parts failed (part 6/8: " in said
    assert "another process packs these shards" in said
    # Without the two blocks with images that equal one of an earlier block.
    made = {
        path.stat().st_mtime_ns
        for path in out.glob("shard.parts/*.tar")
        if path.name.split("-")[1] not in ("000002", "000012")
    }
    assert len(made) >= 13
    again = ray(cluster, *words)
    said = again.communicate(timeout=120)[1]
    assert again.returncode == 1
    assert "7 of 8 parts were packed already" in said
    assert compared(out) == compared(tmp_path / "whole")
    assert made < {path.stat().st_mtime_ns for path in out.glob("*.tar")}


@pytest.mark.slow
def test_processes_that_are_killed(tmp_path: Path, cluster: dict[str, str]) -> None:
    """Those of Ray, their workers and the command itself; nothing is packed twice."""
    for number in range(160):
        save(tmp_path / "images" / f"{number:03d}.png", (300, 200), seed=number % 156)
    options = ["--samples-per-shard", "2", "--encode", "webp", "--workers", "0"]
    out, draws = tmp_path / "out", random.Random(0)
    assert pack.main([str(tmp_path / "images"), str(tmp_path / "whole"), *options]) == 0
    made: set[int] = set()
    killed, status = 0, None
    while status is None:
        command = ray(cluster, tmp_path / "images", out, *options)
        while command.poll() is None and killed < KILLS:
            time.sleep(draws.uniform(0.02, 0.3))
            tasks = [p for p in psutil.process_iter(["name"]) if p.info["name"] == "ray::pack_once"]
            with suppress(psutil.NoSuchProcess, FileNotFoundError):  # it has just ended
                if tasks and not packed(out) <= made:  # each kill gets at least one block further
                    task = draws.choice(tasks)
                    below = task.children(recursive=True)
                    (command if killed % 7 == 3 else draws.choice([task, *below])).kill()
                    killed += 1
                    made |= packed(out)
        said = command.communicate(timeout=120)[1]
        status = command.returncode if command.returncode in (0, 1) else None
    assert (killed, status) == (KILLS, 0), said
    assert compared(out) == compared(tmp_path / "whole")
    assert len(made) >= KILLS
    assert made <= {path.stat().st_mtime_ns for path in out.glob("*.tar")}


def packed(out: Path) -> set[int]:
    """When the shards of the blocks that are done were written, but for those written again."""
    stages = [list(read_journal(path)[1]) for path in out.glob("shard.parts/*.jsonl")]
    done = [one[0].shard for one in stages if one and not one[-1].shard]
    last = ("shard-000078", "shard-000079")  # their images equal earlier ones
    return {
        (out / "shard.parts" / name).stat().st_mtime_ns
        for name in done
        if name and not name.startswith(last)
    }


@pytest.mark.slow
def test_a_poisoned_image(tmp_path: Path, cluster: dict[str, str]) -> None:
    options = ["--samples-per-shard", "3", "--decode-timeout", "1"]
    command = ray(cluster, poisoned(tmp_path / "images"), tmp_path / "out", *options)
    said = command.communicate(timeout=120)[1]
    assert command.returncode == 1, said
    report = json.loads((tmp_path / "out" / "shard.report.json").read_text())
    assert {one["key"]: one["reason"] for one in report["refused"]} == REASONS


def test_ray_is_missing(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    assert pack.main([str(images), str(tmp_path / "out"), "--engine", "ray"]) == 2
    assert "--engine ray needs the package ray, which is not installed: pip install" in caplog.text
