"""The table of photographs: its commands are those of `main.py`, its controls are what they say."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.utils import save_image

from benchmarks import report
from benchmarks.photographs import __main__ as command
from benchmarks.photographs import page
from benchmarks.photographs.measure import (
    FAILS,
    HOLDS,
    OPEN,
    compare,
    noisy,
    psnr_y,
    samples,
    verdict,
)
from benchmarks.photographs.table import TABLE, Claim, load
from callbacks.metrics.fid import KIDThumb

PHOTOGRAPHS = load()


@pytest.fixture(scope="module")
def pair() -> tuple[Tensor, Tensor]:
    """HR of some structure, and the same blurred."""
    draws = torch.from_numpy(np.random.default_rng(3).random((1, 3, 25, 25))).float()
    hr = torch.nn.functional.interpolate(draws, size=(96, 96), mode="bicubic").clamp(0, 1)
    return torch.nn.functional.avg_pool2d(hr, 5, 1, 2, count_include_pad=False), hr


@pytest.mark.parametrize("target", [24.0, 18.0, 12.0])
def test_noise_lowers_psnr_to_that_asked_for(pair: tuple[Tensor, Tensor], target: float) -> None:
    smooth, hr = pair
    assert psnr_y(smooth, hr, 4) > target
    image = noisy(smooth, hr, target, 4, "kodim01")
    assert psnr_y(image, hr, 4) == pytest.approx(target, abs=0.05)
    assert torch.equal(image * 255, (image * 255).round())
    inside = ((image > 0) & (image < 1)).all(1)[0]
    grey = (image - smooth)[0, :, inside]
    assert torch.allclose(grey[:1], grey, atol=1.01 / 255)
    assert torch.equal(noisy(smooth, hr, 60.0, 4, "kodim01"), smooth)  # lower already


def test_an_interval_is_that_of_student(pair: tuple[Tensor, Tensor]) -> None:
    row = {"niqe": [3.0, 4.0, 5.0, 6.0]}
    found = compare(row, {"niqe": [5.0, 5.0, 7.0, 7.0]}, "niqe")
    assert found.value == pytest.approx(-1.5)
    assert found.reach == pytest.approx(3.18245 * (1 / 3) ** 0.5 / 2, rel=1e-4)
    assert found.verdict == HOLDS
    assert compare(row, {"niqe": [1.0, 2.0, 3.0, 4.5]}, "niqe").verdict == FAILS
    assert compare(row, {"niqe": [2.0, 6.0, 2.0, 9.0]}, "niqe").verdict == OPEN
    assert [verdict(parts) for parts in ([HOLDS, OPEN], [OPEN, FAILS], [HOLDS], [])] == [
        *(OPEN, FAILS, HOLDS, OPEN)
    ]


def test_a_number_of_sets_has_a_value_an_image(tmp_path: Path) -> None:
    draws = np.random.default_rng(0)
    images = {part: torch.from_numpy(draws.random((8, 3, 16, 16)) ** 2).float() for part in "ab"}
    for part, folder in (("a", "sr"), ("b", "hr")):
        (tmp_path / folder / "set").mkdir(parents=True)
        for key, image in enumerate(images[part]):
            save_image(image, tmp_path / folder / "set" / f"{key}.png")
    found = samples(tmp_path, "set")
    metric, batch = KIDThumb(), {"key": [*map(str, range(8))]}
    whole = metric.distance(*(metric.features(each, batch).double() for each in images.values()))
    # Unbiased, so the jackknife's mean is the distance itself.
    assert np.mean(found["kid_thumb"]) == pytest.approx(whole, rel=0.02)
    assert {len(values) for values in found.values()} == {8}


def numbers(niqe: float, swd: float) -> dict[str, list[float]]:
    return {"niqe": [niqe + n / 50 for n in range(8)], "swd_2": [swd + n / 50 for n in range(8)]}


@pytest.mark.parametrize(
    ("row", "noise", "said"),
    [
        ((3, 0.3), (9, 0.8), HOLDS),
        ((9, 0.8), (9, 0.8), FAILS),  # noise itself: finer than the regression, and no photograph
        ((3, 0.8), (9, 0.3), FAILS),  # noise has the detail as well
    ],
)
def test_a_claim_that_noise_passes_does_not_hold(row: Any, noise: Any, said: str) -> None:
    claim = Claim("detail", "casarbi", ("x4",))
    measured = {
        "regression": {"x4": {"row": numbers(7, 1)}},
        "casarbi": {"x4": {"row": numbers(*row), "regression + noise": numbers(*noise)}},
    }
    found = page.judged(claim, PHOTOGRAPHS, measured)
    assert found["verdict"] == said
    assert len(found["parts"]) == 4
    del measured["regression"]
    assert page.judged(claim, PHOTOGRAPHS, measured)["verdict"] == page.UNKNOWN


@pytest.mark.parametrize(
    ("first", "last", "said"), [(0.3, 0.3, HOLDS), (0.3, 0.8, OPEN), (0.7, 0.8, FAILS)]
)
def test_a_claim_is_decided_if_all_trainings_agree(first: float, last: float, said: str) -> None:
    claim = Claim("a", "ablated_equal", ("ablated_real",), than="ablated_frozen", metric="swd_2")
    measured = {
        f"{name}_{seed}": {"ablated_real": {"row": numbers(3, swd)}}
        for name, values in {
            "ablated_equal": (first, first, last),
            "ablated_frozen": (0.6,) * 3,
        }.items()
        for seed, swd in enumerate(values)
    }
    assert page.judged(claim, PHOTOGRAPHS, measured)["verdict"] == said
    rows = {name: page.means(tables)["ablated_real"] for name, tables in measured.items()}
    pooled = page._pooled([rows[f"ablated_equal_{seed}"] for seed in range(3)])
    mean, reach = 0.07 + (2 * first + last) / 3, (last - first) / 2
    assert pooled["row"]["swd_2"] == pytest.approx([mean, reach], abs=1e-6)


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ("of: casarbi,", "of: casarbo,", "casarbo"),
        ("regression: regression_real", "regression: regresion", "regresion"),
        ("tables: [real]}", "tables: [reel]}", "reel"),
        ("tables: [real]}", "tables: [ablated_real]}", "names ''"),  # which has no regression
        ("{name: regression}", "{name: casarbi}", "casarbi is there twice"),
        ("{name: regression}", "{nome: regression}", "nome"),
    ],
)
def test_a_mistake_in_the_table_is_named(tmp_path: Path, old: str, new: str, named: str) -> None:
    text = TABLE.read_text(encoding="utf-8")
    assert old in text
    path = tmp_path / "table.yaml"
    path.write_text(text.replace(old, new))
    with pytest.raises(ValueError, match=named):
        load(path)


@pytest.mark.slow
def test_its_commands_are_those_of_main(accepted: Callable[..., None]) -> None:
    """Each training, and a row of each set."""
    commands = command._commands(PHOTOGRAPHS, PHOTOGRAPHS.wanted([]))
    assert len(commands) == len(PHOTOGRAPHS.trainings) + len(PHOTOGRAPHS.rows)
    rows = {row.set: PHOTOGRAPHS.command(row) for row in PHOTOGRAPHS.rows}
    for words in [*(t.command for t in PHOTOGRAPHS.trainings), *rows.values()]:
        if words[0] != "encode":  # which prints no configuration
            accepted(*words)


def test_only_what_a_row_needs_and_its_controls() -> None:
    rows = PHOTOGRAPHS.wanted(["real_esrgan"])
    assert [row.name for row in rows] == ["bicubic_real", "regression_real", "real_esrgan"]
    words = command._commands(PHOTOGRAPHS, rows)
    assert [w[w.index("--run.name") + 1] for w in words] == [
        *("regression_real", "real_esrgan", "bicubic_real", "regression_real", "real_esrgan")
    ]


def test_what_is_done_is_not_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "NOTES", tmp_path)
    runs = list[list[str]]()

    code = 0

    def run(words: list[str], **_: Any) -> Any:
        runs.append(words[2:])
        return type("Done", (), {"returncode": code})()

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(command, "commit", lambda: "abc")
    training = PHOTOGRAPHS.training("regression")
    first = command._run(training.name, training.command, [])
    assert command._run(training.name, training.command, []) == first
    changed = replace(training, options=("--seed_everything", "1"))
    code = 1  # it is cut off, and goes on
    with pytest.raises(RuntimeError, match="ended with 1"):
        command._run(changed.name, changed.command, [])
    code = 0
    command._run(changed.name, changed.command, [])
    afresh = [*changed.command, "--run.overwrite", "true"]
    assert runs == [training.command, afresh, changed.command]
    assert json.loads((tmp_path / "fit_regression.json").read_text())["digest"] != first["digest"]


def test_rows_of_another_machine_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "NOTES", tmp_path)
    place = tmp_path / page.JSON
    shutil.copy(report.RESULTS / page.JSON, place)
    there = json.loads(place.read_text())["results"]
    numbers = {"row": {"psnr": [20.0, 22.0]}}
    (tmp_path / "numbers_bicubic_x4.json").write_text(json.dumps({"numbers": numbers}))
    command._write(PHOTOGRAPHS, tmp_path)
    found = json.loads(place.read_text())["results"]
    assert found["rows"]["bicubic"]["tables"]["x4"]["row"]["psnr"][0] == 21.0
    assert found | {"rows": found["rows"] | {"bicubic": there["rows"]["bicubic"]}} == there


def test_crops_lie_within_the_squares() -> None:
    assert all(max(left, top) + page.SIDE <= 384 for _, left, top in PHOTOGRAPHS.crops)
