"""A run whose degradation is recorded, and one that replays it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.commands.test_resume import assert_same


def config(kind: str, sigma: float) -> dict[str, object]:
    noise = {
        "class_path": "degradations.GaussianNoise",
        "init_args": {"sigma": [0, sigma]},
    }
    recipe = {"class_path": "degradations.Pipeline", "init_args": {"stages": [noise]}}
    arguments = {"recipe": recipe, "path": "params/all.jsonl"}
    return {"degradation": {"class_path": f"degradations.record.{kind}", "init_args": arguments}}


@pytest.mark.slow
def test_a_replayed_run_ends_with_the_same_weights(
    tiny: Path, enlarger: Callable[..., None]
) -> None:
    for kind, sigma in (("Record", 30.0), ("Replay", 3.0)):
        Path(f"{kind}.yaml").write_text(yaml.safe_dump(config(kind, sigma)))
        enlarger(
            *("fit", "--config", "tiny.yaml", "--config", f"{kind}.yaml", "--run.name", kind),
        )
    assert_same("Record", "Replay")
    lines = [json.loads(line) for line in Path("params/all.jsonl").read_text().splitlines()]
    assert {line["scale"] for line in lines} == {2.0}
    shapes = [line["shape"] for line in lines]
    assert shapes.count([3, 16, 16]) == 12 * 4  # crops of training; the others are of validation
    # What the replayed run would draw by itself is something else.
    enlarger(
        *("fit", "--config", "tiny.yaml", "--config", "Replay.yaml", "--run.name", "other"),
        *("--degradation.class_path", "degradations.Record"),
        *("--degradation.init_args.path", "params/other.jsonl"),
    )
    with pytest.raises(AssertionError, match="state_dict differs"):
        assert_same("Record", "other")
