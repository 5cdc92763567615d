"""Images that would stop a packing: their part refuses them by reason, and the others go on."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from datamodules.pack import __main__ as pack
from tests.datamodules.poison import REASONS, poisoned


@pytest.mark.slow
def test_a_folder_of_them(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The slow one is decoded in C, for half a minute: its worker is replaced."""
    caplog.set_level(logging.INFO)
    out = tmp_path / "out"
    options = ["--samples-per-shard", "3", "--workers", "2", "--decode-timeout", "1"]
    command = [str(poisoned(tmp_path / "images")), str(out), *options]
    for part in ("1/2", "2/2"):
        assert pack.main([*command, "--part", part]) == 0
    assert pack.main([*command, "--finish"]) == 1
    report = json.loads((out / "shard.report.json").read_text())
    assert {one["key"]: one["reason"] for one in report["refused"]} == REASONS
    assert (report["counts"]["packed"], report["counts"]["refused"]) == (6, 5)
    messages = {one["reason"]: one["message"] for one in report["refused"]}
    slow = tmp_path / "images" / "slow.jpg"
    assert messages["too slow"] == f"{slow}: not decoded in --decode-timeout 1 s"
    assert "part 2/2 is packed, 5 refused" in caplog.text
