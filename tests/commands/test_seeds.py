"""`--run.seeds`: a stochastic method evaluated once for each seed of its noise."""

from pathlib import Path

import pytest
import yaml

from callbacks.results.files import read_file
from tests.quick import quick


@pytest.fixture
def stochastic(tiny):
    """A configuration like `tiny.yaml`, with a stochastic method and noisy inputs."""
    config = yaml.safe_load(Path("tiny.yaml").read_text())
    config["model"] = {"class_path": "tests.commands.stochastic.Noisy"}
    stages = [{"class_path": "degradations.GaussianNoise"}]
    config["degradation"] = {"class_path": "degradations.Pipeline", "init_args": {"stages": stages}}
    config["trainer"]["callbacks"] = ["callbacks.PSNR", "tests.commands.stochastic.Input"]
    Path("noisy.yaml").write_text(yaml.safe_dump(config))
    return "noisy.yaml"


def images(run="noisy", metric="psnr"):
    """The values of images by seed and name."""
    by_seed = {}
    for row in read_file(Path("runs", run, "images.json")):
        if row.metric == metric:
            by_seed.setdefault(row.seed, {})[row.image] = row.value
    return by_seed


@pytest.mark.parametrize("verb", quick(["test", "validate"], "test"))
def test_each_seed_is_the_run_of_that_seed(stochastic, enlarger, verb):
    enlarger(f"{verb} --config {stochastic} --run.seeds 3 --seed_everything 5")
    together = images()
    assert list(together) == [5, 6, 7]
    for seed in (5, 7):
        enlarger(f"{verb} --config {stochastic} --seed_everything {seed} --run.name alone{seed}")
        assert images(f"alone{seed}") == {seed: together[seed]}
        # The noise of the method differs, not its inputs.
        assert images(f"alone{seed}", "input")[seed] == images(metric="input")[5]
    assert len({tuple(values.values()) for values in together.values()}) == 3


def test_a_method_that_draws_no_noise_is_evaluated_once(tiny, enlarger, caplog):
    enlarger("test --config tiny.yaml --model lightning_modules.Bicubic --run.seeds 4")
    messages = [r.getMessage() for r in caplog.records if r.name == "commands.table"]
    assert messages[0] == "seed 0 (1 of 4)"
    assert "Bicubic drew no noise" in messages[1]
    assert len(messages) == 2
    assert list(images("tiny")) == [None]
    (row,) = read_file(Path("runs/tiny/results.json"))
    assert row.seeds is None
    assert row.std is None
