"""The table shows what the degradation draws."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import yaml

from degradations.base import Stage
from degradations.compose import OneOf, Sometimes
from degradations.pipeline import Pipeline
from degradations.stages.noise import GaussianNoise
from degradations.tools import draws as tool


class Various(Stage):
    """Parameters of several kinds."""

    def draw(self, draws, shape):
        return {
            "size": draws.integers(3, 6),
            "matrix": np.zeros((len(draws.seeds()), 2)),
            "field_seeds": draws.seeds(),
            "shared": 4.0,
        }

    def forward(self, x, params):
        return x


def test_values_are_those_that_the_degradation_draws():
    degradation = Pipeline(2.0, [GaussianNoise((2.0, 3.0))])
    found = tool.drawn(degradation, 600, 32, seed=5)  # more than a chunk
    params = degradation.params_of(torch.arange(5, 605), torch.Size((600, 3, 32, 32)))
    assert list(found) == ["GaussianNoise / levels", "GaussianNoise / grey"]
    for name, values in found.items():
        drawn = params["GaussianNoise"][name.removeprefix("GaussianNoise / ")]
        np.testing.assert_array_equal(values, drawn)


def test_one_number_per_image():
    found = tool.drawn(Pipeline(2.0, [Various()]), 300, 32)
    assert list(found) == ["Various / size", "Various / shared"]
    assert set(found["Various / size"]) == {3, 4, 5}
    np.testing.assert_array_equal(found["Various / shared"], np.full(300, 4.0))


def test_choices_have_their_probabilities():
    noise = {"a": GaussianNoise(), "b": GaussianNoise()}
    stages = [Sometimes(GaussianNoise(), 0.25), OneOf(noise, (0.9, 0.1))]
    found = tool.drawn(Pipeline(2.0, stages), 2000, 32)
    assert found["Sometimes / applied"].mean() == pytest.approx(0.25, abs=0.04)
    assert found["OneOf / which"].mean() == pytest.approx(0.1, abs=0.03)
    assert "OneOf / a / levels" in found


def test_one_draw_a_batch_is_drawn_in_batches_of_one():
    class Faithful(Pipeline):
        faithful = True

        def draw(self, draws, shape):
            return super().draw(draws.shared(), shape)

    found = tool.drawn(Faithful(2.0, [GaussianNoise()]), 40, 32)
    assert len(set(found["GaussianNoise / levels"])) == 40


def test_table():
    values = {"a / b": np.arange(101.0), "c": np.full(101, 0.25)}
    assert [line.split() for line in tool.table(values).splitlines()] == [
        ["parameter", "mean", "min", "5%", "25%", "50%", "75%", "95%", "max"],
        ["a", "/", "b", "50", "0", "5", "25", "50", "75", "95", "100"],
        ["c", *["0.25"] * 8],
    ]


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    stage = {
        "class_path": "degradations.GaussianNoise",
        "init_args": {"sigma": [20, 20]},
    }
    content = {"class_path": "degradations.Pipeline", "init_args": {"stages": [stage]}}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(content))


def run(*arguments):
    return tool.main(["--config", "recipe.yaml", "--draws", "300", *arguments])


@pytest.mark.usefixtures("recipe")
def test_the_command_prints_the_table(caplog):
    with caplog.at_level("INFO"):
        assert run() == 0
    (line,) = [s for s in caplog.text.splitlines() if s.startswith("GaussianNoise / levels")]
    assert line.split()[3:] == ["20"] * 8


@pytest.mark.usefixtures("recipe")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config", "no.yaml"], "no.yaml cannot be read"),
        (["--scale", "0"], "scale is 0.0; expected a positive number"),
    ],
)
def test_errors(caplog, arguments, message):
    assert run(*arguments) == 2
    assert message in caplog.text
