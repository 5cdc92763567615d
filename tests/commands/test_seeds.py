"""`--run.seeds`: a stochastic method evaluated once for each seed of its noise."""

from pathlib import Path

import pytest
from torch.nn import functional

from callbacks.metrics.base import ImageMetric
from callbacks.results.files import read_file
from lightning_modules.base import SuperResolver
from tests.quick import quick


class Noisy(SuperResolver):
    """Return the enlarged input plus noise."""

    def training_step(self, batch, batch_idx):
        raise NotImplementedError

    def restore(self, batch, noise):
        sr = functional.interpolate(batch["lr"], batch["size"], mode="nearest")
        return sr + 0.1 * noise.normal(sr.shape)


class Input(ImageMetric):
    """The mean of the input."""

    name = "input"

    def protocol(self):
        return {"implementation": "test"}

    def compute(self, sr, hr, batch):
        return batch["lr"].mean((1, 2, 3))


NOISY = f"""--config tiny.yaml --run.name noisy --model {__name__}.Noisy
    --degradation degradations.Pipeline
    --degradation.stages '[{{class_path: degradations.GaussianNoise}}]'
    --trainer.callbacks [callbacks.PSNR,{__name__}.Input]"""


def images(run, metric):
    """The values of images by seed and name: {5: {"photos/3": 20.1, ...}, ...}."""
    by_seed = {}
    for row in read_file(Path("runs", run, "images.json")):
        if row.metric == metric:
            by_seed.setdefault(row.seed, {})[row.image] = row.value
    return by_seed


@pytest.mark.parametrize("verb", quick(["test", "validate"], "test"))
def test_each_of_several_seeds_gives_the_values_of_a_run_with_that_seed_alone(tiny, enlarger, verb):
    """The seeds differ in the method's noise, not in its inputs, which are noisy, too."""
    enlarger(f"{verb} {NOISY} --run.seeds 3 --seed_everything 5")
    psnr = images(run="noisy", metric="psnr")
    inputs = images(run="noisy", metric="input")
    assert list(psnr) == [5, 6, 7]
    assert psnr[5] != psnr[6]
    assert psnr[7] not in (psnr[5], psnr[6])
    for seed in (5, 7):
        enlarger(f"{verb} {NOISY} --seed_everything {seed} --run.name alone{seed}")
        assert images(run=f"alone{seed}", metric="psnr") == {seed: psnr[seed]}
        assert images(run=f"alone{seed}", metric="input") == {seed: inputs[5]}


def test_a_method_that_draws_no_noise_is_evaluated_once(tiny, enlarger, caplog):
    enlarger("test --config tiny.yaml --model lightning_modules.Bicubic --run.seeds 4")
    messages = [r.getMessage() for r in caplog.records if r.name == "commands.table"]
    assert messages[0] == "seed 0 (1 of 4)"
    assert "Bicubic drew no noise" in messages[1]
    assert len(messages) == 2
    assert list(images(run="tiny", metric="psnr")) == [None]  # no seed is written
    (row,) = read_file(Path("runs/tiny/results.json"))
    assert row.seeds is None
    assert row.std is None
