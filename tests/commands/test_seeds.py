"""`--run.seeds`: a stochastic method evaluated once for each seed of its noise."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from callbacks.results.files import read_file
from callbacks.results.rows import Row
from tests.quick import quick

Enlarger = Callable[..., None]
NOISY = "tests.commands.stochastic.Noisy"


@pytest.fixture
def stochastic(tiny: Path) -> str:
    """Return a configuration like `tiny.yaml`, with a stochastic method and noisy inputs."""
    config = yaml.safe_load((tiny / "tiny.yaml").read_text())
    config["model"] = {"class_path": NOISY}
    noise = {"class_path": "degradations.GaussianNoise"}
    recipe = {"class_path": "degradations.Pipeline", "init_args": {"stages": [noise]}}
    config["degradation"] = recipe
    config["trainer"]["callbacks"] = [
        "callbacks.PSNR",
        "tests.commands.stochastic.Input",
    ]
    (tiny / "noisy.yaml").write_text(yaml.safe_dump(config))
    return "noisy.yaml"


def results(run: str = "noisy") -> dict[str, Row]:
    return {row.metric: row for row in read_file(Path("runs", run, "results.json"))}


def images(run: str = "noisy", metric: str = "psnr") -> dict[int | None, dict[str, float]]:
    by_seed: dict[int | None, dict[str, float]] = {}
    for row in read_file(Path("runs", run, "images.json")):
        if row.metric == metric:
            by_seed.setdefault(row.seed, {})[str(row.image)] = row.value
    return by_seed


@pytest.mark.parametrize("verb", quick(["test", "validate"], "test"))
def test_each_seed_is_the_run_of_that_seed(stochastic: str, enlarger: Enlarger, verb: str) -> None:
    enlarger(verb, "--config", stochastic, "--run.seeds", 3, "--seed_everything", 5)
    together = images()
    assert list(together) == [5, 6, 7]
    for seed in (5, 7):
        name = f"alone_{seed}"
        enlarger(verb, "--config", stochastic, "--seed_everything", seed, "--run.name", name)
        assert images(name) == {seed: together[seed]}
        # The noise of the method differs, not its inputs.
        assert list(images(name, "input").values()) == [images(metric="input")[5]]
    assert len({value for values in together.values() for value in values.values()}) == 6


def test_mean_and_deviation(stochastic: str, enlarger: Enlarger, capsys: Any) -> None:
    enlarger("test", "--config", stochastic, "--run.seeds", 3)
    each = [statistics.fmean(values.values()) for values in images().values()]
    psnr = results()["psnr"]
    assert psnr.seeds == [0, 1, 2]
    assert psnr.value == pytest.approx(statistics.fmean(each), rel=1e-12)
    assert psnr.std == pytest.approx(statistics.stdev(each), rel=1e-9)
    assert psnr.std > 0
    assert results()["input"].std == 0
    assert f"{psnr.value:.4f} ± {psnr.std:.4f}" in capsys.readouterr().out


def test_without_noise_once_is_enough(
    tiny: Path, enlarger: Enlarger, caplog: pytest.LogCaptureFixture
) -> None:
    model = ("--model", "lightning_modules.Bicubic")
    enlarger("test", "--config", "tiny.yaml", *model, "--run.seeds", 4)
    got = [r.getMessage() for r in caplog.records if r.name == "commands.table"]
    assert got[0] == "seed 0 (1 of 4)"
    assert got[1:] == [
        "run.seeds is 4, but Bicubic drew no noise: all seeds give the same result, so it was "
        "evaluated once"
    ]
    assert list(images("tiny")) == [None]
    psnr = results("tiny")["psnr"]
    assert (psnr.seeds, psnr.std) == (None, None)
