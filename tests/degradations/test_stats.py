"""What is counted is what was drawn; what lies outside its range is found."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from skimage import data

from degradations import stats
from degradations.base import Stage
from degradations.compose import OneOf, Sometimes
from degradations.histogram import BLUE, bin_edges, histogram
from degradations.noise import GaussianNoise
from degradations.pipeline import Pipeline
from degradations.words import Bounds

NOISE = "degradations.noise.GaussianNoise"


class Wrong(Stage):
    """Draws from another range than it says."""

    def __init__(self, sigma=(0.0, 1.0)):
        super().__init__()
        self.sigma, self.size = sigma, (3, 5)

    def draw(self, draws, shape):
        return {
            "sigma": draws.uniform(0.0, 1.25),
            "size": draws.integers(3, 6),
            "secret": draws.uniform(),
            "matrix": np.zeros((len(draws.seeds()), 2)),
            "shared": 4.0,
        }

    def forward(self, x, params):
        return x


def of(*stages, draws=2000):
    found = stats.drawn(Pipeline(2.0, list(stages)), draws, 32)
    return {parameter.name: parameter for parameter in found}


def test_values_are_those_that_the_degradation_draws():
    degradation = Pipeline(2.0, [GaussianNoise((2.0, 3.0))])
    found = stats.drawn(degradation, 600, 32, seed=5)
    params = degradation.params_of(torch.arange(5, 605), torch.Size((600, 3, 32, 32)))
    levels = next(p for p in found if p.name == "GaussianNoise / levels")
    np.testing.assert_array_equal(levels.values, params["GaussianNoise"]["levels"])
    assert levels.bounds == Bounds(2.0, 3.0)
    assert levels.unit == "of 255"
    assert levels.outside() == 0.0


def test_what_is_outside_is_found():
    found = of(Wrong())
    assert found["Wrong / sigma"].outside() == pytest.approx(0.2, abs=0.03)
    assert found["Wrong / size"].outside() == 0.0
    assert found["Wrong / secret"].outside() is None
    assert "Wrong / matrix" not in found
    np.testing.assert_array_equal(found["Wrong / shared"].values, 4.0)


def test_only_some_values_are_allowed():
    parameter = stats.Parameter("x", "", np.array([0.0, 1.0, 2.0, 4.0]), Bounds(0, 4, (0, 2, 4)))
    assert parameter.outside() == 0.25


def test_choices_have_their_probabilities():
    noise = {"a": GaussianNoise(), "b": GaussianNoise()}
    found = of(Sometimes(GaussianNoise(), 0.25), OneOf(noise, (1.0, 0.0)))
    applied, which = found["Sometimes / applied"], found["OneOf / which"]
    assert applied.unit == "p 0.25"
    assert applied.values.mean() == pytest.approx(0.25, abs=0.04)
    assert which.bounds.values == (0,)
    assert which.outside() == 0.0


def test_one_draw_a_batch_is_drawn_in_batches_of_one():
    class Faithful(Pipeline):
        faithful = True

        def draw(self, draws, shape):
            return super().draw(draws.shared(), shape)

    found = stats.drawn(Faithful(2.0, [GaussianNoise()]), 40, 32)
    levels = next(p for p in found if p.name == "GaussianNoise / levels")
    assert len(set(levels.values)) == 40


def test_histogram_has_a_bar_where_values_are():
    parameter = stats.Parameter("x", "", np.repeat([0.0, 1.0], 50), Bounds(0.0, 1.0, (0, 1)))
    drawing = np.asarray(histogram([(parameter.values, BLUE)], parameter.bounds))
    blue = (drawing == BLUE).all(-1)
    half = drawing.shape[1] // 2
    assert blue[:, :half].sum() == pytest.approx(blue[:, half:].sum(), rel=0.05)
    assert blue[:, :half].sum() > 0


@pytest.mark.parametrize("values", [[3.0], [2, 2, 2], [0.5, 0.5], [1, 97], [-2.5, 1e6], [30, 95]])
def test_histograms_of_anything(values):
    parameter = stats.Parameter("x", "", np.array(values, np.float64), None)
    histogram([(parameter.values, BLUE)])
    edges = bin_edges(parameter.values)
    assert np.histogram(parameter.values, edges)[0].sum() == len(values)
    assert stats.table([parameter]).count("\n") == 1


# --------------------------------------------------------------------------------- the command


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with a recipe, photographs to degrade, and real ones: smooth, noise of 12 levels."""
    monkeypatch.chdir(tmp_path)
    recipe = {
        "class_path": "degradations.pipeline.Pipeline",
        "init_args": {"stages": [{"class_path": NOISE, "init_args": {"sigma": [20, 20]}}]},
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    for name in ("hr", "real"):
        (tmp_path / name).mkdir()
    Image.fromarray(data.astronaut()).save("hr/a.png")
    Image.fromarray(data.coffee()[:400, :400]).save("hr/b.png")
    rng = np.random.default_rng(0)
    for number in range(3):
        smooth = np.linspace(60, 190, 160)[:, None, None] + np.zeros((160, 160, 3))
        noisy = (smooth + 12 * rng.standard_normal(smooth.shape)).clip(0, 255)
        Image.fromarray(noisy.round().astype(np.uint8)).save(f"real/{number}.png")
    return tmp_path


def run(*arguments):
    return stats.main(["--config", "recipe.yaml", "--draws", "300", *map(str, arguments)])


def test_table_and_files(folder, caplog):
    with caplog.at_level("INFO"):
        assert run() == 0
    line = next(s for s in caplog.text.splitlines() if "GaussianNoise / levels (of 255)" in s)
    assert "20 .. 20" in line
    assert "0.00%" in line
    assert Image.open("stats.png").width > 1000
    html = (folder / "stats.html").read_text()
    assert "GaussianNoise / levels" in html
    assert "http" not in html


def test_status_1_when_something_is_outside(folder, monkeypatch):
    monkeypatch.setattr(stats, "bounds_of", lambda *_: Bounds(0.0, 1.0))
    assert run() == 1


def test_real_photographs_beside_degraded_ones(folder, caplog):
    options = ("--scale", "1", "--crop", "160", "--pictures", "5")
    with caplog.at_level("INFO"):
        assert run("--real", "real", "--hr", "hr", *options) == 0
    rows = [line.split() for line in caplog.text.splitlines() if line.startswith("noise (of 255)")]
    ours, real = ([float(cell) for cell in row[-6:]] for row in rows)
    assert ours[2] == pytest.approx(20.0, rel=0.1)  # the median
    assert real[2] == pytest.approx(12.0, rel=0.1)
    assert (ours[-1], real[-1]) == (5, 3)
    assert "Degraded and real photographs" in (folder / "stats.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--real", "real"], "--real and --hr go together"),
        (["--real", "real", "--hr", "none"], "none is no folder"),
        (["--real", "real", "--hr", "hr", "--crop", "4000"], "no picture of hr can be used: hr/"),
        (["--config", "no.yaml"], "no.yaml cannot be read"),
    ],
)
def test_errors(folder, caplog, arguments, message):
    assert run(*arguments) == 2
    assert message in caplog.text


@pytest.mark.parametrize("out", ["hr/a", "real/0.png"])
def test_photographs_are_never_overwritten(folder, caplog, out):
    before = {path: path.read_bytes() for path in folder.rglob("*.png")}
    assert run("--real", "real", "--hr", "hr", "--out", out) == 2
    assert "is read, and would be overwritten: give another --out" in caplog.text
    assert {path: path.read_bytes() for path in folder.rglob("*.png")} == before


def test_pictures_that_cannot_be_used_are_counted(folder, caplog):
    (folder / "hr" / "c.png").write_bytes(b"no picture")
    options = ("--scale", "2", "--crop", "320", "--pictures", "6")
    with caplog.at_level("INFO"):
        assert run("--real", "real", "--hr", "hr", *options) == 0
    assert "1 of 3 left out, such as: hr/c.png cannot be read as a picture" in caplog.text
