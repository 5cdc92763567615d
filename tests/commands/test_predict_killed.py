"""`predict` killed at any moment leaves no partial file, and the same command continues."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from callbacks.predict.predictions import NAME
from tests.conftest import REPO

COUNT = 30
OUT = Path("out")
SLOW = """
import time
from lightning_modules.controls.simple import Bicubic

class Slow(Bicubic):
    def restore(self, batch, noise):
        time.sleep(0.03)
        return super().restore(batch, noise)
"""
PATIENCE = 120  # seconds; a busy machine takes long to start


@pytest.mark.slow
def test_kill_and_go_on(
    tiny: Path, enlarger: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    Path("slow.py").write_text(SLOW)
    Path("in").mkdir()
    generator = np.random.default_rng(0)
    for number in range(COUNT):
        # Of noise, so that a file takes time to write.
        noise = generator.integers(0, 256, (96, 96, 3), dtype=np.uint8)
        Image.fromarray(noise).save(f"in/{number:02d}.png")
    command = ["predict", "--config", "tiny.yaml", "--data.init_args.predict", "in"]
    command += ["--writer.folder", str(OUT), "--model"]
    process = subprocess.Popen(
        [sys.executable, str(REPO / "main.py"), *command, "slow.Slow"],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    until = time.monotonic() + PATIENCE
    while len(list(OUT.glob("*.png"))) < 5:
        assert process.poll() is None
        assert time.monotonic() < until
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()

    done = sorted(OUT.glob("*.png"))
    assert 5 <= len(done) < COUNT
    for path in done:
        np.asarray(Image.open(path))  # each of them is complete
    lines = [json.loads(text) for text in (OUT / NAME).read_text().splitlines()]
    assert {path.name for path in done} <= {line["output"] for line in lines}

    enlarger(*command, "slow.Slow")
    del sys.modules["slow"]
    assert f"{COUNT - len(done)} written, {len(done)} skipped" in caplog.text
    names = sorted(path.name for path in OUT.glob("*.png"))
    assert names == [f"{number:02d}.png" for number in range(COUNT)]
    text = (OUT / NAME).read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    assert {line["output"] for line in lines} == set(names)
    # Only those that were under way have two lines: two threads, and what had not yet an image.
    assert len(lines) <= COUNT + 2
