"""The table of InvSR's scales, and the rows that are added when starts are known."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch

from benchmarks.invsr_scales import RUNS, SEEDS, TABLE, distance_of, starts_of, with_last_starts
from benchmarks.miniature.table import Plan, load


def test_each_scale_has_its_regression_and_both_starts() -> None:
    table = with_last_starts(load(TABLE), {"invsr_x1": 0.3, "invsr_x2": 0.65, "invsr_x4": 0.82})
    rows = {row.name: row for row in table.rows}
    assert rows["invsr_x1_last"].options[-2:] == ("--model.init_args.sampling.start", "50")
    assert rows["invsr_x2"].label == "InvSR, start 250"
    assert rows["invsr_x4_last"].label == "InvSR, start 150"
    jobs = {job.name: job for job in Plan(table, RUNS, SEEDS).jobs()}
    for scale in (1, 2, 4):
        words = jobs[f"fit invsr_x{scale}"].arguments
        assert words[words.index("--model.init_args.patch") + 1] == str(32 // scale)
        assert f"benchmarks/configs/cars/data/x{scale}.yaml" in words
        assert jobs[f"test invsr_x{scale}_last"].needs == jobs[f"test invsr_x{scale}"].needs
    claims = {(claim.row, claim.metric, claim.than) for claim in table.all_claims()}
    for scale in (1, 2, 4):
        for metric in ("swd", "psnr", "lr_psnr"):
            assert (f"invsr_x{scale}", metric, f"regression_x{scale}") in claims


def test_the_distance_is_in_the_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="has no checkpoint: remove it"):
        distance_of(tmp_path)
    path = tmp_path / "checkpoints" / "step-000000600.ckpt"
    path.parent.mkdir()
    torch.save({"state_dict": {"distance": torch.tensor(0.65)}}, path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    path.with_name(f"{path.name}.sha256").write_text(f"{digest}  {path.name}\n")
    assert starts_of(distance_of(tmp_path)) == (250, 200, 150, 100)
