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
    SHARPENED,
    Measure,
    compare,
    noisy,
    psnr_y,
    samples,
    sharpened,
    verdict,
)
from benchmarks.photographs.table import TABLE, Claim, load, texts
from callbacks.metrics.fid import KIDThumb
from callbacks.metrics.pixels import PSNR
from lightning_modules import PixelSpace, ResidualShift
from lightning_modules.noise import Noise
from tests.make import assert_near, keys, uniform

PHOTOGRAPHS = load()
CUDA = TABLE.with_name("photographs_cuda.yaml")
BORDER = 4  # pixels that the PSNR does not count
TABLES = {table.name: table for table in (PHOTOGRAPHS, load(CUDA), load(CUDA, small=True))}


@pytest.fixture(scope="module")
def hr():
    """An image of some structure."""
    draws = uniform(1, 3, 25, 25)
    return functional.interpolate(draws, size=(96, 96), mode="bicubic").clamp(0, 1)


@pytest.fixture(scope="module")
def smooth(hr):
    return functional.avg_pool2d(hr, 5, stride=1, padding=2, count_include_pad=False)


def test_grey_noise_of_a_control_lowers_psnr_to_the_target(smooth, hr):
    """Noise passes many metrics of detail, so a model is compared with it at equal PSNR."""
    target = 12.0  # dB: so much noise that some of it is clipped
    assert psnr_y(smooth, hr, BORDER) > target

    image = noisy(smooth, hr, target, BORDER, key="kodim01")

    assert psnr_y(image, hr, BORDER) == pytest.approx(target, abs=0.05)
    assert torch.equal(image * 255, (image * 255).round())  # as in a file of 8 bits
    not_clipped = ((image > 0) & (image < 1)).all(1)[0]
    noise = (image - smooth)[0, :, not_clipped]
    # Grey: equal in all channels, but for the rounding to a level.
    assert_near(noise, noise[:1].expand_as(noise), 1.01 / 255)


def test_noise_of_a_control_differs_between_images(smooth, hr):
    """It follows from the image's name, so it is the same in each measurement."""
    one = noisy(smooth, hr, target=24.0, border=BORDER, key="kodim01")
    other = noisy(smooth, hr, target=24.0, border=BORDER, key="kodim02")
    assert not torch.equal(one, other)


def test_an_image_whose_psnr_is_below_the_target_stays(smooth, hr):
    """Noise and sharpening would take it further from the target."""
    target = 60.0  # dB
    assert psnr_y(smooth, hr, BORDER) < target

    with_noise = noisy(smooth, hr, target, BORDER, key="kodim01")
    sharp = sharpened(smooth, hr, target, BORDER)

    assert torch.equal(with_noise, smooth)
    assert_near(sharp, smooth, 1 / 255)  # it is rounded to 8 bits


def test_sharpening_lowers_psnr_to_that_asked_for_and_raises_contrast(smooth, hr):
    """Sharpening passes many metrics of detail: a model is compared with it at equal PSNR."""
    target = 23.0  # dB
    assert psnr_y(smooth, hr, BORDER) > target

    image = sharpened(smooth, hr, target, BORDER)

    assert psnr_y(image, hr, BORDER) == pytest.approx(target, abs=0.05)
    assert image.std() > smooth.std()


def test_a_row_is_measured_beside_noise_and_sharpening_of_its_psnr(smooth, hr, tmp_path):
    row = noisy(hr, hr, 23.0, BORDER, key="row")
    lr = functional.avg_pool2d(hr, 4)
    for folder, part, image in (
        ("row", "sr", row),
        ("row", "hr", hr),
        ("row", "lr", lr),
        ("regression", "sr", smooth),
    ):
        (tmp_path / folder / part / "x4").mkdir(parents=True)
        save_image(image[0], tmp_path / folder / part / "x4/a.png")
    measure = Measure(scale=4)
    measure.metrics = [PSNR(border=BORDER)]

    found = measure.row(tmp_path / "row", "x4", {"regression": tmp_path / "regression"})

    assert found.keys() == {"row", "regression + noise", SHARPENED}
    for name in ("regression + noise", SHARPENED):
        assert found[name]["psnr"] == pytest.approx(found["row"]["psnr"], abs=0.05)
    assert found[SHARPENED]["swd_2"] != found["regression + noise"]["swd_2"]


@pytest.mark.parametrize(
    ("others", "expected"),
    [
        pytest.param([5.0, 5.0, 7.0, 7.0], HOLDS, id="each image is lower by 1 or 2"),
        pytest.param([1.0, 2.0, 3.0, 4.5], FAILS, id="each image is higher by 1.5 or 2"),
        pytest.param([2.0, 6.0, 2.0, 9.0], OPEN, id="two are lower and two higher"),
    ],
)
def test_a_difference_holds_fails_or_is_open(others, expected):
    """It is open if its 95 % interval contains 0. A lower NIQE is better, and a higher PSNR."""
    row = [3.0, 4.0, 5.0, 6.0]
    of_niqe = compare({"niqe": row}, {"niqe": others}, "niqe")
    of_psnr = compare({"psnr": others}, {"psnr": row}, "psnr")

    assert of_niqe.verdict == expected
    assert of_psnr.verdict == expected


def test_the_interval_of_a_difference_is_that_of_students_t():
    row = {"niqe": [3.0, 4.0, 5.0, 6.0]}

    difference = compare(row, {"niqe": [5.0, 5.0, 7.0, 7.0]}, "niqe")

    # The four differences are -2, -1, -2, -1: their mean is -1.5, their variance 1/3.
    quantile = 3.18245  # of Student's t with 4 - 1 degrees of freedom, at 97.5 %
    assert difference.value == pytest.approx(-1.5)
    assert difference.reach == pytest.approx(quantile * (1 / 3) ** 0.5 / 4**0.5, rel=1e-4)


def test_a_claim_has_the_verdict_of_its_worst_part():
    assert verdict([HOLDS, OPEN]) == OPEN
    assert verdict([OPEN, FAILS]) == FAILS
    assert verdict([HOLDS]) == HOLDS
    assert verdict([]) == OPEN


def test_jackknife_values_of_the_images_have_the_kid_of_their_sets_as_mean(tmp_path):
    """A distance of sets has no number for each image, which an interval needs.

    The jackknife gives image i of n the value n KID(all) - (n - 1) KID(all but i). As KID is
    unbiased, the mean of these is KID(all).
    """
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
    expected = metric.distance(of_sr, of_hr)
    assert np.mean(values["kid_thumb"]) == pytest.approx(expected, rel=0.02)  # files have 8 bits
    assert {len(of_metric) for of_metric in values.values()} == {8}


# That CasArbi at scale 4 has more detail than the regression and the controls, at equal PSNR.
MORE_DETAIL = Claim(text="more detail", row="casarbi", tables=("x4",))


def numbers(niqe, swd):
    """NIQE and SWD of eight images: these, and up to 0.14 more."""
    return {"niqe": [niqe + n / 50 for n in range(8)], "swd_2": [swd + n / 50 for n in range(8)]}


@pytest.mark.parametrize(
    ("row", "noise", "expected"),
    [
        (numbers(niqe=3, swd=0.3), numbers(niqe=9, swd=0.8), HOLDS),
        (numbers(niqe=9, swd=0.8), numbers(niqe=9, swd=0.8), FAILS),
        (numbers(niqe=3, swd=0.8), numbers(niqe=9, swd=0.3), FAILS),
    ],
    ids=["better than noise", "as noise is", "noise has a better SWD"],
)
def test_a_claim_of_detail_holds_only_if_the_row_beats_regression_and_noise(row, noise, expected):
    """Of both numbers, lower is better."""
    measured = {
        "casarbi": {"x4": {"row": row, "regression + noise": noise}},
        "regression": {"x4": {"row": numbers(niqe=7, swd=1)}},
    }

    judged = page.judged(MORE_DETAIL, PHOTOGRAPHS, measured)

    assert judged["verdict"] == expected
    assert len(judged["parts"]) == 4  # NIQE and SWD, against regression and noise


def test_a_claim_of_detail_is_not_judged_before_the_regression_is_measured():
    measured = {"casarbi": {"x4": {"row": numbers(niqe=3, swd=0.3)}}}
    judged = page.judged(MORE_DETAIL, PHOTOGRAPHS, measured)
    assert judged["verdict"] == page.UNKNOWN


@pytest.mark.parametrize("timestep", [0, 9])
def test_resshift_from_hr_with_a_network_that_knows_hr_gives_hr(hr, timestep):
    """It starts at HR with the noise of `timestep`, to show what the steps from there on can do.

    So what differs from HR in its result is to be the network's error alone, here none.
    """
    network = torch.nn.Module()
    process = ResidualShift(steps=15)
    model = ResShiftFromHR(timestep, scale=4, network=network, space=PixelSpace(), process=process)
    network.forward = lambda x, t, lr: model.space.encode(hr)
    batch = {"hr": hr, "lr": functional.avg_pool2d(hr, 4), "size": (96, 96)}

    restored = model.restore(batch, Noise(torch.tensor([1]), hr.device))

    assert_near(restored, hr, within=1e-5)


@pytest.mark.parametrize("name", TABLES)
def test_a_table_has_a_command_for_each_training_and_row_whose_files_exist(name):
    """Else a missing file would be noticed when its turn comes, after hours of training."""
    table = TABLES[name]

    commands = command._commands(table, table.wanted(only=[]))  # of all rows

    assert len(commands) == len(table.trainings) + len(table.rows)
    for words in commands:
        texts(words)  # reads the configurations among the words, or raises FileNotFoundError


def test_with_a_budget_of_0_no_command_is_run(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(command, "REPOSITORY", tmp_path)  # has no main.py: a command would fail
    monkeypatch.chdir(tmp_path)  # which the command leaves

    # InvSR is compared with bicubic and the regression, so these come before it.
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
def test_a_spent_budget_stops_a_command_which_may_write_a_checkpoint(tmp_path, monkeypatch):
    """By SIGTERM, not SIGKILL."""
    monkeypatch.setattr(command, "REPOSITORY", tmp_path)
    (tmp_path / "main.py").write_text(STOPPED)

    with pytest.raises(command.BudgetSpent):
        command._status(["fit"], tmp_path / "log", limit=0.5)

    assert (tmp_path / "log").read_text() == "a checkpoint\n"


@pytest.mark.slow
@pytest.mark.parametrize("name", TABLES)
def test_main_accepts_the_commands_of_a_table(name, accepted, capsys):
    """Each training, and a row of each set.

    A run that a command names is one of its own table: networks of another have other sizes.
    """
    table = TABLES[name]
    rows = {row.set: table.test_command(row) for row in table.rows}
    trainings = [table.training_command(training) for training in table.trainings]

    for words in [*trainings, *rows.values()]:
        if words[0] != "encode":  # which prints no configuration
            accepted(*words)
            runs = re.findall(r"\bruns/\w+", capsys.readouterr().out)
            assert set(runs) <= {str(table.runs)}, words
