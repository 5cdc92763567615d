"""The table of photographs: its commands are those of `main.py`, its controls are what they say."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from torch.nn import functional
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
from tests.make import assert_near, keys, uniform

PHOTOGRAPHS = load()
CUDA = TABLE.with_name("photographs_cuda.yaml")
TABLES = {table.name: table for table in (PHOTOGRAPHS, load(CUDA), load(CUDA, small=True))}


@pytest.fixture(scope="module")
def hr():
    """An image of some structure."""
    draws = uniform(1, 3, 25, 25)
    return functional.interpolate(draws, size=(96, 96), mode="bicubic").clamp(0, 1)


@pytest.fixture(scope="module")
def smooth(hr):
    return functional.avg_pool2d(hr, 5, 1, 2, count_include_pad=False)


@pytest.mark.parametrize("target", [24.0, 12.0])
def test_noise_lowers_psnr_to_that_asked_for(smooth, hr, target):
    assert psnr_y(smooth, hr, 4) > target

    image = noisy(smooth, hr, target, 4, "kodim01")

    assert psnr_y(image, hr, 4) == pytest.approx(target, abs=0.05)
    assert torch.equal(image * 255, (image * 255).round())  # as in a file of 8 bits
    inside = ((image > 0) & (image < 1)).all(1)[0]
    noise = (image - smooth)[0, :, inside]
    # Grey: equal in all channels, but for the rounding to a level.
    assert_near(noise, noise[:1].expand_as(noise), 1.01 / 255)


def test_an_image_whose_psnr_is_below_the_target_stays(smooth, hr):
    with_noise = noisy(smooth, hr, 60.0, 4, "kodim01")
    sharp = sharpened(smooth, hr, 60.0, 4)

    assert torch.equal(with_noise, smooth)
    assert_near(sharp, smooth, 1 / 255)  # it is rounded to 8 bits


@pytest.mark.parametrize("target", [25.0, 23.0])
def test_sharpening_lowers_psnr_to_that_asked_for_and_raises_contrast(smooth, hr, target):
    assert psnr_y(smooth, hr, 4) > target

    image = sharpened(smooth, hr, target, 4)

    assert psnr_y(image, hr, 4) == pytest.approx(target, abs=0.05)
    assert image.std() > smooth.std()


@pytest.mark.parametrize(
    ("others", "expected"),
    [
        ([5.0, 5.0, 7.0, 7.0], HOLDS),
        ([1.0, 2.0, 3.0, 4.5], FAILS),
        ([2.0, 6.0, 2.0, 9.0], OPEN),
    ],
)
def test_a_difference_holds_fails_or_is_open(others, expected):
    """Of NIQE, lower is better: each image lower by 2 or 1, higher by 1.5 to 2, or either."""
    difference = compare({"niqe": [3.0, 4.0, 5.0, 6.0]}, {"niqe": others}, "niqe")

    assert difference.verdict == expected


def test_an_interval_is_that_of_student():
    row = {"niqe": [3.0, 4.0, 5.0, 6.0]}

    difference = compare(row, {"niqe": [5.0, 5.0, 7.0, 7.0]}, "niqe")

    # Differences -2, -1, -2, -1: variance 1/3. Student's 97.5 % quantile of 3 degrees: 3.18245.
    assert difference.value == pytest.approx(-1.5)
    assert difference.reach == pytest.approx(3.18245 * (1 / 3) ** 0.5 / 2, rel=1e-4)


def test_a_claim_has_the_verdict_of_its_worst_part():
    assert verdict([HOLDS, OPEN]) == OPEN
    assert verdict([OPEN, FAILS]) == FAILS
    assert verdict([HOLDS]) == HOLDS
    assert verdict([]) == OPEN


def test_jackknife_values_of_sets_are_one_an_image_and_average_to_the_distance(tmp_path):
    sr = uniform(8, 3, 16, 16) ** 2
    hr = uniform(8, 3, 16, 16, seed=1) ** 2
    for name, images in (("sr", sr), ("hr", hr)):
        (tmp_path / name / "set").mkdir(parents=True)
        for number, image in enumerate(images):
            save_image(image, tmp_path / name / "set" / f"{number}.png")

    values = samples(tmp_path, "set")

    metric = KIDThumb()
    of_sr = metric.features(sr, keys(8)).double()
    of_hr = metric.features(hr, keys(8)).double()
    # Unbiased, so the jackknife's mean is the distance itself.
    assert np.mean(values["kid_thumb"]) == pytest.approx(metric.distance(of_sr, of_hr), rel=0.02)
    assert {len(of_metric) for of_metric in values.values()} == {8}


def numbers(niqe, swd):
    return {"niqe": [niqe + n / 50 for n in range(8)], "swd_2": [swd + n / 50 for n in range(8)]}


@pytest.mark.parametrize(
    ("row", "noise", "expected"),
    [
        (numbers(3, 0.3), numbers(9, 0.8), HOLDS),
        (numbers(9, 0.8), numbers(9, 0.8), FAILS),  # noise itself: finer than the regression
        (numbers(3, 0.8), numbers(9, 0.3), FAILS),  # noise has the detail as well
    ],
)
def test_a_claim_that_noise_passes_does_not_hold(row, noise, expected):
    claim = Claim("detail", "casarbi", ("x4",))
    measured = {"casarbi": {"x4": {"row": row, "regression + noise": noise}}}
    regression = {"regression": {"x4": {"row": numbers(7, 1)}}}

    judged = page.judged(claim, PHOTOGRAPHS, measured | regression)
    without_regression = page.judged(claim, PHOTOGRAPHS, measured)

    assert judged["verdict"] == expected
    assert len(judged["parts"]) == 4  # NIQE and SWD, against regression and noise
    assert without_regression["verdict"] == page.UNKNOWN


@pytest.mark.parametrize("first", [0, 9])  # the timestep that it starts at
def test_resshift_with_a_network_without_error_leads_back_to_hr(hr, first):
    network = torch.nn.Module()
    process = ResidualShift(kappa=1.0)
    model = ResShiftFromHR(first, scale=4, network=network, space=PixelSpace(), process=process)
    network.forward = lambda x, t, lr: model.space.encode(hr)
    batch = {"hr": hr, "lr": functional.avg_pool2d(hr, 4), "size": (96, 96)}

    restored = model.restore(batch, Noise(torch.tensor([1]), hr.device))

    assert_near(restored, hr, 1e-5)


@pytest.mark.parametrize("name", TABLES)
def test_a_table_has_a_command_for_each_training_and_row_and_their_files(name):
    table = TABLES[name]

    commands = command._commands(table, table.wanted([]))

    assert len(commands) == len(table.trainings) + len(table.rows)
    assert all(texts(words) for words in commands)


def test_a_budget_that_is_spent_begins_no_command(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(command, "REPOSITORY", tmp_path)
    monkeypatch.chdir(tmp_path)  # which the command leaves

    words = ["--table", str(CUDA), "--small", "--only", "invsr", "--budget", "0"]
    status = command.main(words)

    assert status == 0
    assert capsys.readouterr().err.endswith("goes on with bicubic, regression, invsr\n")


STOPPED = """
import signal, sys, time
def stop(number, frame):
    print('a checkpoint')
    sys.exit(143)
signal.signal(signal.SIGTERM, stop)
time.sleep(60)
"""


@pytest.mark.timing
def test_a_spent_budget_stops_a_command(tmp_path, monkeypatch):
    monkeypatch.setattr(command, "REPOSITORY", tmp_path)
    (tmp_path / "main.py").write_text(STOPPED)

    with pytest.raises(command.BudgetSpent):
        command._status(["fit"], tmp_path / "log", limit=0.5)

    assert (tmp_path / "log").read_text() == "a checkpoint\n"


@pytest.mark.slow
@pytest.mark.parametrize("name", TABLES)
def test_commands_of_a_table_are_those_of_main(name, accepted, capsys):
    """Each training, and a row of each set; of no run of another table."""
    table = TABLES[name]
    rows = {row.set: table.test_command(row) for row in table.rows}
    trainings = [table.training_command(training) for training in table.trainings]

    for words in [*trainings, *rows.values()]:
        if words[0] != "encode":  # which prints no configuration
            accepted(*words)
            runs = re.findall(r"\bruns/\w+", capsys.readouterr().out)
            assert set(runs) <= {str(table.runs)}, words
