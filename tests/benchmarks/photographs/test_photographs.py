"""The table of photographs: its commands are those of `main.py`, its controls are what they say."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.utils import save_image

from benchmarks.photographs import __main__ as command
from benchmarks.photographs import page
from benchmarks.photographs.ladder import ResShiftFromHR
from benchmarks.photographs.measure import (
    FAILS,
    HOLDS,
    OPEN,
    compare,
    noisy,
    psnr_y,
    samples,
    sharpened,
    verdict,
)
from benchmarks.photographs.table import TABLE, Claim, load, texts
from callbacks.metrics.fid import KIDThumb
from lightning_modules import PixelSpace, ResidualShift
from lightning_modules.noise import Noise

PHOTOGRAPHS = load()
CUDA = TABLE.with_name("photographs_cuda.yaml")
TABLES = {table.name: table for table in (PHOTOGRAPHS, load(CUDA), load(CUDA, small=True))}


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


@pytest.mark.parametrize("target", [25.0, 23.0])
def test_sharpening_lowers_psnr_to_that_asked_for(
    pair: tuple[Tensor, Tensor], target: float
) -> None:
    smooth, hr = pair
    assert psnr_y(smooth, hr, 4) > target

    image = sharpened(smooth, hr, target, 4)

    assert psnr_y(image, hr, 4) == pytest.approx(target, abs=0.05)
    assert image.std() > smooth.std()


def test_an_image_below_the_target_is_not_sharpened(pair: tuple[Tensor, Tensor]) -> None:
    smooth, hr = pair

    image = sharpened(smooth, hr, 60.0, 4)

    assert torch.allclose(image, smooth, atol=1 / 255)


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


@pytest.mark.parametrize("first", [0, 9])
def test_a_network_without_error_leads_back_to_hr(pair: tuple[Tensor, Tensor], first: int) -> None:
    _, hr = pair
    lr = torch.nn.functional.avg_pool2d(hr, 4)
    network = torch.nn.Module()
    model = ResShiftFromHR(
        first, scale=4, network=network, space=PixelSpace(), process=ResidualShift(kappa=1.0)
    )
    network.forward = lambda x, t, lr: model.space.encode(hr)
    batch: Any = {"hr": hr, "lr": lr, "size": (96, 96)}
    made = model.restore(batch, Noise(torch.tensor([1]), hr.device))
    assert torch.allclose(made, hr, atol=1e-5)


@pytest.mark.parametrize("name", TABLES)
def test_every_training_is_of_a_row_and_every_file_is_there(name: str) -> None:
    table = TABLES[name]
    commands = command._commands(table, table.wanted([]))
    assert len(commands) == len(table.trainings) + len(table.rows)
    assert all(texts(words) for words in commands)


@pytest.mark.timing
def test_a_spent_budget_stops_a_command_and_begins_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "REPOSITORY", tmp_path)
    monkeypatch.chdir(tmp_path)  # which the command leaves
    words = ["--table", str(CUDA), "--small", "--only", "invsr", "--budget", "0"]
    assert command.main(words) == 0
    assert capsys.readouterr().err.endswith("goes on with bicubic, regression, invsr\n")
    (tmp_path / "main.py").write_text(
        "import signal, sys, time\n"
        "def stop(number, frame):\n    print('a checkpoint')\n    sys.exit(143)\n"
        "signal.signal(signal.SIGTERM, stop)\ntime.sleep(60)\n"
    )
    with pytest.raises(command.BudgetSpent):
        command._status(["fit"], tmp_path / "log", limit=0.5)
    assert (tmp_path / "log").read_text() == "a checkpoint\n"


@pytest.mark.slow
@pytest.mark.parametrize("name", TABLES)
def test_its_commands_are_those_of_main(
    name: str, accepted: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    """Each training, and a row of each set; of no run of another table."""
    table = TABLES[name]
    rows = {row.set: table.test_command(row) for row in table.rows}
    for words in [*map(table.training_command, table.trainings), *rows.values()]:
        if words[0] != "encode":  # which prints no configuration
            accepted(*words)
            runs = re.findall(r"\bruns/\w+", capsys.readouterr().out)
            assert set(runs) <= {str(table.runs)}, words
