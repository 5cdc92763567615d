"""NSARM's further tables: gaps, bits by scale, robustness, strengths."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.miniature.facts import nsarm_tables, tokenizer_bits
from benchmarks.miniature.rows import METHODS

NSARM = METHODS["nsarm"]
LABELS = {row.name: row.label for row in NSARM.rows if row.data is None}
SCALES = [
    {"size": [1, 1], "bits": 16, "bit_accuracy": 0.9, "psnr": 20.5},
    {"size": [2, 2], "bits": 0, "bit_accuracy": 0.0, "psnr": 20.5},
]


def write(run: Path, sets: dict[str, dict[str, float]], seeds: int = 1) -> None:
    """A run's numbers; those of a further seed are 1 dB higher."""
    run.mkdir(parents=True)
    images: list[dict[str, Any]] = [
        {
            **{"dataset": name, "scale": 4.0, "metric": "psnr", "protocol": {}},
            **{"checkpoint": "a.ckpt", "seed": seed},
            "values": {f"{name}/{key}": value + seed for key, value in values.items()},
        }
        for name, values in sets.items()
        for seed in range(seeds)
    ]
    (run / "images.json").write_text(json.dumps({"images": images}))
    (run / "samples").mkdir()
    (run / "samples" / "scales-test.json").write_text(
        json.dumps({"set": {"images": 2, "scales": SCALES}})
    )


@pytest.fixture
def found(tmp_path: Path) -> dict[str, Any]:
    for row in NSARM.rows:
        values = {"a": 22.0, "b": 26.0}
        if row.name == "nsarm":
            values = {"a": 21.5, "b": 22.5}  # the mean of two seeds is 0.5 dB more
        if row.name == "ceiling":
            values = {"a": 24.0, "b": 27.0}
        names = [f"strength_{n}" for n in range(1, 6)] if row.data else ["kodak_x4"]
        sets = {name: values for name in names}
        if row.name == "nsarm_strengths":
            sets["strength_5"] = {"a": 20.0, "b": 25.0}
        write(tmp_path / row.name, sets, 2 if row.name == "nsarm" else 1)
    return nsarm_tables(tmp_path.joinpath, LABELS)


def test_tables(found: dict[str, Any]) -> None:
    gaps, bits, decoded, robust, strengths = found.values()
    assert "tokenizer-limited" not in next(iter(found))
    assert gaps["bicubic"] == {"below": 1.5}
    assert gaps["NSARM"] == {"below": 3.0}
    assert bits["NSARM"] == {"1x1": 0.9}
    assert decoded["NSARM"] == {"1x1": 20.5}
    assert list(robust["NSARM"].values()) == [2, -1.5, 4.5, 1, 0]  # gains are 0 and -3
    assert list(robust["regression"].values()) == [2, 0, 0, 0, 0]
    assert strengths["NSARM"] == {"1": 0, "2": 0, "3": 0, "4": 0, "5": -1.5}


def test_what_the_tokenizer_says_of_hr(tmp_path: Path) -> None:
    for steps, psnr in ((1000, 1.0), (2000, 30.66)):
        path = tmp_path / "tokenizer" / "samples" / f"scales-val-{steps:08}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        found = {"photos": {"images": 2, "scales": [SCALES[0], {**SCALES[0], "size": [2, 2]}]}}
        found["photos"]["scales"][1]["psnr"] = psnr
        path.with_suffix(".json").write_text(json.dumps(found))
    assert list(tokenizer_bits(tmp_path.joinpath).values()) == ["20.5, 30.7"]


def test_a_tokenizer_below_bicubic_is_said(tmp_path: Path) -> None:
    for row in NSARM.rows:
        low = {"a": 20.0, "b": 20.0} if row.name == "ceiling" else {"a": 22.0, "b": 26.0}
        write(tmp_path / row.name, {"strength_1" if row.data else "kodak_x4": low})
    assert "tokenizer-limited" in next(iter(nsarm_tables(tmp_path.joinpath, LABELS)))
